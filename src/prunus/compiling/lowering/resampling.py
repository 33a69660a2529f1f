"""Interpolation: each output is a sum of a few inputs along one dimension, then along the other."""

from __future__ import annotations

import numpy
import torch

from prunus.compiling.lowering.elementwise import combined
from prunus.compiling.lowering.reader import Activation, Call, Reader, moved, rule
from prunus.compiling.net import Numbers
from prunus.graph.calls import run

# Sums of more inputs than these, as of shrinking by a large factor with a filter, are not made.
_MOST_TAPS = 8


@rule("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
      "_upsample_bicubic2d_aa")  # fmt: skip
def resample(reader: Reader, call: Call) -> Activation:
    """Interpolate along height and width, with the weights that PyTorch has for them."""
    name = "input" if "input" in call.arguments else "self"
    source = call[name]
    if not isinstance(source, Activation):
        raise call.refuse(f"its {name} is a constant, while another argument depends on the inputs")
    for dim in range(2, source.index.ndim):
        source = _weighted(reader, call, source, dim, _weights(call, name, source.index.shape, dim))
    return source


def _weights(call: Call, name: str, shape: torch.Size, dim: int) -> Numbers:
    """Return (outputs, inputs) along a dimension: what becomes of inputs of which one is 1 and all others are 0."""
    count = shape[dim]
    others = [2 if other != dim else count for other in range(2, len(shape))]  # of 1, rows could be taken for channels
    sides = [1 if other != dim else count for other in range(2, len(shape))]
    lines = torch.eye(count, dtype=torch.float64).reshape(1, count, *sides)
    try:
        made = run(call.node.target, {**call.arguments, name: lines.expand(1, count, *others).contiguous()})
    except RuntimeError:  # a factor below 1/2 leaves nothing of a size of 2
        made = run(call.node.target, {**call.arguments, name: lines.expand(1, count, *shape[2:]).contiguous()})
    weights: Numbers = made.movedim(dim, 2).reshape(count, made.shape[dim], -1)[:, :, 0].T.numpy()
    return weights


def _weighted(reader: Reader, call: Call, source: Activation, dim: int, weights: Numbers) -> Activation:
    taps = int(numpy.count_nonzero(weights, axis=1).max())
    if taps > _MOST_TAPS:
        raise call.refuse(f"each of its outputs is a sum of {taps} inputs, more than {_MOST_TAPS}")
    order = numpy.argsort(weights == 0, axis=1, kind="stable")[:, :taps]  # the inputs of each output; then others
    factors = numpy.take_along_axis(weights, order, 1)
    total: Activation | None = None
    for tap in range(taps):
        part = moved(source, source.index.index_select(dim, torch.from_numpy(order[:, tap].copy())))
        shape = tuple(part.index.shape[1:])
        factor = factors[:, tap].reshape([-1 if d == dim else 1 for d in range(1, part.index.ndim)])
        if not bool((factor == 1).all()):
            part = combined(reader, call, "mul", part, numpy.broadcast_to(factor, shape))
        total = part if total is None else combined(reader, call, "add", total, part)
    assert total is not None
    return total
