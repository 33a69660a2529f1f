"""What takes several elements together: pooling, reductions, softmax, norms."""

from __future__ import annotations

import math
from typing import Any

import numpy
import torch

from prunus.compiling.lowering import windows
from prunus.compiling.lowering.arguments import activation_of, expanded, numbers_of, with_height
from prunus.compiling.lowering.elementwise import combined, mapped, spread
from prunus.compiling.lowering.reader import Activation, Call, Reader, moved, rule
from prunus.compiling.net import Numbers, Pointwise, View, box_of
from prunus.compiling.operations import Normalize, Pool, Reduce


@rule("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
      "adaptive_max_pool1d", "adaptive_max_pool2d", "max_pool2d_with_indices", "max_pool1d_with_indices")  # fmt: skip
def pool(reader: Reader, call: Call) -> Any:
    """Take the maximum or the average over windows."""
    view = with_height(reader.view(call, activation_of(call, "self")))
    dims = 1 if "1d" in call.name else 2
    function = "max" if "max" in call.name else "avg"
    rows, columns = windows.of(call, view.index.shape[1:], dims)
    box = (view.index.shape[0], len(rows.start), len(columns.start))
    pooled = reader.make(Pool(reader.title(call), reader.next_value(), box, function, view, rows, columns))
    result = pooled if dims == 2 else moved(pooled, pooled.index.squeeze(2))
    several = isinstance(call.node.meta["val"], (list, tuple))
    return [result, None] if several else result


@rule("mean", "sum", "amax", "amin")
def reduce(reader: Reader, call: Call) -> Activation:
    """Reduce over some dimensions of a sample."""
    return _reduced(reader, call, activation_of(call, "self"), call.name, keepdim=bool(call.get("keepdim")))


@rule("linalg_vector_norm")
def vector_norm(reader: Reader, call: Call) -> Activation:
    """Sum of |x|, or the root of the sum of x^2."""
    source, order = activation_of(call, "self"), call["ord"]
    if order not in (1, 2):
        raise call.refuse("only of the first or second order")
    source = mapped(reader, call, source, Pointwise("square" if order == 2 else "abs"))
    total = _reduced(reader, call, source, "sum", keepdim=bool(call.get("keepdim")))
    return mapped(reader, call, total, Pointwise("sqrt")) if order == 2 else total


@rule("var", "std")
def variance(reader: Reader, call: Call) -> Activation:
    """Sum of (x - mean)^2, divided by the count less the correction; `std` is its root."""
    source = activation_of(call, "self")
    mean = _reduced(reader, call, source, "mean", keepdim=True)
    apart = combined(reader, call, "sub", source, expanded(mean, source.index.shape))
    squares = mapped(reader, call, apart, Pointwise("square"))
    result = _reduced(reader, call, squares, "mean", keepdim=bool(call.get("keepdim")))
    count = source.index.numel() // mean.index.numel()
    correction = call["correction"] if "correction" in call.arguments else float(bool(call.get("unbiased", True)))
    correction = 1 if correction is None else correction
    if count <= correction:
        raise call.refuse(f"it is NaN or infinite: it divides by {count:g} less {correction:g}")
    factor = numpy.full(tuple(result.index.shape[1:]), count / (count - correction))
    result = combined(reader, call, "mul", result, factor)
    return mapped(reader, call, result, Pointwise("sqrt")) if call.name == "std" else result


def _reduced(reader: Reader, call: Call, source: Activation, function: str, *, keepdim: bool) -> Activation:
    dims, ndim = call.get("dim"), source.index.ndim
    over = sorted({int(dim) % ndim for dim in ([dims] if isinstance(dims, int) else dims or range(ndim))})
    if 0 in over:
        raise call.refuse("it reduces over the batch; a program computes sample by sample")
    view = reader.view(call, source)
    kept = [dim for dim in range(1, ndim) if dim not in over]
    arranged = view.index.transpose([dim - 1 for dim in (*kept, *over)])
    outer = tuple(view.index.shape[dim - 1] for dim in kept)
    flat = View(view.value, arranged.reshape(max(math.prod(outer), 1), -1))
    operation = Reduce(reader.title(call), reader.next_value(), box_of(outer), function, flat)
    shape = tuple(1 if dim in over else view.index.shape[dim - 1] for dim in range(1, ndim))
    return reader.shaped(operation, shape if keepdim else outer)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax")
def softmax(reader: Reader, call: Call) -> Activation:
    """Softmax along one dimension of a sample."""
    source = activation_of(call, "self")
    dim = int(call["dim"]) % source.index.ndim
    if dim == 0:
        raise call.refuse("it runs over the batch; a program computes sample by sample")
    function = "log_softmax" if "log" in call.name else "softmax"
    return _normalized(reader, call, source, [dim], function)


@rule("layer_norm")
def layer_norm(reader: Reader, call: Call) -> Activation:
    """Normalise over the last dimensions of a sample."""
    source = activation_of(call, "input")
    count = len(call["normalized_shape"])
    if count >= source.index.ndim:
        raise call.refuse("it runs over the batch; a program computes sample by sample")
    dims = list(range(source.index.ndim - count, source.index.ndim))
    scale, shift = (None if call[name] is None else numbers_of(call[name]).reshape(-1) for name in ("weight", "bias"))
    return _normalized(reader, call, source, dims, "layer_norm", scale, shift, float(call["eps"]))


@rule("rms_norm")
def rms_norm(reader: Reader, call: Call) -> Activation:
    """Divide by the root of the mean square over the last dimensions of a sample."""
    source = activation_of(call, "input")
    count = len(call["normalized_shape"])
    if count >= source.index.ndim:
        raise call.refuse("it runs over the batch; a program computes sample by sample")
    eps = torch.finfo(call.node.meta["val"].dtype).eps if call["eps"] is None else float(call["eps"])
    dims = list(range(source.index.ndim - count, source.index.ndim))
    scale = None if call["weight"] is None else numbers_of(call["weight"]).reshape(-1)
    return _normalized(reader, call, source, dims, "rms_norm", scale, None, eps)


@rule("group_norm", "instance_norm")
def group_norm(reader: Reader, call: Call) -> Activation:
    """Normalise over the channels of each group and all positions, then scale and shift each channel."""
    source = activation_of(call, "input")
    if call.name == "instance_norm" and not call["use_input_stats"]:
        raise call.refuse("only with the statistics of the sample itself")
    shape = source.index.shape
    groups = call["num_groups"] if call.name == "group_norm" else shape[1]
    grouped = moved(source, source.index.reshape(shape[0], groups, -1))
    result = _normalized(reader, call, grouped, [2], "layer_norm", eps=float(call["eps"]))
    result = moved(result, result.index.reshape(shape))
    for function, name in (("mul", "weight"), ("add", "bias")):
        if call[name] is not None:
            factor = spread(numbers_of(call[name]), source, (-1, *(1 for _ in shape[2:])))
            result = combined(reader, call, function, result, factor)
    return result


def _normalized(
    reader: Reader,
    call: Call,
    source: Activation,
    dims: list[int],
    function: str,
    scale: Numbers | None = None,
    shift: Numbers | None = None,
    eps: float = 0.0,
) -> Activation:
    view = reader.view(call, source)
    kept = [dim for dim in range(view.index.ndim) if dim + 1 not in dims]
    order = [*kept, *(dim - 1 for dim in dims)]
    arranged = view.index.transpose(order)
    rows = math.prod(view.index.shape[dim] for dim in kept)
    flat = View(view.value, arranged.reshape(rows, -1))
    operation = Normalize(
        reader.title(call), reader.next_value(), (rows, 1, flat.index.shape[1]), function, flat, scale, shift, eps
    )
    index = numpy.arange(flat.index.size, dtype=numpy.int64).reshape(arranged.shape)
    return reader.make(operation, index.transpose(numpy.argsort(order)))
