"""BatchNorm's statistics, taken anew from what a pruned model gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunus.recovering.comparing import buffers_restored


def statistics(model: nn.Module) -> list[str]:
    """Return the names of the buffers that hold BatchNorm's running statistics."""
    return [
        f"{name}.{key}".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
        for key in ("running_mean", "running_var")
    ]


def estimate(model: nn.Module, run: Callable[[nn.Module], None]) -> dict[str, Tensor]:
    """Return BatchNorm's running statistics as the averages over all batches, by the names of the buffers.

    The model is left as it was. Layers without running statistics have none.

    Args:
        model: the model.
        run: calls a model on all batches.

    Raises:
        ValueError: a batch has one value for a channel only.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    before = [(module, module.momentum, module.training) for module in norms]
    try:
        with torch.no_grad(), buffers_restored(model):
            for module in norms:
                module.reset_running_stats()
                module.momentum = None  # cumulative averages
                module.train()
            run(model)
            buffers = dict(model.named_buffers())
            return {name: buffers[name].clone() for name in statistics(model)}
    finally:
        for module, momentum, training in before:
            module.momentum, module.training = momentum, training
