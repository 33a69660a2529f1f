"""A net in 8 bits computed slowly, one operation after the other, on arrays: what programs must equal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy
import torch

from prunus.compiling.net import Net, Operation, Pointwise, View
from prunus.compiling.operations import (
    Dequantize,
    Join,
    Pool,
    Quantize,
    QuantizedContract,
    QuantizedDepthwise,
    QuantizedFunction,
    QuantizedMean,
    QuantizedProduct,
    Reduce,
    Regroup,
)

FLOAT = numpy.float32
_FROM_WORDS = (QuantizedMean, QuantizedProduct, QuantizedFunction)


def computed(net: Net, inputs: Mapping[str, numpy.ndarray]) -> list[numpy.ndarray]:
    """Return a net's outputs for a batch; values of words are arrays of (batch, words, height, width, 4)."""
    values: dict[int, numpy.ndarray] = {}
    zeros: dict[int, int] = {}
    for name, (number, shape) in net.inputs.items():
        values[number] = inputs[name].reshape(len(inputs[name]), *net.boxes[number])
        assert values[number][0].size == int(numpy.prod(shape))
    for operation in net.operations:
        if isinstance(operation, (Quantize, QuantizedContract, *_FROM_WORDS)):
            zeros[operation.output] = operation.zero
        elif operation.views:
            zeros[operation.output] = zeros.get(operation.views[0].value, 0)
        if isinstance(operation, QuantizedContract):
            values[operation.output] = _contracted(operation, values, zeros[operation.source.value])
        else:
            values[operation.output] = _one(operation, values)
        assert values[operation.output].shape[1:4] == operation.box
    return [_read(view, values) for view in net.outputs]


def _read(view: View, values: Mapping[int, numpy.ndarray]) -> numpy.ndarray:
    value = values[view.value]
    words = value.shape[4:]
    return value.reshape(len(value), -1, *words)[:, view.index]


def _one(operation: Operation, values: Mapping[int, numpy.ndarray]) -> numpy.ndarray:
    if isinstance(operation, Quantize):
        return _quantized(_read(operation.source, values), operation)
    if isinstance(operation, Dequantize):
        words = _read(operation.source, values).astype(numpy.int64)
        reals = (words - operation.zero).astype(FLOAT) * FLOAT(operation.scale)
        channels = reals.transpose(0, 1, 4, 2, 3).reshape(len(reals), -1, *operation.box[1:])
        return channels[:, : operation.box[0]]
    if isinstance(operation, Pool) and operation.function in ("max", "max_bytes"):
        source = _read(operation.source, values)
        rows = [source[:, :, a : b : operation.rows.step].max(2) for a, b in operation.rows.pairs]
        source = numpy.stack(rows, axis=2)
        columns = [source[:, :, :, a : b : operation.columns.step].max(3) for a, b in operation.columns.pairs]
        return numpy.stack(columns, axis=3)
    if isinstance(operation, Reduce):
        source = _read(operation.source, values).astype(numpy.float64)
        function = {"mean": numpy.mean, "sum": numpy.sum, "amax": numpy.max, "amin": numpy.min}[operation.function]
        return function(source, axis=-1).astype(FLOAT).reshape(len(source), *operation.box)
    if isinstance(operation, QuantizedFunction):
        return operation.table.astype(numpy.uint8)[_read(operation.source, values)]
    if isinstance(operation, (QuantizedMean, QuantizedProduct)):
        whole = _read(operation.source, values).astype(numpy.int64) - operation.source_zero
        if isinstance(operation, QuantizedMean):
            reals = whole.sum((2, 3), keepdims=True).astype(FLOAT) * operation.factor
        else:
            factors = _read(operation.factors, values)
            factors = numpy.pad(factors, ((0, 0), (0, -factors.shape[1] % 4), (0, 0), (0, 0))) * operation.factor
            reals = whole.astype(FLOAT) * factors.reshape(len(factors), -1, 4, 1, 1).transpose(0, 1, 3, 4, 2)
        return numpy.clip(numpy.rint(reals) + operation.zero, 0, 255).astype(numpy.uint8)
    if isinstance(operation, Regroup):
        read = [_read(view, values) for view in operation.sources]
        channels = numpy.concatenate([part.reshape(len(part), -1) for part in read], axis=1)
        picked = channels[:, numpy.maximum(operation.picks, 0)]
        return numpy.where(operation.picks < 0, numpy.uint8(operation.zero), picked)
    if isinstance(operation, Join):
        first = _read(operation.views[0], values)
        words = (4,) if first.dtype == numpy.uint8 else ()
        made = numpy.zeros((len(first), int(numpy.prod(operation.box)), *words), dtype=first.dtype)
        for piece, places in operation.pieces:
            if isinstance(piece, View):
                made[:, places] = _read(piece, values)
            else:  # numbers whose bits are those of words
                bits = piece.astype(numpy.float32).reshape(-1, 1).view(numpy.uint8)
                made[:, places] = bits.reshape(*piece.shape, 4) if words else piece
        return made.reshape(len(first), *operation.box, *words)
    raise AssertionError(f"the reference does not know {type(operation).__name__}")


def _activated(reals: numpy.ndarray, activation: Pointwise) -> numpy.ndarray:
    """Return an activation that float32's operations give the same everywhere."""
    name, constants = activation.function, activation.constants
    if name == "leaky_relu":
        return numpy.where(reals > 0, reals, reals * FLOAT(constants[0]))
    if name in ("hardswish", "hardsigmoid"):
        inside = numpy.clip(reals + FLOAT(3), FLOAT(0), FLOAT(6))
        return (reals * inside if name == "hardswish" else inside) / FLOAT(6)
    ends = {"relu": (0, numpy.inf), "relu6": (0, 6), "clamp": constants}
    assert name in ends, f"the reference does not know {name}"
    return numpy.clip(reals, *ends[name]).astype(FLOAT)


def _quantized(reals: numpy.ndarray, operation: Quantize) -> numpy.ndarray:
    whole = numpy.rint(reals.astype(FLOAT) * FLOAT(1 / operation.scale)) + operation.zero
    whole = numpy.clip(whole, 0, 255).astype(numpy.uint8)
    missing = -whole.shape[1] % 4
    filled = numpy.pad(whole, ((0, 0), (0, missing), (0, 0), (0, 0)), constant_values=operation.zero)
    return filled.reshape(len(filled), -1, 4, *filled.shape[2:]).transpose(0, 1, 3, 4, 2)


def _contracted(contract: QuantizedContract, values: Mapping[int, numpy.ndarray], zero: int) -> numpy.ndarray:
    """Return what a contraction makes of words; around its source lies what stands for zero."""
    source = _read(contract.source, values)
    whole = source.transpose(0, 1, 4, 2, 3).reshape(len(source), -1, *source.shape[2:4]).astype(numpy.float64)
    high, wide = contract.padding
    # float64 adds whole numbers below 2**53 exactly
    padded = numpy.pad(whole, ((0, 0), (0, 0), (high, high), (wide, wide)), constant_values=zero)
    if isinstance(contract, QuantizedDepthwise):
        weight, groups = contract.channel_weights, 4 * contract.groups
    else:
        bytes_ = contract.bytes.transpose(0, 1, 4, 2, 3)
        weight, groups = bytes_.reshape(len(bytes_), -1, *bytes_.shape[3:]).astype(numpy.float64), contract.groups
    sums = torch.nn.functional.conv2d(
        torch.from_numpy(padded),
        torch.from_numpy(weight),
        torch.from_numpy(contract.bias),
        contract.stride,
        0,
        contract.dilation,
        groups,
    ).numpy()
    assert numpy.abs(sums).max() < 2**31
    reals = sums.astype(FLOAT) * contract.factors[:, None, None]
    if contract.residual is not None:
        divisor = contract.scale if contract.activation is None else 1.0
        words = _read(contract.residual, values).astype(numpy.int64) - contract.residual_zero
        added = words.transpose(0, 1, 4, 2, 3).reshape(len(words), -1, *words.shape[2:4])
        reals = reals + added.astype(FLOAT) * FLOAT(contract.residual_scale / divisor)
    if contract.activation is not None:
        reals = _activated(reals, contract.activation)
        reals = reals * FLOAT(1 / contract.scale) if contract.in_words else reals
    if not contract.in_words:
        return reals
    made = numpy.clip(numpy.rint(reals) + contract.zero, contract.low, contract.high).astype(numpy.uint8)
    return made.reshape(len(made), -1, 4, *made.shape[2:]).transpose(0, 1, 3, 4, 2)
