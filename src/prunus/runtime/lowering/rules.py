"""How each operation on activations becomes operations of a net."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy
import torch
from torch import Tensor

from prunus.runtime.lowering import windows
from prunus.runtime.lowering.reader import Activation, Call, Reader, moved, rule, swapped
from prunus.runtime.net import Combine, Contract, Join, Map, Normalize, Numbers, Pointwise, Pool, Reduce, View, box_of

# fmt: off
_MOVES = [
    "view", "reshape", "permute", "transpose", "t", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "select",
    "slice", "narrow", "repeat", "roll", "flip", "movedim", "moveaxis", "swapaxes", "swapdims", "repeat_interleave",
    "expand_as", "view_as", "reshape_as", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "numpy_T", "mT",
    "tile", "index_select", "chunk", "split", "split_with_sizes", "unbind", "tensor_split", "clone", "contiguous",
    "detach", "alias", "dropout", "feature_dropout", "alpha_dropout", "lift_fresh_copy", "positive", "_unsafe_view",
    "upsample_nearest2d", "upsample_nearest1d",
]
# fmt: on


@rule(*_MOVES)
def move(reader: Reader, call: Call) -> Any:
    """Run what only moves elements on their indices."""
    (source,) = [each for each in _listed(call) if isinstance(each, Activation)][:1]
    index = source.index
    floating = call.name.startswith("upsample")  # it takes no whole numbers; doubles hold them exactly
    arguments = swapped(call, source, index.double() if floating else index)
    if call.name in ("view", "_unsafe_view"):  # indices lie otherwise in memory than what they index
        found: Any = index.reshape(arguments["size"])
    else:
        found = reader.compute(call, arguments)
    if isinstance(found, (list, tuple)):
        return [moved(source, piece) for piece in found]
    return moved(source, found.long())


@rule("to", "_to_copy", "type_as", "float", "double", "half", "bfloat16")
def cast(reader: Reader, call: Call) -> Activation:
    """Leave a cast out: a program computes in one dtype."""
    source = call["self"]
    if isinstance(source, Activation) and call.node.meta["val"].dtype.is_floating_point:
        return source
    raise call.refuse("it makes other than floating point numbers of an activation, which a program can't hold")


@rule("conv1d", "conv2d", "convolution")
def convolution(reader: Reader, call: Call) -> Activation:
    """Convolve: one dimension is a row."""
    weight: Any = call["weight"]
    source = _activation(call, "input")
    dims = source.index.ndim - 2
    if isinstance(weight, Activation) or call.get("transposed") or dims not in (1, 2) or source.index.ndim < 3:
        raise call.refuse("only convolutions in one or two dimensions, not transposed, with constant weights")
    kernel = tuple(weight.shape[2:])
    dilation = _pair(call["dilation"], dims)
    padding, before = _padding(call, kernel, dilation, dims)
    kernels = _numbers(weight) if dims == 2 else _numbers(weight)[:, :, None]
    view = _with_height(reader.view(call, source))
    view = _padded_unevenly(reader, call, view, before)
    stride = _pair(call["stride"], dims)
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
        _bias(call["bias"], len(kernels)),
        grid,
        stride,
        padding,
        dilation,
        call["groups"],
    )
    made = reader.make(operation)
    return made if dims == 2 else moved(made, made.index.squeeze(2))


def _padding(
    call: Call, kernel: tuple[int, ...], dilation: tuple[int, int], dims: int
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Return what is padded on both sides, and (top, bottom, left, right) beyond that: ``same`` may be uneven."""
    given = call["padding"]
    if given == "valid":
        return (0, 0), (0, 0, 0, 0)
    if given != "same":
        return _pair(given, dims, fill=0), (0, 0, 0, 0)
    totals = [gap * (size - 1) for gap, size in zip(dilation[2 - dims :], kernel, strict=True)]
    even = _pair([total // 2 for total in totals], dims, fill=0)
    odd = _pair([total % 2 for total in totals], dims, fill=0)
    return even, (0, odd[0], 0, odd[1])


def _padded_unevenly(reader: Reader, call: Call, view: View, sides: tuple[int, int, int, int]) -> View:
    if not any(sides):
        return view
    padded = _pad(reader, call, view, [sides[2], sides[3], sides[0], sides[1]], 0.0)
    return reader.view(call, padded)


@rule("linear")
def linear(reader: Reader, call: Call) -> Activation:
    """Multiply the last dimension by a matrix: a convolution of 1x1 whose channels are that dimension."""
    return _linear(reader, call)


def _linear(reader: Reader, call: Call) -> Activation:
    weight: Any = call["weight"]
    source = _activation(call, "input")
    if isinstance(weight, Activation):
        raise call.refuse("its weight depends on the input; only constant weights can be compiled")
    view = reader.view(call, source)
    *before, width = view.index.shape
    flat = view.index.reshape(-1, width)
    kernels = _numbers(weight)
    operation = Contract(
        reader.title(call),
        reader.next_value(),
        (len(kernels), 1, len(flat)),
        View(view.value, flat.T[:, None, :]),
        kernels[:, :, None, None],
        _bias(call["bias"], len(kernels)),
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
    return _linear(reader, Call(call.node, call.name, {"input": first, "weight": second.T, "bias": bias}))


@rule("batch_norm")
def batch_norm(reader: Reader, call: Call) -> Activation:
    """Scale and shift each channel by what the running statistics tell."""
    if call["running_mean"] is None:
        raise call.refuse("it has no running statistics, so its output depends on the other samples of the batch")
    source = _activation(call, "input")
    mean, variance = _numbers(call["running_mean"]), _numbers(call["running_var"])
    scale = _ones(call["weight"], len(mean)) / numpy.sqrt(variance + call["eps"])
    shift = _bias(call["bias"], len(mean)) - mean * scale
    view = reader.view(call, source)
    shape = (-1, *(1 for _ in view.index.shape[1:]))
    full = numpy.broadcast_to(scale.reshape(shape), view.index.shape)
    scaled = _combined(reader, call, "mul", source, full)
    return _combined(reader, call, "add", scaled, numpy.broadcast_to(shift.reshape(shape), view.index.shape))


_FUNCTIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "silu": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "exp": "exp",
    "sqrt": "sqrt",
    "neg": "neg",
    "abs": "abs",
    "square": "square",
    "softplus": "softplus",
    "reciprocal": "reciprocal",
}


@rule(*_FUNCTIONS, "leaky_relu", "gelu", "elu", "hardtanh", "clamp", "clamp_min", "clamp_max")
def pointwise(reader: Reader, call: Call) -> Activation:
    """Apply a function to each element."""
    return _mapped(reader, call, _activation(call, "self"), _function(call))


def _function(call: Call) -> Pointwise:
    name = call.name.removesuffix("_")
    if name == "softplus" and (call["beta"] != 1 or call["threshold"] != 20):
        raise call.refuse("only with the usual beta and threshold")
    if name in _FUNCTIONS:
        return Pointwise(_FUNCTIONS[name])
    if name == "leaky_relu":
        return Pointwise("leaky_relu", (float(call["negative_slope"]),))
    if name == "gelu":
        return Pointwise("gelu_tanh" if call["approximate"] == "tanh" else "gelu")
    if name == "elu":
        if call["scale"] != 1 or call["input_scale"] != 1:
            raise call.refuse("only with scales of 1")
        return Pointwise("elu", (float(call["alpha"]),))
    low, high = call.get("min_val", call.get("min")), call.get("max_val", call.get("max"))
    if isinstance(low, (Tensor, Activation)) or isinstance(high, (Tensor, Activation)):
        raise call.refuse("only with numbers as limits")
    return Pointwise("clamp", (-math.inf if low is None else float(low), math.inf if high is None else float(high)))


@rule("prelu")
def prelu(reader: Reader, call: Call) -> Activation:
    """A leaky ReLU with a slope for all channels or for each: max(x, 0) + slope * min(x, 0)."""
    slope, source = call["weight"], _activation(call, "self")
    if not isinstance(slope, Tensor):
        raise call.refuse("only with constant slopes")
    if slope.numel() == 1:
        return _mapped(reader, call, source, Pointwise("leaky_relu", (float(slope),)))
    shape = (-1, *(1 for _ in source.index.shape[2:]))
    below = _mapped(reader, call, source, Pointwise("clamp", (-math.inf, 0.0)))
    below = _combined(reader, call, "mul", below, _spread(_numbers(slope), source, shape))
    return _combined(reader, call, "add", _mapped(reader, call, source, Pointwise("relu")), below)


def _spread(numbers: Numbers, source: Activation, shape: tuple[int, ...]) -> Numbers:
    return numpy.broadcast_to(numbers.reshape(shape), tuple(source.index.shape[1:]))


@rule("glu")
def glu(reader: Reader, call: Call) -> Activation:
    """One half times the sigmoid of the other."""
    source = _activation(call, "self")
    one, gate = (moved(source, half) for half in source.index.chunk(2, int(call["dim"])))
    return _combined(reader, call, "mul", one, _mapped(reader, call, gate, Pointwise("sigmoid")))


_ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "true_divide": "div", "maximum": "maximum"}


@rule(*_ARITHMETIC, "minimum", "rsub")
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
        function = _ARITHMETIC.get(call.name.removesuffix("_"), call.name)
    if alpha != 1:
        if isinstance(second, Activation):
            raise call.refuse("only without a factor")
        second = second * alpha
    return _arithmetic(reader, call, function, first, second)


def _arithmetic(reader: Reader, call: Call, function: str, first: Any, second: Any) -> Activation:
    shape = torch.Size(numpy.broadcast_shapes(_shape(first), _shape(second)))
    if isinstance(first, Activation):
        return _combined(reader, call, function, _expanded(first, shape), _operand(call, second, shape))
    source, constant = _expanded(second, shape), _operand(call, first, shape)
    if function in ("sub", "div"):  # constant - x = -x + constant, constant / x = 1 / x * constant
        source = _mapped(reader, call, source, Pointwise({"sub": "neg", "div": "reciprocal"}[function]))
        function = {"sub": "add", "div": "mul"}[function]
    return _combined(reader, call, function, source, constant)


def _operand(call: Call, given: Any, shape: torch.Size) -> Activation | Numbers:
    if isinstance(given, Activation):
        return _expanded(given, shape)
    full = torch.as_tensor(given, dtype=torch.float64).expand(shape)
    if not torch.equal(full[0], full[1]) and not bool(full.isnan().any()):
        raise call.refuse("a constant differs from sample to sample of the batch")
    return full[0].numpy()


def _combined(reader: Reader, call: Call, function: str, first: Activation, second: Activation | Numbers) -> Activation:
    """Combine in the arrangement of the first's value, if that is all there is of it."""
    one = reader.view(call, first)
    other = reader.view(call, second) if isinstance(second, Activation) else second
    box = reader.boxes[one.value]
    flat = one.index.reshape(-1)
    if len(flat) == math.prod(box) and len(numpy.unique(flat)) == len(flat):  # a rearrangement of the whole value
        order = numpy.argsort(flat)
        one = View(one.value, flat[order].reshape(box))
        other = (
            View(other.value, other.index.reshape(-1)[order].reshape(box))
            if isinstance(other, View)
            else numpy.asarray(other).reshape(-1)[order].reshape(box)
        )
        made = reader.make(Combine(reader.title(call), reader.next_value(), box, function, one, other))
        return moved(made, first.index)
    shape = tuple(one.index.shape)
    box = box_of(shape)
    one = View(one.value, one.index.reshape(box))
    other = View(other.value, other.index.reshape(box)) if isinstance(other, View) else other.reshape(box)
    operation = Combine(reader.title(call), reader.next_value(), box, function, one, other)
    return reader.shaped(operation, shape)


def _mapped(reader: Reader, call: Call, source: Activation, function: Pointwise) -> Activation:
    """Apply a function to the whole value that the activation is a view of, and look at it the same way."""
    reader.view(call, source)
    box = reader.boxes[source.value]
    if source.index[0].numel() * 2 <= math.prod(box):  # a small part of it
        shape = tuple(source.index.shape[1:])
        small = View(source.value, source.index[0].numpy().reshape(box_of(shape)))
        operation = Map(reader.title(call), reader.next_value(), box_of(shape), small, function)
        return reader.shaped(operation, shape)
    everything = View(source.value, numpy.arange(math.prod(box), dtype=numpy.int64).reshape(box))
    made = reader.make(Map(reader.title(call), reader.next_value(), box, everything, function))
    return moved(made, source.index)


@rule("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
      "adaptive_max_pool1d", "adaptive_max_pool2d", "max_pool2d_with_indices", "max_pool1d_with_indices")  # fmt: skip
def pool(reader: Reader, call: Call) -> Any:
    """Take the maximum or the average over windows."""
    view = _with_height(reader.view(call, _activation(call, "self")))
    dims = 1 if "1d" in call.name else 2
    function = "max" if "max" in call.name else "avg"
    rows, columns = windows.of(call, view.index.shape[1:], dims)
    box = (view.index.shape[0], len(rows.start), len(columns.start))
    made = reader.make(Pool(reader.title(call), reader.next_value(), box, function, view, rows, columns))
    found = made if dims == 2 else moved(made, made.index.squeeze(2))
    several = isinstance(call.node.meta["val"], (list, tuple))
    return [found, None] if several else found


@rule("mean", "sum", "amax", "amin")
def reduce(reader: Reader, call: Call) -> Activation:
    """Reduce over some dimensions of a sample."""
    source = _activation(call, "self")
    dims, ndim = call.get("dim"), source.index.ndim
    over = sorted({int(dim) % ndim for dim in ([dims] if isinstance(dims, int) else dims or range(ndim))})
    if 0 in over:
        raise call.refuse("it reduces over the batch; a program computes sample by sample")
    view = reader.view(call, source)
    kept = [dim for dim in range(1, ndim) if dim not in over]
    arranged = view.index.transpose([dim - 1 for dim in (*kept, *over)])
    outer = tuple(view.index.shape[dim - 1] for dim in kept)
    flat = View(view.value, arranged.reshape(max(math.prod(outer), 1), -1))
    operation = Reduce(reader.title(call), reader.next_value(), box_of(outer), call.name, flat)
    shape = tuple(1 if dim in over else view.index.shape[dim - 1] for dim in range(1, ndim))
    return reader.shaped(operation, shape if call.get("keepdim") else outer)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax")
def softmax(reader: Reader, call: Call) -> Activation:
    """Softmax along one dimension of a sample."""
    source = _activation(call, "self")
    dim = int(call["dim"]) % source.index.ndim
    if dim == 0:
        raise call.refuse("it runs over the batch; a program computes sample by sample")
    function = "log_softmax" if "log" in call.name else "softmax"
    return _normalized(reader, call, source, [dim], function)


@rule("layer_norm")
def layer_norm(reader: Reader, call: Call) -> Activation:
    """Normalise over the last dimensions of a sample."""
    source = _activation(call, "input")
    count = len(call["normalized_shape"])
    if count >= source.index.ndim:
        raise call.refuse("it runs over the batch; a program computes sample by sample")
    dims = list(range(source.index.ndim - count, source.index.ndim))
    scale, shift = (None if call[name] is None else _numbers(call[name]).reshape(-1) for name in ("weight", "bias"))
    return _normalized(reader, call, source, dims, "layer_norm", scale, shift, float(call["eps"]))


@rule("rms_norm")
def rms_norm(reader: Reader, call: Call) -> Activation:
    """Divide by the root of the mean square over the last dimensions of a sample."""
    source = _activation(call, "input")
    count = len(call["normalized_shape"])
    if count >= source.index.ndim:
        raise call.refuse("it runs over the batch; a program computes sample by sample")
    eps = torch.finfo(call.node.meta["val"].dtype).eps if call["eps"] is None else float(call["eps"])
    dims = list(range(source.index.ndim - count, source.index.ndim))
    scale = None if call["weight"] is None else _numbers(call["weight"]).reshape(-1)
    return _normalized(reader, call, source, dims, "rms_norm", scale, None, eps)


@rule("group_norm", "instance_norm")
def group_norm(reader: Reader, call: Call) -> Activation:
    """Normalise over the channels of each group and all positions, then scale and shift each channel."""
    source = _activation(call, "input")
    if call.name == "instance_norm" and not call["use_input_stats"]:
        raise call.refuse("only with the statistics of the sample itself")
    shape = source.index.shape
    groups = call["num_groups"] if call.name == "group_norm" else shape[1]
    grouped = moved(source, source.index.reshape(shape[0], groups, -1))
    found = _normalized(reader, call, grouped, [2], "layer_norm", eps=float(call["eps"]))
    found = moved(found, found.index.reshape(shape))
    for function, name in (("mul", "weight"), ("add", "bias")):
        if call[name] is not None:
            each = _spread(_numbers(call[name]), source, (-1, *(1 for _ in shape[2:])))
            found = _combined(reader, call, function, found, each)
    return found


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


@rule("cat", "concat", "concatenate", "stack")
def joined(reader: Reader, call: Call) -> Activation:
    """Put activations and constants beside each other."""
    given = list(call["tensors"])
    counts = itertools.accumulate(
        [0, *(each.index.numel() if isinstance(each, Activation) else each.numel() for each in given)]
    )
    starts = list(counts)
    index = [
        torch.arange(start, stop).reshape(_shape(each))
        for each, start, stop in zip(given, starts, starts[1:], strict=False)
    ]
    places = reader.compute(call, {**call.arguments, "tensors": index})  # where each element of each piece goes to
    if call["dim"] % places.ndim == 0:
        raise call.refuse("it joins along the batch; a program computes sample by sample")
    shape = tuple(places.shape[1:])
    target = torch.empty(starts[-1], dtype=torch.int64)
    target[places.reshape(-1)] = torch.arange(starts[-1])
    pieces: list[tuple[View | Numbers, Any]] = []
    for each, start, stop in zip(given, starts, starts[1:], strict=False):
        where = target[start:stop].reshape(2, -1)[0].numpy()
        piece = reader.view(call, each) if isinstance(each, Activation) else _numbers(each[0])
        pieces.append(_flat(piece, where))
    operation = Join(reader.title(call), reader.next_value(), box_of(shape), tuple(pieces))
    return reader.shaped(operation, shape)


def _flat(piece: View | Numbers, where: Any) -> tuple[View | Numbers, Any]:
    shape = piece.index.shape if isinstance(piece, View) else piece.shape
    return piece, where.reshape(shape)


@rule("constant_pad_nd", "pad")
def pad(reader: Reader, call: Call) -> Activation:
    """Put constants around."""
    if call.get("mode", "constant") != "constant":
        raise call.refuse("only padding with a constant")
    return _pad(reader, call, reader.view(call, _activation(call, "self")), call["pad"], float(call.get("value") or 0))


def _pad(reader: Reader, call: Call, view: View, pads: Any, value: float) -> Activation:
    if len(pads) > 2 * view.index.ndim:
        raise call.refuse("it pads the batch; a program computes sample by sample")
    places = torch.nn.functional.pad(torch.from_numpy(view.index), list(pads), value=-1).numpy()
    inside = places >= 0
    target = numpy.arange(places.size, dtype=numpy.int64).reshape(places.shape)
    around = target[~inside]
    kept = View(view.value, places[inside])
    pieces = ((kept, target[inside]), (numpy.full(around.shape, value), around))
    return reader.shaped(
        Join(reader.title(call), reader.next_value(), box_of(places.shape), pieces), tuple(places.shape)
    )


def _listed(call: Call) -> list[Any]:
    return [
        each for value in call.arguments.values() for each in (value if isinstance(value, (list, tuple)) else [value])
    ]


def _activation(call: Call, name: str) -> Activation:
    found = call[name]
    if not isinstance(found, Activation):
        raise call.refuse(f"its {name} is a constant, while another argument depends on the inputs")
    return found


def _two(call: Call) -> tuple[Any, Any]:
    first, second = list(call.arguments.values())[:2]
    return first, second


def _shape(given: Any) -> torch.Size:
    if isinstance(given, Activation):
        return given.index.shape
    return given.shape if isinstance(given, Tensor) else torch.Size([])


def _expanded(activation: Activation, shape: torch.Size) -> Activation:
    return moved(activation, activation.index.expand(shape))


def _with_height(view: View) -> View:
    """Return a view of (channels, length) as (channels, 1, length)."""
    return View(view.value, view.index[:, None]) if view.index.ndim == 2 else view


def _pair(given: Any, dims: int, fill: int = 1) -> tuple[int, int]:
    numbers = [given] * dims if isinstance(given, int) else [int(each) for each in given]
    numbers = numbers * dims if len(numbers) == 1 else numbers
    return (fill, numbers[0]) if dims == 1 else (numbers[0], numbers[1])


def _numbers(tensor: Tensor) -> Numbers:
    return tensor.detach().cpu().double().numpy()


def _bias(given: Any, count: int) -> Numbers:
    return numpy.zeros(count) if given is None else _numbers(given)


def _ones(given: Any, count: int) -> Numbers:
    return numpy.ones(count) if given is None else _numbers(given)
