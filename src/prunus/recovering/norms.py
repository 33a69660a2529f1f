"""BatchNorm's statistics, taken anew from what a pruned model gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def estimate(model: nn.Module, run: Callable[[nn.Module], None]) -> dict[str, Tensor]:
    """Return BatchNorm's running statistics as the averages over all batches, by the names of the buffers.

    The model is left as it was. Layers without running statistics have none.

    Args:
        model: the model.
        run: calls a model on all batches.
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    before = {
        name: (
            module.momentum,
            module.training,
            {key: value.clone() for key, value in module._buffers.items() if value is not None},
        )
        for name, module in norms.items()
    }
    try:
        for module in norms.values():
            module.reset_running_stats()
            module.momentum = None  # cumulative averages
            module.train()
        with torch.no_grad():
            run(model)
        return {
            f"{name}.{key}".lstrip("."): getattr(module, key).clone()
            for name, module in norms.items()
            for key in ("running_mean", "running_var")
        }
    finally:
        for name, module in norms.items():
            module.momentum, module.training, buffers = before[name]
            for key, value in buffers.items():
                getattr(module, key).copy_(value)
