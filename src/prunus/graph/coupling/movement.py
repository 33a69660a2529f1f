"""Operations that only move elements: they are run on labels, so reshape, concat, split and the like need no cases."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.graph.coupling.calls import Call, call_with
from prunus.graph.coupling.reader import Reader, rule
from prunus.graph.coupling.values import Value, along, inert
from prunus.graph.operations import Family


@rule(Family.SAME)
def same(reader: Reader, call: Call) -> Value:
    """What changes no element's place: the first input as it is."""
    return call.values[0]


@rule(Family.MOVE)
def move(reader: Reader, call: Call) -> Value:
    """Run the operation on labels, and on the ids of a parameter on its way to its use."""
    value, helpers = call.values[0], _helpers(call)
    if value.sources:
        moved = [
            source.moved(call_with(call, helpers | {id(value): source.indices().expand(value.shape)}))
            for source in value.sources
        ]
        content = None if value.contents is None else call_with(call, helpers | {id(value): value.contents})
        return Value(inert(call.shape), tuple(moved), content)
    return Value(call_with(call, helpers | {id(value): value.labels}), is_filled=value.is_filled)


def _helpers(call: Call) -> dict[int, Tensor]:
    """Return what stands for all tensors but the first: their content, or else labels of their shape."""
    return {id(other): other.labels if other.contents is None else other.contents for other in call.values[1:]}


@rule(Family.TRIANGLE)
def triangle(reader: Reader, call: Call) -> Value:
    """Set a triangle of each matrix to zero: which elements are zero depends on both places in it."""
    labels = reader.promote(call["self"])
    reader.need(labels, [-2, -1], f"{call.name} runs over it", call.node)
    return Value(labels)


@rule(Family.PARTS)
def parts(reader: Reader, call: Call) -> list[Value]:
    """Cut labels, or the ids of a parameter, into pieces."""
    value, helpers = call.values[0], _helpers(call)
    if not value.sources:
        return [Value(piece) for piece in call_with(call, helpers | {id(value): value.labels})]
    cut = [call_with(call, helpers | {id(value): source.indices().expand(value.shape)}) for source in value.sources]
    return [
        Value(
            inert(pieces[0].shape),
            tuple(source.moved(piece) for source, piece in zip(value.sources, pieces, strict=True)),
        )
        for pieces in zip(*cut, strict=True)
    ]


@rule(Family.JOIN)
def joined(reader: Reader, call: Call) -> Value:
    """Put labels beside each other; parameters among them get labels of their own."""
    labels = {id(value): reader.promote(value).contiguous() for value in call.values}
    return Value(call_with(call, dict(labels)))


@rule(Family.PAD)
def padded(reader: Reader, call: Call) -> Value:
    """Pad: positions carry the label of their neighbours, new channels get labels of their own."""
    labels = reader.promote(call.values[0])
    pads = list(call["pad"])
    for dim, (before, after) in enumerate(zip(pads[-2::-2], pads[-1::-2], strict=True), labels.ndim - len(pads) // 2):
        if dim not in reader.varying(labels):
            sizes = [size + before + after if place == dim else size for place, size in enumerate(labels.shape)]
            labels = labels.narrow(dim, 0, 1).expand(sizes)
        elif call.get("mode", "constant") == "constant":
            first, size = max(-before, 0), labels.shape[dim] + min(before, 0) + min(after, 0)  # negative pads cut off
            inner = labels.narrow(dim, first, size)
            labels = torch.cat([_new(reader, inner, dim, before), inner, _new(reader, inner, dim, after)], dim)
        else:
            reader.keep(labels, "it is padded by copies of its neighbours")
            return Value(inert(call.shape))
    return Value(labels)


def _new(reader: Reader, labels: Tensor, dim: int, count: int) -> Tensor:
    """Return labels with so many new atoms along a dimension."""
    shape = [max(count, 0) if place == dim else size for place, size in enumerate(labels.shape)]
    first = reader.partition.add(max(count, 0))
    return along(torch.arange(first, len(reader.partition)), dim, shape)


@rule(Family.INDEX)
def indexed(reader: Reader, call: Call) -> Value | list[Value]:
    """Pick by index: as any move where the index is a constant; else what is indexed must not be channels."""
    value, *indices = call.values
    if indices and all(index.contents is not None for index in indices):
        return move(reader, call)
    for index in indices:
        reader.keep(index.labels, "it is an index")
    zeros = {id(index): torch.zeros(index.shape, dtype=torch.int64) for index in indices}
    labels = value.labels
    dims = _indexed_dims(call)
    if value.sources:
        moved = [source.moved(call_with(call, zeros | {id(value): source.indices()})) for source in value.sources]
        return Value(inert(call.shape), tuple(moved))
    reader.need(labels, dims, "it is picked from by an index that depends on the input", call.node)
    return Value(call_with(call, zeros | {id(value): labels}))


def _indexed_dims(call: Call) -> list[int]:
    if "indices" in call.arguments and isinstance(call["indices"], (list, tuple)):
        return [dim for dim, index in enumerate(call["indices"]) if index is not None]
    return list(range(call["self"].labels.ndim))  # the index has a place for each element, as gather's


@rule(Family.EMBEDDING)
def embedding(reader: Reader, call: Call) -> Value:
    """Look rows up: the columns of the table are the channels it makes."""
    table = call["weight"]
    if not table.sources:
        reader.keep(table.labels, "it is looked up by the input")
        return Value(inert(call.shape))
    (source,) = table.sources
    atoms = reader.axis(source, 1)
    if atoms is None:
        return Value(inert(call.shape))
    return Value(atoms.expand(call.shape))


@rule(Family.PATCHES)
def unfolded(reader: Reader, call: Call) -> Value:
    """Refuse to follow channels into patches: they stay."""
    for value in call.values:
        reader.keep(reader.promote(value), "it is cut into patches")
    return Value(inert(call.shape))


def _spread(labels: Tensor, shape: torch.Size, dims: range) -> Tensor:
    """Return labels of another size along some dimensions: those at index 0 there, everywhere."""
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    return labels.expand(shape)


@rule(Family.WINDOW)
def resized(reader: Reader, call: Call) -> Value | list[Value]:
    """Pool, pad or interpolate: only positions are mixed."""
    labels = reader.promote(call.values[0])
    changed = range(labels.ndim - call.row.spatial_dims(labels.ndim), labels.ndim)
    reader.need(labels, changed, "it is pooled or resized over", call.node)
    outputs = [Value(_spread(labels, shape, changed)) for shape in call.shapes]
    return outputs if len(outputs) > 1 else outputs[0]
