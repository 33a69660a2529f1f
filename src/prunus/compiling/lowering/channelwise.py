"""Operations of 8 bits that compute each channel by itself, from those in floating point between two grids."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from prunus.compiling.lowering.picks import in_words
from prunus.compiling.net import Box, Numbers, Operation, View, Windows, is_whole
from prunus.compiling.operations import (
    Dequantize,
    Elementwise,
    Pool,
    Quantize,
    QuantizedDepthwise,
    QuantizedFunction,
    QuantizedMean,
    QuantizedProduct,
    Reduce,
    UnitContract,
)
from prunus.compiling.operations.quantized import CHANNELS, LARGEST, words_of


def is_depthwise(contract: UnitContract) -> bool:
    """Tell whether each output is made of its own channel alone."""
    return contract.groups == len(contract.weight) == len(contract.source.index) > 1


def depthwise(
    contract: UnitContract, source: View, read: Dequantize, end: Quantize, cut: tuple[int, int] | None
) -> QuantizedDepthwise:
    """Return a depthwise convolution of words.

    Args:
        contract: the same in floating point, its activation being one that kernels know.
        source: the words that it reads.
        read: what they stand for.
        end: what its outputs become.
        cut: the least and largest whole number of an output, if the activation only cuts off.
    """
    low, high = (0, LARGEST) if cut is None else cut
    extra = -len(contract.weight) % CHANNELS
    units = contract.units * read.scale
    weight = numpy.rint(contract.weight / contract.units[:, None, None, None])
    bias = numpy.rint(contract.bias / units) - read.zero * weight.reshape(len(weight), -1).sum(1)
    words = words_of(len(weight))
    return QuantizedDepthwise(
        contract.name,
        end.output,
        (words, *contract.grid),
        source,
        _by_channel(weight),
        numpy.pad(bias, (0, extra)),
        contract.grid,
        contract.stride,
        contract.padding,
        contract.dilation,
        words,
        contract.activation if cut is None else None,
        kind=contract.kind,
        units=numpy.pad(units, (0, extra), constant_values=1.0),
        scale=end.scale,
        zero=end.zero,
        low=low,
        high=high,
    )


def _by_channel(weight: Numbers) -> Numbers:
    """Return weights of (channels, 1, height, width) in words of four channels each: (words, 1, height, width)."""
    return in_words(weight.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)


def mean(operation: Operation, end: Quantize, source: Dequantize) -> QuantizedMean | None:
    """Return a mean over planes in 8 bits; nothing where an operation is none.

    Args:
        operation: in floating point.
        end: what its results become.
        source: what makes the value that it reads.
    """
    channels, height, width = source.box
    if not _is_mean(operation, source.box) or (operation.box, end.box) != (
        (channels, 1, 1),
        (words_of(channels), 1, 1),
    ):
        return None
    grids = source.scale, source.zero, end.scale, end.zero
    return QuantizedMean(operation.name, end.output, end.box, source.source, *grids) if height * width > 1 else None


def _is_mean(operation: Operation, box: Box) -> bool:
    channels, *sides = box
    if isinstance(operation, Reduce):
        rows = operation.source.index.shape == (channels, math.prod(sides))
        return operation.function == "mean" and rows and is_whole(operation.source, box)
    if not isinstance(operation, Pool) or operation.function != "avg" or not is_whole(operation.source, box):
        return False
    return operation.source.index.shape == box and all(
        windows == Windows((0,), (side,), 1, (side,))
        for windows, side in zip((operation.rows, operation.columns), sides, strict=True)
    )


def product(operation: Elementwise, end: Quantize, makers: Mapping[int, Dequantize | None]) -> QuantizedProduct | None:
    """Return planes times a factor of each channel in 8 bits; nothing where an operation is no such product.

    Args:
        operation: in floating point.
        end: what its results become.
        makers: what makes the values that it reads, by their numbers, if that is words.
    """
    function, first, second = operation.combined or ("", None, None)
    if function != "mul" or not isinstance(first, View) or not isinstance(second, View):
        return None
    for planes, factors in ((first, second), (second, first)):
        source = makers.get(planes.value)
        of_channels = factors.index[:, :1, :1]
        if (
            source is None
            or source.box != operation.box
            or not is_whole(planes, source.box)
            or end.source.index.shape != operation.box
            or not bool((factors.index == of_channels).all())
        ):
            continue
        grids = source.scale, source.zero, end.scale, end.zero
        factors = View(factors.value, of_channels)
        return QuantizedProduct(operation.name, end.output, end.box, source.source, *grids, factors)
    return None


def function(operation: Elementwise, end: Quantize, source: Dequantize) -> QuantizedFunction | None:
    """Return a function of each element as a table; nothing where it is one of several values.

    Args:
        operation: in floating point.
        end: what its results become.
        source: what makes the first value that it reads.
    """
    fits = end.source.index.shape == operation.box == source.box
    if not fits or any(view.value != source.output or not is_whole(view, source.box) for view in operation.views):
        return None
    whole = numpy.arange(LARGEST + 1, dtype=numpy.float32) - numpy.float32(source.zero)
    numbers = (whole * numpy.float32(source.scale)).astype(numpy.float64)
    results = applied(operation, numbers)
    if results is None:
        return None
    real = results.astype(numpy.float32) * numpy.float32(1 / end.scale)
    table = numpy.clip(numpy.rint(numpy.nan_to_num(real, nan=-numpy.inf)) + end.zero, 0, LARGEST)
    grids = source.scale, source.zero, end.scale, end.zero
    return QuantizedFunction(operation.name, end.output, end.box, source.source, *grids, table.astype(numpy.float64))


def applied(operation: Elementwise, numbers: Numbers) -> Numbers | None:
    """Return what functions of one value come to, in float64; nothing where constants differ between elements."""
    values: list[Numbers] = []
    for source in operation.sources:
        if isinstance(source, View):
            values.append(numbers)
        elif bool((source == source.flat[0]).all()):
            values.append(numpy.full_like(numbers, source.flat[0]))
        else:
            return None
    with numpy.errstate(all="ignore"):
        for step in operation.steps:
            operands = (torch.from_numpy(values[operand]) for operand in step.operands)
            values.append(TABLE_FUNCTIONS[step.function](*operands, *step.constants).numpy())
    return values[-1]


# The functions of `kernels.numbers` in PyTorch's words.
TABLE_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "clamp": torch.clamp,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "mish": functional.mish,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "elu": functional.elu,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "softplus": functional.softplus,
    "neg": torch.neg,
    "abs": torch.abs,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
}
