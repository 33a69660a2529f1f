"""Functions of each element, and of two: they run over whole values, whatever arrangement they are seen in."""

from __future__ import annotations

import math
from typing import Any

import numpy
import torch
from torch import Tensor

from prunus.compiling.kernels.numbers import SCALARS, constants_of
from prunus.compiling.lowering.arguments import (
    activation_of,
    bias_of,
    expanded,
    numbers_of,
    ones_of,
    same_for_all_samples,
    shape_of,
)
from prunus.compiling.lowering.reader import Activation, Call, Reader, moved, rule
from prunus.compiling.net import Box, Indices, Numbers, Pointwise, View, box_of, in_order, is_whole, whole
from prunus.compiling.operations import elementwise
from prunus.graph.operations import OPERATIONS


@rule("batch_norm")
def batch_norm(reader: Reader, call: Call) -> Activation:
    """Scale and shift each channel by what the running statistics tell."""
    if call.get("training"):
        raise call.refuse("it is in training mode whatever the model's is, so its output depends on the other samples")
    if call["running_mean"] is None:
        raise call.refuse("it has no running statistics, so its output depends on the other samples of the batch")
    source = activation_of(call, "input")
    mean, variance = numbers_of(call["running_mean"]), numbers_of(call["running_var"])
    scale = ones_of(call["weight"], len(mean)) / numpy.sqrt(variance + call["eps"])
    shift = bias_of(call["bias"], len(mean)) - mean * scale
    view = reader.view(call, source)
    shape = (-1, *(1 for _ in view.index.shape[1:]))
    full = numpy.broadcast_to(scale.reshape(shape), view.index.shape)
    scaled = combined(reader, call, "mul", source, full)
    return combined(reader, call, "add", scaled, numpy.broadcast_to(shift.reshape(shape), view.index.shape))


# Operations that are one of the kernels' functions by themselves.
_FUNCTIONS = [name for name in SCALARS if name in OPERATIONS and not constants_of(name)]
_LIMITS = ["hardtanh", "clamp", "clamp_min", "clamp_max", "clip"]


@rule(*_FUNCTIONS, "leaky_relu", "elu", *_LIMITS)
def pointwise(reader: Reader, call: Call) -> Activation:
    """Apply a function to each element."""
    return mapped(reader, call, activation_of(call, "self"), _function(call))


# A power as the functions that come to it, one after the other.
_POWERS: dict[float, tuple[str, ...]] = {
    2.0: ("square",), 4.0: ("square", "square"), 0.5: ("sqrt",), -0.5: ("sqrt", "reciprocal"),
    -1.0: ("reciprocal",), -2.0: ("square", "reciprocal"),
}  # fmt: skip


@rule("pow", "rsqrt")
def power(reader: Reader, call: Call) -> Activation:
    """Raise to a constant power: 2, 3, 4, 1/2, -1/2, -1 or -2."""
    source = activation_of(call, "self")
    exponent = -0.5 if call.name == "rsqrt" else call["exponent"]
    if exponent == 3:
        return combined(reader, call, "mul", mapped(reader, call, source, Pointwise("square")), source)
    if isinstance(exponent, (Tensor, Activation)) or exponent not in _POWERS:
        raise call.refuse(f"only powers of 3, {', '.join(f'{one:g}' for one in _POWERS)}")
    for function in _POWERS[exponent]:
        source = mapped(reader, call, source, Pointwise(function))
    return source


@rule("selu", "celu", "log_sigmoid")
def composed(reader: Reader, call: Call) -> Activation:
    """Write selu and celu as elu, and log_sigmoid as softplus."""
    source = activation_of(call, "self")
    if call.name == "log_sigmoid":  # -softplus(-x)
        for function in ("neg", "softplus", "neg"):
            source = mapped(reader, call, source, Pointwise(function))
        return source
    alpha, scale = (_SELU_ALPHA, _SELU_SCALE) if call.name == "selu" else (1.0, float(call["alpha"]))
    if scale <= 0:
        raise call.refuse("only with an alpha above zero")
    if call.name == "celu" and scale != 1:  # alpha * elu(x / alpha)
        source = _scaled(reader, call, source, 1 / scale)
    return _scaled(reader, call, mapped(reader, call, source, Pointwise("elu", (alpha,))), scale)


# Klambauer et al., "Self-normalizing neural networks", NIPS 2017: alpha and lambda.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _scaled(reader: Reader, call: Call, source: Activation, factor: float) -> Activation:
    return combined(reader, call, "mul", source, numpy.full(tuple(source.index.shape[1:]), factor))


def _function(call: Call) -> Pointwise:
    name = call.name
    if name == "softplus" and (call["beta"] != 1 or call["threshold"] != 20):
        raise call.refuse("only with the usual beta and threshold")
    if name == "gelu":
        return Pointwise("gelu_tanh" if call["approximate"] == "tanh" else "gelu")
    if name in _FUNCTIONS:
        return Pointwise(name)
    if name == "leaky_relu":
        return Pointwise("leaky_relu", (float(call["negative_slope"]),))
    if name == "elu":
        if call["scale"] != 1 or call["input_scale"] != 1:
            raise call.refuse("only with scales of 1")
        return Pointwise("elu", (float(call["alpha"]),))
    low, high = call.get("min_val", call.get("min")), call.get("max_val", call.get("max"))
    if isinstance(low, (Tensor, Activation)) or isinstance(high, (Tensor, Activation)):
        raise call.refuse("only with numbers as limits")
    if any(limit is not None and math.isnan(limit) for limit in (low, high)):
        raise call.refuse("its limit is NaN, so that all it makes is NaN")
    return Pointwise("clamp", (-math.inf if low is None else float(low), math.inf if high is None else float(high)))


@rule("prelu")
def prelu(reader: Reader, call: Call) -> Activation:
    """A leaky ReLU with a slope for all channels or for each: max(x, 0) + slope * min(x, 0)."""
    slope, source = call["weight"], activation_of(call, "self")
    if not isinstance(slope, Tensor):
        raise call.refuse("only with constant slopes")
    if slope.numel() == 1:
        return mapped(reader, call, source, Pointwise("leaky_relu", (float(slope),)))
    shape = (-1, *(1 for _ in source.index.shape[2:]))
    below = mapped(reader, call, source, Pointwise("clamp", (-math.inf, 0.0)))
    below = combined(reader, call, "mul", below, spread(numbers_of(slope), source, shape))
    return combined(reader, call, "add", mapped(reader, call, source, Pointwise("relu")), below)


def spread(numbers: Numbers, source: Activation, shape: tuple[int, ...]) -> Numbers:
    """Return numbers in a shape (of one sample) that broadcasts, in the full shape of an activation."""
    return numpy.broadcast_to(numbers.reshape(shape), tuple(source.index.shape[1:]))


@rule("glu")
def glu(reader: Reader, call: Call) -> Activation:
    """One half times the sigmoid of the other."""
    source = activation_of(call, "self")
    one, gate = (moved(source, half) for half in source.index.chunk(2, int(call["dim"])))
    return combined(reader, call, "mul", one, mapped(reader, call, gate, Pointwise("sigmoid")))


_ARITHMETIC = {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "div": "div",
    "true_divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "divide": "div",
    "maximum": "maximum",
    "minimum": "minimum",
}


@rule(*_ARITHMETIC, "rsub")
def arithmetic(reader: Reader, call: Call) -> Activation:
    """Combine two activations, or one and a constant."""
    first, second, alpha = call["self"], call["other"], call.get("alpha", 1)
    if call.get("rounding_mode") is not None:
        raise call.refuse("only without rounding")
    if call.name == "rsub":
        first, second, function = second, first, "sub"
        if alpha != 1:
            raise call.refuse("only without a factor")
    else:
        function = _ARITHMETIC.get(call.name, call.name)
    if alpha != 1:
        if isinstance(second, Activation):
            raise call.refuse("only without a factor")
        second = second * alpha
    return _arithmetic(reader, call, function, first, second)


def _arithmetic(reader: Reader, call: Call, function: str, first: Any, second: Any) -> Activation:
    shape = torch.Size(numpy.broadcast_shapes(shape_of(first), shape_of(second)))
    if isinstance(first, Activation):
        return combined(reader, call, function, expanded(first, shape), _operand(call, second, shape))
    source, constant = expanded(second, shape), _operand(call, first, shape)
    if function in ("sub", "div"):  # constant - x = -x + constant, constant / x = 1 / x * constant
        source = mapped(reader, call, source, Pointwise({"sub": "neg", "div": "reciprocal"}[function]))
        function = {"sub": "add", "div": "mul"}[function]
    return combined(reader, call, function, source, constant)


def _operand(call: Call, argument: Any, shape: torch.Size) -> Activation | Numbers:
    if isinstance(argument, Activation):
        return expanded(argument, shape)
    full = torch.as_tensor(argument).to(torch.float64, copy=True).expand(shape)
    if not same_for_all_samples(full):
        raise call.refuse("a constant differs from sample to sample of the batch")
    return full[0].numpy()


def combined(reader: Reader, call: Call, function: str, first: Activation, second: Activation | Numbers) -> Activation:
    """Combine in the arrangement of the first's value, if that is all there is of it."""
    title, number = reader.title(call), reader.next_value()
    one = reader.view(call, first)
    other = reader.view(call, second) if isinstance(second, Activation) else second
    box = reader.boxes[one.value]
    # an input in another arrangement is computed in that: it is read once, and what follows finds its rows in order
    in_own_order = not is_whole(one, box) and not reader.is_input(one.value)
    order = _inverse(one.index.reshape(-1), math.prod(box)) if in_own_order else None
    if is_whole(one, box) or order is not None:
        pair = _in_box(one, box, order), _in_box(other, box, order)
        return moved(reader.make(elementwise.combined(title, number, function, *pair)), first.index)
    shape = tuple(one.index.shape)
    pair = _in_box(one, box_of(shape)), _in_box(other, box_of(shape))
    return reader.shaped(elementwise.combined(title, number, function, *pair), shape)


def _in_box(source: Any, box: Box, order: Indices | None = None) -> Any:
    """Return a view, or constants, in a box; where an order is given, with the elements in that order."""
    if isinstance(source, View):
        return View(source.value, _in_box(source.index, box, order))
    return source.reshape(box) if order is None else source.reshape(-1)[order].reshape(box)


def _inverse(index: Indices, size: int) -> Indices | None:
    """Return where each number below a size lies in an index; None where it does not hold each of them once."""
    if len(index) != size:
        return None
    order: Indices = numpy.full(size, -1, dtype=numpy.int64)
    order[index] = in_order(size)
    return order if bool((order >= 0).all()) else None


def mapped(reader: Reader, call: Call, source: Activation, function: Pointwise) -> Activation:
    """Apply a function to the whole value that the activation is a view of, and look at it the same way."""
    reader.view(call, source)
    box = reader.boxes[source.value]
    if source.index[0].numel() * 2 <= math.prod(box):  # a small part of it
        shape = tuple(source.index.shape[1:])
        small = View(source.value, source.index[0].numpy().reshape(box_of(shape)))
        operation = elementwise.pointwise(reader.title(call), reader.next_value(), small, function)
        return reader.shaped(operation, shape)
    everything = whole(source.value, box)
    result = reader.make(elementwise.pointwise(reader.title(call), reader.next_value(), everything, function))
    return moved(result, source.index)
