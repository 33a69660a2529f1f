"""Operations that only move elements: what they must move once some are gone, proven element by element.

Each element of the inputs is told apart by its coordinates, which are run through the operation one dimension at a
time (expanded, so that they take no memory). What the original operation gives, restricted to what stays, is what the
changed operation must give on the coordinates of what stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from prunus.graph import where
from prunus.graph.coupling import Value
from prunus.graph.coupling.calls import Call, run_on
from prunus.graph.coupling.values import along, compact, first_of, tidy
from prunus.graph.operations import Family, Trait
from prunus.graph.rewriting.extents import Extents, Masks, RewriteError, alike, cut_shape, taken
from prunus.graph.rewriting.reshaping import active_dims, keeps_order

MOVES = (Family.MOVE, Family.PARTS, Family.JOIN, Family.INDEX)
# What a call raises where its arguments don't fit its tensors.
_FAILURES = (RuntimeError, IndexError, ValueError, TypeError)

Standing = dict[int, Tensor]


@dataclass(frozen=True, eq=False)
class Gather:
    """The elements of a result by their places in the one input, as both are after the cut.

    Attributes:
        by_dim: dimension -> the index of each of the result's indices along it; None where dimensions mix.
        flat: the flat place of each element, the batch left aside; None where `by_dim` says it.
        shape: the result's shape.
        size: how many elements the input has, the batch left aside.
        batched: whether dimension 0 is a batch that goes through as it is.
    """

    by_dim: Mapping[int, Tensor] | None
    flat: Tensor | None
    shape: list[int]
    size: int
    batched: bool


class Move:
    """One operation that moves elements, with what stays of its tensors.

    Args:
        node: the operation in the original graph.
        values: what is known of the original graph's tensors.
        extents: what stays of them.
    """

    def __init__(self, node: fx.Node, values: Mapping[fx.Node, Any], extents: Extents) -> None:
        self.node = node
        # One stand-in for each argument: two arguments with the same labels are two tensors all the same.
        own = {argument: replace(value) for argument, value in _tensors(node, values).items()}
        self._kept_alive: list[Value] = []
        self.nodes = {id(value): argument for argument, value in own.items()}
        self.masks = {id(own[argument]): extents.of(values[argument]) for argument in own}
        call = Call.of(node, {**values, **own})
        self.arguments, self.row = dict(call.arguments), call.row
        num_carriers = len(call.values) if call.family is Family.JOIN else 1
        self.carriers, self.helpers = call.values[:num_carriers], call.values[num_carriers:]
        value = values[node]
        self.outputs: list[Value] = value if isinstance(value, list) else [value]
        self.kept = [extents.of(value) for value in self.outputs]
        self._pass_through()

    def is_whole(self) -> bool:
        """Tell whether no tensor loses anything."""
        return all(mask is None for masks in (*self.masks.values(), *self.kept) for mask in masks)

    def _pass_through(self) -> None:
        """Look at one index only of each dimension that goes through as it is, cut alike on both sides."""
        everything = [*self.carriers, *self.outputs]
        ranks = {len(value.shape) for value in everything}
        active = active_dims(self.row, self.arguments, *ranks) if len(ranks) == 1 else None
        if active is None or len(self.outputs) != 1:
            return
        own = [self.masks[id(value)] for value in self.carriers]
        passive = [
            dim
            for dim in range(*ranks)
            if dim not in active and all(alike(masks[dim], self.kept[0][dim]) for masks in own)
        ]
        for value, masks in zip(self.carriers, own, strict=True):
            small = replace(value, labels=_narrowed(value.labels, passive))
            self._stand_for(value, small)
            self.masks[id(small)] = _without(masks, passive)
        self.outputs = [replace(self.outputs[0], labels=_narrowed(self.outputs[0].labels, passive))]
        self.kept = [_without(self.kept[0], passive)]

    def _stand_for(self, value: Value, small: Value) -> None:
        """Put another value in the place of one."""
        self.carriers = [small if carrier is value else carrier for carrier in self.carriers]
        self.nodes[id(small)] = self.nodes[id(value)]
        swapped = {name: _swapped(argument, value, small) for name, argument in self.arguments.items()}
        self.arguments = swapped
        self._kept_alive = [*self._kept_alive, value]  # so that its id stays its own

    def is_proven(self, target: Any, changes: Mapping[str, Any]) -> bool:
        """Tell whether an operation moves each element that stays to where it should.

        Args:
            target: the operation.
            changes: its arguments by name that are not the original's; an index as the tensor that it is.
        """
        if self.row.has(Trait.KEEPS_ORDER) and target == self.node.target:
            return self._reshapes(dict(changes))
        fixed = self._cut_helpers()

        def stand_in(argument: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            value = Value(argument, contents=argument)
            indices.append(value)  # held, so that its id stays its own
            fixed[id(value)] = argument
            return value

        indices: list[Value] = []
        own = {name: fx.node.map_aggregate(argument, stand_in) for name, argument in changes.items()}
        arguments = (self.arguments if target == self.node.target else {}) | own
        for coordinates in self._coordinates():
            cut = {key: taken(tensor, self.masks[key]) for key, tensor in coordinates.items()}
            try:
                results = _listed(run_on(target, arguments, {**fixed, **cut}))
            except _FAILURES:
                return False
            if len(results) != len(self.kept):
                return False
            expected = zip(self._original(coordinates), self.kept, results, strict=True)
            if not all(_equal(taken(tidy(whole), masks), result) for whole, masks, result in expected):
                return False
        return True

    def _reshapes(self, changes: dict[str, Any]) -> bool:
        """Tell whether a reshape keeps the order of what stays, and has its shape."""
        (source,), (result,) = self.carriers, self.outputs
        own = self.masks[id(source)]
        fixed = {id(helper): taken(_stand_in(helper), self.masks[id(helper)]) for helper in self.helpers}
        fixed[id(source)] = torch.empty(cut_shape(source.shape, own), device="meta")
        try:
            shape = list(run_on(self.node.target, self.arguments | changes, fixed).shape)
        except _FAILURES:
            return False
        return shape == cut_shape(result.shape, self.kept[0]) and keeps_order(
            source.shape, own, result.shape, self.kept[0]
        )

    def gather(self) -> Gather:
        """Return what the operation must pick, element by element.

        Raises:
            RewriteError: it can't be said so: there are several inputs or results, an element that is needed was cut,
                or the batch is mixed with something else.
        """
        if len(self.carriers) != 1 or len(self.outputs) != 1:
            raise self.error("it has several inputs or results, and none of its arguments would do")
        (source,), (masks,) = self.carriers, self.kept
        places = [self._original(coordinates)[0] for coordinates in self._coordinates()]
        ranks = []
        for place, own in zip(places, self.masks[id(source)], strict=True):
            rank = self._ranks(taken(tidy(place), masks), own)
            ranks.append(rank)
        shape = list(ranks[0].shape) if ranks else []
        sizes = [
            size if own is None else int(own.sum())
            for size, own in zip(source.shape, self.masks[id(source)], strict=True)
        ]
        free = self._free_dims()
        by_dim = _separated(ranks, sizes, shape)
        if by_dim is not None and not free & by_dim.keys():
            return Gather(by_dim, None, shape, math.prod(sizes), bool(free))
        batched = bool(free)
        if batched and not _goes_through(ranks, sizes, shape, free):
            raise self.error("it mixes the batch with what is cut")
        first = 1 if batched else 0
        flat = torch.zeros([1] * len(shape), dtype=torch.int64)
        for size, rank in zip(sizes[first:], ranks[first:], strict=True):
            flat = flat * size + rank
        flat = flat.expand(shape)
        picked = (flat[0] if batched else flat).flatten()
        return Gather(None, picked, shape, math.prod(sizes[first:]), batched)

    def error(self, reason: str) -> RewriteError:
        """Return an error that names the operation."""
        return RewriteError(f"aten.{self.row.name} can't be done on what is kept: {reason}; in {where(self.node)}")

    def _ranks(self, place: Tensor, mask: Tensor | None) -> Tensor:
        """Return coordinates, counted from 1, as they are after the cut, counted from 0."""
        if mask is None:
            return place - 1
        small = compact(place) - 1
        if not bool(mask[small].all()):
            raise self.error("an element that it moves was cut")
        return (mask.cumsum(0) - 1)[small].expand(place.shape)

    def _coordinates(self) -> Iterator[Standing]:
        """Yield what tells elements apart: each dimension's index, from 1, and which of several inputs it is."""
        if len(self.carriers) > 1:
            yield {id(value): torch.tensor(place + 1).expand(value.shape) for place, value in enumerate(self.carriers)}
        for dim in range(max(len(value.shape) for value in self.carriers)):
            yield {
                id(value): along(torch.arange(1, value.shape[dim] + 1), dim, value.shape)
                if dim < len(value.shape)
                else torch.tensor(1).expand(value.shape)
                for value in self.carriers
            }

    def _original(self, coordinates: Standing) -> list[Tensor]:
        fixed = {id(helper): _stand_in(helper) for helper in self.helpers}
        return _listed(run_on(self.node.target, self.arguments, {**fixed, **coordinates}))

    def _cut_helpers(self) -> Standing:
        return {id(helper): taken(_stand_in(helper), self.masks[id(helper)]) for helper in self.helpers}

    def _free_dims(self) -> set[int]:
        """Return the dimensions of inputs and results whose size hangs on the batch."""
        nodes = [self.node, *(node for node in self.node.all_input_nodes)]
        shapes = [node.meta["val"].shape for node in nodes if isinstance(node.meta.get("val"), Tensor)]
        return {dim for shape in shapes for dim, size in enumerate(shape) if isinstance(size, torch.SymInt)}


def _stand_in(helper: Value) -> Tensor:
    """Return an index's content; any index where it depends on the inputs; and nothing but a shape otherwise."""
    return torch.zeros((), dtype=torch.int64).expand(helper.shape) if helper.contents is None else helper.contents


def _narrowed(labels: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in dims:
        labels = labels.narrow(dim, 0, min(1, labels.shape[dim]))
    return labels


def _without(masks: Masks, dims: Sequence[int]) -> Masks:
    return tuple(None if dim in dims else mask for dim, mask in enumerate(masks))


def _swapped(argument: Any, value: Value, other: Value) -> Any:
    if isinstance(argument, (list, tuple)):
        return [_swapped(entry, value, other) for entry in argument]
    return other if argument is value else argument


def _tensors(node: fx.Node, values: Mapping[fx.Node, Any]) -> dict[fx.Node, Value]:
    known_values = {argument: values.get(argument) for argument in node.all_input_nodes}
    return {argument: value for argument, value in known_values.items() if isinstance(value, Value)}


def _listed(results: Any) -> list[Tensor]:
    return list(results) if isinstance(results, (list, tuple)) else [results]


def _equal(one: Tensor, other: Tensor) -> bool:
    """Tell whether tensors are equal; what both were expanded along is looked at once."""
    if one.shape != other.shape:
        return False
    for dim, size in enumerate(one.shape):
        if size > 1 and one.stride(dim) == 0 == other.stride(dim):
            one, other = one.narrow(dim, 0, 1), other.narrow(dim, 0, 1)
    return torch.equal(one, other)


def _separated(ranks: list[Tensor], sizes: list[int], shape: list[int]) -> dict[int, Tensor] | None:
    """Return for each dimension the index to pick, where the result has the input's dimensions and none are mixed."""
    if len(ranks) != len(shape):
        return None
    picked = {}
    for dim, rank in enumerate(ranks):
        varies = [place for place, size in enumerate(compact(tidy(rank)).shape) if size > 1]
        if set(varies) - {dim}:
            return None
        index = first_of(rank, dim)
        if not torch.equal(index, torch.arange(sizes[dim])):
            picked[dim] = index
    return picked


def _goes_through(ranks: list[Tensor], sizes: list[int], shape: list[int], free: set[int]) -> bool:
    """Tell whether dimension 0 is the only one that hangs on the batch, and every sample is treated alike."""
    if free != {0} or not shape or shape[0] != sizes[0]:
        return False
    same = torch.equal(first_of(ranks[0], 0), torch.arange(shape[0]))
    return (
        same
        and not any(compact(tidy(rank)).shape[0] > 1 for rank in ranks[1:])
        and not any(size > 1 for size in compact(tidy(ranks[0])).shape[1:])
    )
