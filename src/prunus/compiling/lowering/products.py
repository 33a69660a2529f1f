"""Products with constant weights: convolutions, and linear layers as those of 1x1."""

from __future__ import annotations

from typing import Any

import numpy
from torch import Tensor

from prunus.compiling.lowering.arguments import activation_of, bias_of, numbers_of, pair, with_height
from prunus.compiling.lowering.moves import padded
from prunus.compiling.lowering.reader import Activation, Call, Reader, moved, rule
from prunus.compiling.net import View
from prunus.compiling.operations import Contract


@rule("conv1d", "conv2d", "convolution")
def convolution(reader: Reader, call: Call) -> Activation:
    """Convolve: one dimension is a row."""
    weight: Any = call["weight"]
    source = activation_of(call, "input")
    dims = source.index.ndim - 2
    if isinstance(weight, Activation) or call.get("transposed") or dims not in (1, 2) or source.index.ndim < 3:
        raise call.refuse("only convolutions in one or two dimensions, not transposed, with constant weights")
    kernel = tuple(weight.shape[2:])
    dilation = pair(call["dilation"], dims)
    padding, before = _padding(call, kernel, dilation, dims)
    kernels = numbers_of(weight) if dims == 2 else numbers_of(weight)[:, :, None]
    view = with_height(reader.view(call, source))
    view = _padded_unevenly(reader, call, view, before)
    stride = pair(call["stride"], dims)
    grid = tuple(
        (side + 2 * pad - gap * (size - 1) - 1) // step + 1
        for side, pad, gap, size, step in zip(
            view.index.shape[1:], padding, dilation, kernels.shape[2:], stride, strict=True
        )
    )
    operation = Contract(
        reader.title(call),
        reader.next_value(),
        (len(kernels), *grid),
        view,
        kernels,
        bias_of(call["bias"], len(kernels)),
        grid,
        stride,
        padding,
        dilation,
        call["groups"],
    )
    result = reader.make(operation)
    return result if dims == 2 else moved(result, result.index.squeeze(2))


def _padding(
    call: Call, kernel: tuple[int, ...], dilation: tuple[int, int], dims: int
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Return what is padded on both sides, and (top, bottom, left, right) beyond that: ``same`` may be uneven."""
    padding = call["padding"]
    if padding == "valid":
        return (0, 0), (0, 0, 0, 0)
    if padding != "same":
        return pair(padding, dims, fill=0), (0, 0, 0, 0)
    totals = [gap * (size - 1) for gap, size in zip(dilation[2 - dims :], kernel, strict=True)]
    even = pair([total // 2 for total in totals], dims, fill=0)
    odd = pair([total % 2 for total in totals], dims, fill=0)
    return even, (0, odd[0], 0, odd[1])


def _padded_unevenly(reader: Reader, call: Call, view: View, sides: tuple[int, int, int, int]) -> View:
    if not any(sides):
        return view
    around = padded(reader, call, view, [sides[2], sides[3], sides[0], sides[1]], 0.0)
    return reader.view(call, around)


@rule("linear")
def linear(reader: Reader, call: Call) -> Activation:
    """Multiply the last dimension by a matrix: a convolution of 1x1 whose channels are that dimension."""
    return _linear(reader, call)


def _linear(reader: Reader, call: Call) -> Activation:
    weight: Any = call["weight"]
    source = activation_of(call, "input")
    if isinstance(weight, Activation):
        raise call.refuse("its weight depends on the input; only constant weights can be compiled")
    view = reader.view(call, source)
    *before, width = view.index.shape
    flat = view.index.reshape(-1, width)
    kernels = numbers_of(weight)
    operation = Contract(
        reader.title(call),
        reader.next_value(),
        (len(kernels), 1, len(flat)),
        View(view.value, flat.T[:, None, :]),
        kernels[:, :, None, None],
        bias_of(call["bias"], len(kernels)),
        (1, len(flat)),
        kind="linear",
    )
    index = numpy.arange(len(kernels) * len(flat), dtype=numpy.int64).reshape(len(kernels), len(flat))
    return reader.make(operation, index.T.reshape(*before, len(kernels)))


@rule("addmm", "mm", "matmul")
def matrix_product(reader: Reader, call: Call) -> Activation:
    """Multiply by a constant matrix; a product of two activations is refused."""
    first, second = (call["mat1"], call["mat2"]) if call.name == "addmm" else _two(call)
    if not isinstance(first, Activation) or not isinstance(second, Tensor) or second.ndim != 2:
        raise call.refuse(
            "it is no product of an activation with a constant matrix; attention multiplies two activations, which "
            "prunus.compile doesn't do"
        )
    bias = call["self"] if call.name == "addmm" else None
    if bias is not None and (not isinstance(bias, Tensor) or call["alpha"] != 1 or call["beta"] != 1):
        raise call.refuse("only with a constant bias and without factors")
    return _linear(reader, Call(call.node, {"input": first, "weight": second.T, "bias": bias}))


def _two(call: Call) -> tuple[Any, Any]:
    first, second = list(call.arguments.values())[:2]
    return first, second
