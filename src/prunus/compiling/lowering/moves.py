"""What only moves elements, beside constants if need be: views where that does, else copies."""

from __future__ import annotations

import itertools
from typing import Any

import numpy
import torch

from prunus.compiling.lowering.arguments import activation_of, listed, numbers_of, same_for_all_samples, shape_of
from prunus.compiling.lowering.reader import Activation, Call, Reader, moved, rule, swapped
from prunus.compiling.net import Numbers, View, box_of
from prunus.compiling.operations import Join

# fmt: off
_MOVES = [
    "view", "reshape", "permute", "transpose", "t", "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "select",
    "slice", "narrow", "repeat", "roll", "flip", "movedim", "moveaxis", "swapaxes", "swapdims", "repeat_interleave",
    "expand_as", "view_as", "reshape_as", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "numpy_T", "mT",
    "tile", "index_select", "chunk", "split", "split_with_sizes", "unbind", "tensor_split", "clone", "contiguous",
    "detach", "alias", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "lift_fresh_copy",
    "positive", "_unsafe_view", "upsample_nearest2d", "upsample_nearest1d",
]
# fmt: on


@rule(*_MOVES)
def move(reader: Reader, call: Call) -> Any:
    """Run what only moves elements on their indices."""
    (source,) = [each for each in listed(call) if isinstance(each, Activation)][:1]
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


@rule("cat", "concat", "concatenate", "stack")
def joined(reader: Reader, call: Call) -> Activation:
    """Put activations and constants beside each other."""
    given = list(call["tensors"])
    counts = itertools.accumulate(
        [0, *(each.index.numel() if isinstance(each, Activation) else each.numel() for each in given)]
    )
    starts = list(counts)
    index = [
        torch.arange(start, stop).reshape(shape_of(each))
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
        if start == stop:
            continue
        where = target[start:stop].reshape(reader.samples, -1)[0].numpy()
        if not isinstance(each, Activation) and not same_for_all_samples(each):
            raise call.refuse("a constant differs from sample to sample of the batch")
        piece = reader.view(call, each) if isinstance(each, Activation) else numbers_of(each[0])
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
    return padded(
        reader, call, reader.view(call, activation_of(call, "self")), call["pad"], float(call.get("value") or 0)
    )


def padded(reader: Reader, call: Call, view: View, pads: Any, value: float) -> Activation:
    """Put a constant around a view.

    Args:
        reader: what has been read.
        call: the operation it is for.
        view: of one sample.
        pads: before and after, from the last dimension on, as in `torch.nn.functional.pad`.
        value: the constant.
    """
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
