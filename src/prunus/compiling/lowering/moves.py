"""What only moves elements, beside constants if need be: views where that does, else copies."""

from __future__ import annotations

import itertools
from typing import Any

import numpy
import torch
from torch import Tensor, fx

from prunus.compiling.lowering.arguments import activation_of, listed, numbers_of, same_for_all_samples, shape_of
from prunus.compiling.lowering.reader import Activation, Call, Reader, moved, rule, swapped
from prunus.compiling.net import Numbers, View, box_of
from prunus.compiling.operations import Join
from prunus.graph.calls import run
from prunus.graph.operations import OPERATIONS, Family, Trait

# What moves elements, but takes no whole numbers.
_FLOATING_MOVES = (
    *("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d"),
    *("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"),
)
_MOVES = [
    *(
        name
        for name, row in OPERATIONS.items()
        if (row.family in (Family.MOVE, Family.PARTS, Family.SAME) and not row.has(Trait.CASTS))
        if name != "native_dropout"  # it gives a mask as well
    ),
    *_FLOATING_MOVES,
]


@rule(*_MOVES)
def move(reader: Reader, call: Call) -> Any:
    """Run what only moves elements on their indices."""
    source = next(value for value in listed(call) if isinstance(value, Activation))
    index = source.index.double() if call.name in _FLOATING_MOVES else source.index  # doubles hold them exactly
    with torch.no_grad():
        moved_index = run(call.node.target, swapped(call, source, index))
    if isinstance(moved_index, (list, tuple)):
        return [moved(source, piece) for piece in moved_index]
    return moved(source, moved_index.long())


@rule(*(name for name, row in OPERATIONS.items() if row.family is Family.SAME and row.has(Trait.CASTS)))
def cast(reader: Reader, call: Call) -> Activation | Tensor:
    """Leave a cast out: a program computes in one dtype, in which it holds whole numbers too."""
    source, dtype = call["self"], call.node.meta["val"].dtype
    before = call.node.args[0]
    if isinstance(source, Tensor):  # another argument, whose type it takes, depends on the inputs
        return source.to("cpu", dtype)
    assert isinstance(source, Activation)
    if dtype.is_floating_point or (isinstance(before, fx.Node) and before.meta["val"].dtype == dtype):
        return source
    raise call.refuse("it makes other than floating point numbers of an activation, which a program can't hold")


@rule("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack")
def joined(reader: Reader, call: Call) -> Activation:
    """Put activations and constants beside each other."""
    tensors = list(call["tensors"])
    counts = itertools.accumulate(
        [0, *(tensor.index.numel() if isinstance(tensor, Activation) else tensor.numel() for tensor in tensors)]
    )
    starts = list(counts)
    index = [
        torch.arange(start, stop).reshape(shape_of(tensor))
        for tensor, start, stop in zip(tensors, starts, starts[1:], strict=False)
    ]
    places = run(call.node.target, {**call.arguments, "tensors": index})  # where each element of each piece goes to
    if places.ndim == 0 or len(places) != reader.samples:
        raise call.refuse("it joins along the batch; a program computes sample by sample")
    shape = tuple(places.shape[1:])
    target = torch.empty(starts[-1], dtype=torch.int64)
    target[places.reshape(-1)] = torch.arange(starts[-1])
    pieces: list[tuple[View | Numbers, Any]] = []
    for tensor, start, stop in zip(tensors, starts, starts[1:], strict=False):
        if start == stop:
            continue
        where = target[start:stop].reshape(reader.samples, -1)[0].numpy()
        if not isinstance(tensor, Activation) and not same_for_all_samples(tensor):
            raise call.refuse("a constant differs from sample to sample of the batch")
        piece = reader.view(call, tensor) if isinstance(tensor, Activation) else numbers_of(tensor[0])
        pieces.append(_flat(piece, where))
    operation = Join(reader.title(call), reader.next_value(), box_of(shape), tuple(pieces))
    return reader.shaped(operation, shape)


def _flat(piece: View | Numbers, where: Any) -> tuple[View | Numbers, Any]:
    shape = piece.index.shape if isinstance(piece, View) else piece.shape
    return piece, where.reshape(shape)


@rule("constant_pad_nd", "pad")
def pad(reader: Reader, call: Call) -> Activation:
    """Pad with a constant, by reflection, by replication, or circularly."""
    source = activation_of(call, "self")
    if call.get("mode", "constant") != "constant":
        index = torch.nn.functional.pad(source.index.double(), list(call["pad"]), mode=call["mode"])
        return moved(source, index.long())
    return padded(reader, call, reader.view(call, source), call["pad"], float(call.get("value") or 0))


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
    places = torch.nn.functional.pad(torch.tensor(view.index), list(pads), value=-1).numpy()
    inside = places >= 0
    target = numpy.arange(places.size, dtype=numpy.int64).reshape(places.shape)
    around = target[~inside]
    kept = View(view.value, places[inside])
    pieces = ((kept, target[inside]), (numpy.full(around.shape, value), around))
    return reader.shaped(
        Join(reader.title(call), reader.next_value(), box_of(places.shape), pieces), tuple(places.shape)
    )
