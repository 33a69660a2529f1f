"""Transposed convolutions, as ordinary ones of parts of the kernel whose outputs are interleaved.

With a stride s, outputs at positions of the same remainder by s read the same weights: every s-th of the kernel. So
each remainder of rows and columns is a convolution of stride 1, and no zeros are put between the inputs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy
from torch import Tensor

from prunus.compiling.lowering.arguments import activation_of, bias_of, numbers_of, pair, with_height
from prunus.compiling.lowering.reader import Activation, Call, Reader, moved, rule
from prunus.compiling.net import Indices, Numbers, View, whole
from prunus.compiling.operations import Contract, Join


@dataclass(frozen=True)
class _Part:
    """Along one dimension, the outputs `remainder`, `remainder` + stride, and so on.

    Attributes:
        remainder: of the outputs' positions by the stride.
        count: how many outputs there are.
        taps: which of the kernel's elements they read, in the order of the inputs that these are multiplied with.
        gap: inputs from one of them to the next.
        first: which input the first output reads with the first of them; negative before the first input.
    """

    remainder: int
    count: int
    taps: tuple[int, ...]
    gap: int
    first: int


def _parts(size: int, kernel: int, stride: int, padding: int, dilation: int) -> list[_Part]:
    """Return the parts of one dimension with so many outputs.

    Output o takes, of each kernel element k for which o + padding - k * dilation is a multiple of the stride, the input
    at that multiple.
    """
    parts = []
    for remainder in range(min(stride, size)):
        reach = {k: remainder + padding - k * dilation for k in range(kernel)}
        inputs = {k: distance // stride for k, distance in reach.items() if distance % stride == 0}
        taps = sorted(inputs, key=lambda k: inputs[k])
        gap = inputs[taps[1]] - inputs[taps[0]] if len(taps) > 1 else 1
        count = -(-(size - remainder) // stride)
        parts.append(_Part(remainder, count, tuple(taps), gap, inputs[taps[0]] if taps else 0))
    return parts


@rule("conv_transpose1d", "conv_transpose2d")
def transposed_convolution(reader: Reader, call: Call) -> Activation:
    """Convolve transposed: one dimension is a row."""
    weight: Any = call["weight"]
    source = activation_of(call, "input")
    dims = source.index.ndim - 2
    if not isinstance(weight, Tensor) or dims not in (1, 2):
        raise call.refuse("only transposed convolutions with constant weights and a batch")
    kernels = numbers_of(weight) if dims == 2 else numbers_of(weight)[:, :, None]
    groups = call["groups"]
    kernels = _by_outputs(kernels, groups)
    bias = bias_of(call["bias"], len(kernels))
    view = with_height(reader.view(call, source))
    stride, dilation = pair(call["stride"], dims), pair(call["dilation"], dims)
    padding, more = pair(call["padding"], dims, fill=0), pair(call["output_padding"], dims, fill=0)
    height, width = (
        (side - 1) * step - 2 * pad + gap * (size - 1) + extra + 1
        for side, step, pad, gap, size, extra in zip(
            view.index.shape[1:], stride, padding, dilation, kernels.shape[2:], more, strict=True
        )
    )
    rows = _parts(height, kernels.shape[2], stride[0], padding[0], dilation[0])
    columns = _parts(width, kernels.shape[3], stride[1], padding[1], dilation[1])
    box = (len(kernels), height, width)
    target = whole(0, box).index
    pieces = tuple(
        (
            _part(reader, call, view, kernels, bias, groups, row, column),
            target[:, row.remainder :: stride[0], column.remainder :: stride[1]],
        )
        for row, column in itertools.product(rows, columns)
    )
    if len(pieces) == 1 and isinstance(pieces[0][0], View):
        result = reader.activation(pieces[0][0])
    else:
        result = reader.make(Join(reader.title(call), reader.next_value(), box, pieces))
    return result if dims == 2 else moved(result, result.index.squeeze(2))


def _by_outputs(kernels: Numbers, groups: int) -> Numbers:
    """Return kernels (inputs, outputs / groups, ...) as (outputs, inputs / groups, ...)."""
    inputs, outputs, *sides = kernels.shape
    grouped = kernels.reshape(groups, inputs // groups, outputs, *sides)
    return grouped.swapaxes(1, 2).reshape(groups * outputs, inputs // groups, *sides)


def _part(
    reader: Reader, call: Call, view: View, kernels: Numbers, bias: Numbers, groups: int, row: _Part, column: _Part
) -> View | Numbers:
    """Return the outputs of one part of the rows and one of the columns: those without weights are the bias."""
    index, around, skipped = view.index, [], []
    for dim, part in enumerate((row, column), start=1):
        index, padding, skip = _reach(index, dim, part)
        around.append(padding)
        skipped.append(skip)
    if not row.taps or not column.taps or index.size == 0:
        return numpy.broadcast_to(bias[:, None, None], (len(bias), row.count, column.count))
    grid = tuple(
        side + 2 * pad - part.gap * (len(part.taps) - 1)
        for side, pad, part in zip(index.shape[1:], around, (row, column), strict=True)
    )
    operation = Contract(
        reader.title(call),
        reader.next_value(),
        (len(kernels), *grid),
        View(view.value, index),
        kernels[:, :, row.taps][:, :, :, column.taps],
        bias,
        (grid[0], grid[1]),
        padding=(around[0], around[1]),
        dilation=(row.gap, column.gap),
        groups=groups,
    )
    reader.make(operation)
    outputs = whole(operation.output, operation.box).index
    top, left = skipped
    return View(operation.output, outputs[:, top : top + row.count, left : left + column.count])


def _reach(index: Indices, dim: int, part: _Part) -> tuple[Indices, int, int]:
    """Return the inputs that a part reads along a dimension, the zeros on both sides, and the outputs to be skipped."""
    side = index.shape[dim]
    last = part.first + part.count - 1 + part.gap * (len(part.taps) - 1)
    start, stop = max(part.first, 0), min(last + 1, side)
    before, after = start - part.first, last + 1 - stop
    padding = max(before, after)
    return index.take(range(start, max(stop, start)), dim), padding, padding - before
