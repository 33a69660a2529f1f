"""Operations that only move elements: they are run on labels, so reshape, concat, split and the like need no cases."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.graph.coupling.calls import Call, call_with
from prunus.graph.coupling.reader import Reader, rule
from prunus.graph.coupling.values import Value, along, inert

# fmt: off
_MOVES = [
    "view", "reshape", "permute", "transpose", "t", "flatten", "unflatten", "unsqueeze", "squeeze", "expand",
    "select", "slice", "narrow", "repeat", "roll", "flip", "movedim", "moveaxis", "swapaxes", "swapdims",
    "repeat_interleave", "expand_as", "view_as", "reshape_as", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "native_channel_shuffle", "broadcast_to", "unfold", "numpy_T", "mT", "diagonal", "rot90",
    "tile", "squeeze_copy", "view_copy", "adjoint", "index_select", "fliplr", "flipud",
]
# fmt: on
# fmt: off
_PARTS = [
    "chunk", "split", "split_with_sizes", "unbind", "tensor_split", "hsplit", "vsplit", "dsplit", "unsafe_split",
    "unsafe_chunk",
]
# fmt: on
# fmt: off
_SAME = [
    "clone", "contiguous", "detach", "alias", "to", "_to_copy", "dropout", "feature_dropout", "alpha_dropout",
    "feature_alpha_dropout", "lift_fresh_copy", "type_as", "float", "half", "double", "bfloat16", "positive",
    "requires_grad", "lift_fresh", "native_dropout", "detach_copy", "_autocast_to_reduced_precision",
    "_autocast_to_full_precision",
]
# fmt: on


@rule(*(f"aten.{name}" for name in _SAME))
def same(reader: Reader, call: Call) -> Value:
    """What changes no element's place: the first input as it is."""
    return call.values[0]


@rule(*(f"aten.{name}" for name in _MOVES))
def move(reader: Reader, call: Call) -> Value:
    """Run the operation on labels, and on the ids of a parameter on its way to its use."""
    value, *others = call.values
    known = {id(other): other.known if other.known is not None else other.labels for other in others}
    if value.sources:
        moved = [
            source.moved(call_with(call, known | {id(value): source.indices().expand(value.shape)}))
            for source in value.sources
        ]
        content = None if value.known is None else call_with(call, known | {id(value): value.known})
        return Value(inert(call.shape), tuple(moved), content)
    return Value(call_with(call, known | {id(value): value.labels}), made=value.made)


@rule("aten.tril", "aten.triu")
def triangle(reader: Reader, call: Call) -> Value:
    """Set a triangle of each matrix to zero: which elements are zero depends on both places in it."""
    labels = reader.promote(call["self"])
    reader.need(labels, [-2, -1], f"{call.name.removeprefix('aten.')} runs over it", call.node)
    return Value(labels)


@rule(*(f"aten.{name}" for name in _PARTS))
def parts(reader: Reader, call: Call) -> list[Value]:
    """Cut labels, or the ids of a parameter, into pieces."""
    (value,) = call.values
    if not value.sources:
        return [Value(piece) for piece in call_with(call, {id(value): value.labels})]
    cut = [call_with(call, {id(value): source.indices().expand(value.shape)}) for source in value.sources]
    return [
        Value(
            inert(pieces[0].shape),
            tuple(source.moved(piece) for source, piece in zip(value.sources, pieces, strict=True)),
        )
        for pieces in zip(*cut, strict=True)
    ]


@rule("aten.cat", "aten.concat", "aten.concatenate", "aten.stack", "aten.hstack", "aten.vstack", "aten.dstack")
def joined(reader: Reader, call: Call) -> Value:
    """Put labels beside each other; parameters among them get labels of their own."""
    labels = {id(value): reader.promote(value).contiguous() for value in call.values}
    return Value(call_with(call, dict(labels)))


@rule("aten.constant_pad_nd", "aten.pad")
def padded(reader: Reader, call: Call) -> Value:
    """Pad: positions carry the label of their neighbours, new channels get labels of their own."""
    labels = reader.promote(call.values[0])
    pads = list(call["pad"])
    for dim, (before, after) in enumerate(zip(pads[-2::-2], pads[-1::-2], strict=True), labels.ndim - len(pads) // 2):
        if dim not in reader.varying(labels):
            sizes = [size + before + after if dim == each else size for each, size in enumerate(labels.shape)]
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
    shape = [max(count, 0) if each == dim else size for each, size in enumerate(labels.shape)]
    first = reader.partition.add(max(count, 0))
    return along(torch.arange(first, len(reader.partition)), dim, shape)


@rule("aten.index", "aten.take_along_dim", "aten.gather")
def indexed(reader: Reader, call: Call) -> Value | list[Value]:
    """Pick by index: as any move where the index is a constant; else what is indexed must not be channels."""
    value, *indices = call.values
    if indices and all(index.known is not None for index in indices):
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
    if call.name in ("aten.gather", "aten.take_along_dim"):  # the index has a place for each element
        value = call["self"]
        return list(range(value.labels.ndim))
    return [dim for dim, index in enumerate(call["indices"]) if index is not None]


@rule("aten.embedding")
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


@rule("aten.im2col", "aten.col2im")
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


# fmt: off
_SPATIAL = [
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d",
    "upsample_linear1d", "upsample_trilinear3d", "upsample_bicubic2d", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices",
    "lp_pool1d", "lp_pool2d", "grid_sampler",
]
# fmt: on


@rule(*(f"aten.{name}" for name in _SPATIAL))
def resized(reader: Reader, call: Call) -> Value | list[Value]:
    """Pool, pad or interpolate: only positions are mixed."""
    labels = reader.promote(call.values[0])
    dims = next((int(letter) for letter in call.name if letter.isdigit()), 2)
    changed = range(labels.ndim - dims, labels.ndim)
    reader.need(labels, changed, "it is pooled or resized over", call.node)
    outputs = [Value(_spread(labels, shape, changed)) for shape in call.shapes]
    return outputs if len(outputs) > 1 else outputs[0]
