"""How far the outputs of a model are from the dense model's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prunus.proving.verification import relative_error, tensors
from prunus.recovering.batches import Samples


def output_error(model: nn.Module, dense: nn.Module, samples: Samples) -> float:
    """Return the squared error of the outputs on held-out batches, relative to the variance of the dense model's.

    Both models are in eval mode; what a forward writes into its buffers is put back.

    Raises:
        ValueError: no output is floating point.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), buffers_restored(model), buffers_restored(dense):
        for batch in samples.held_out:
            runs = []
            for own in (model, dense):
                args, kwargs = samples.call(batch)
                runs.append(tensors(own(*args, **kwargs)))
            pairs += [pair for pair in zip(*runs, strict=True) if pair[1].is_floating_point()]
    if not pairs:
        raise ValueError("the model's outputs hold no floating-point numbers, of which errors could be measured")
    return relative_error(pairs)


@contextlib.contextmanager
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Put back what a forward writes into the buffers of a model."""
    before = [
        (
            module,
            dict(module._buffers),
            {name: value.clone() for name, value in module._buffers.items() if value is not None},
        )
        for module in model.modules()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, buffers, values in before:
                for name in module._buffers.keys() - buffers.keys():
                    del module._buffers[name]
                module._buffers.update(buffers)
                for name, value in values.items():
                    buffers[name].copy_(value)  # type: ignore[union-attr]
