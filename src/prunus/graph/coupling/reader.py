"""Reads a graph once, in order: each operation's rule labels its outputs and notes what has to go together."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from prunus.errors import GraphError
from prunus.graph import Graph, where
from prunus.graph.calls import has_tensor, shape_of
from prunus.graph.coupling.calls import MOST_MADE, Call, check_sizes, computed
from prunus.graph.coupling.partition import Partition
from prunus.graph.coupling.uses import Axis, Grouping, Groups, Need, Product, Use
from prunus.graph.coupling.values import (
    Source,
    Value,
    along,
    compact,
    compact_both,
    distinct,
    first_of,
    inert,
    tidy,
    varying,
)
from prunus.graph.operations import Family

Rule: TypeAlias = Callable[["Reader", "Call"], "Value | list[Value]"]
RULES: dict[Family, Rule] = {}

# Buffers up to this many elements, such as a bias that is not trained, are cut element by element like parameters.
_MOST_PROMOTED = 1 << 16


def rule(*families: Family) -> Callable[[Rule], Rule]:
    """Enter the decorated rule for the operations of some families."""

    def enter(function: Rule) -> Rule:
        for family in families:
            assert family not in RULES, family
            RULES[family] = function
        return function

    return enter


@dataclass
class Reader:
    """What is known after reading a graph up to some operation.

    `groups` says what grouped convolutions may lose: with "alike" whole groups, or the same places of each; with
    "counted" anything that leaves equally many in all groups that stay.
    """

    graph: Graph
    groups: Groups = "alike"
    partition: Partition = field(default_factory=Partition)
    axes: dict[Axis, tuple[int, int]] = field(default_factory=dict)
    bindings: dict[str, list[tuple[Source, Tensor]]] = field(default_factory=dict)
    elements: dict[str, int] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    groupings: list[Grouping] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    fixed: list[tuple[Tensor, str]] = field(default_factory=list)
    leaks: list[Tensor] = field(default_factory=list)
    grids: list[Tensor] = field(default_factory=list)
    values: dict[fx.Node, Any] = field(default_factory=dict)

    def read(self) -> None:
        """Read every operation.

        Raises:
            GraphError: an operation on channels or parameters has no rule.
        """
        check_sizes(self.graph.nodes)
        used = _used(self.graph.nodes)
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "call_function":
                marks = [(notes, len(notes)) for notes in (self.fixed, self.needs, self.leaks)]
                self.values[node] = self._operation(node)
                if node not in used:  # such as attention weights that are averaged for nobody: no reason to stay
                    for notes, before in marks:
                        del notes[before:]
            elif node.op == "output":
                for value in _flat(fx.map_arg(node.args[0], self.values.__getitem__)):
                    if isinstance(value, Value):
                        self.keep(value.labels, "it is an output of the model")

    def _placeholder(self, node: fx.Node) -> Value | None:
        traced = node.meta.get("val")
        if not isinstance(traced, Tensor):
            return None
        name = self.graph.tensors.get(node.name)
        if name is None:
            return Value(inert(shape_of(traced)))
        tensor = self.graph.tensor(name)
        small = not tensor.is_floating_point() and not tensor.is_meta and name not in self.graph.model._parameters
        contents = tensor.detach().cpu() if small else None
        return Value(inert(tensor.shape), (Source(name, tensor.shape),), contents)

    def _operation(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            pieces = self.values.get(node.args[0])  # type: ignore[arg-type]
            place: Any = node.args[1]
            return pieces[place] if isinstance(pieces, list) else None
        if not isinstance(node.target, torch._ops.OpOverload) or not has_tensor(node.meta.get("val")):
            return None
        call = Call.of(node, self.values)
        if call.family is Family.FILL or not call.is_touched:
            return self._untouched(call)
        function = RULES.get(call.family)
        if function is None:
            if any(value.labelled for value in call.values):
                raise _refusal(call)
            return self._of_weights(call)
        result = function(self, call)
        if isinstance(result, list):
            return [self._noted(value) for value in result]
        noted = self._noted(result)
        return [noted, *(Value(inert(shape)) for shape in call.shapes[1:])] if call.has_several else noted

    def _of_weights(self, call: Call) -> Value | list[Value]:
        """Keep parameters that an unknown operation turns into a weight, such as weight norm, or multiplies with."""
        for value in call.values:
            self.bind(value, inert(value.shape))
            if call.row.macs == "counted":
                is_cell = call.family is Family.CELL
                self.keep_rows(value, _cell(call) if is_cell else f"prunus does not follow aten.{call.name}")
        outputs = [Value(inert(shape)) for shape in call.shapes]
        return outputs if call.has_several else outputs[0]

    def _noted(self, value: Value) -> Value:
        labels = tidy(value.labels)
        self.grids.append(labels)
        return value if labels is value.labels else replace(value, labels=labels)

    def _untouched(self, call: Call) -> Value | list[Value]:
        """Label what depends on no parameter: it stays, unless it is filled with one number and can have any size."""
        to_measure = call.family is Family.FILL and call.node.meta["val"].is_floating_point()
        if to_measure and 0 < call.shape.numel() <= MOST_MADE:
            first = self.partition.add(call.shape.numel())
            return Value(torch.arange(first, len(self.partition)).reshape(call.shape), is_filled=True)
        contents = computed(call)
        outputs = [Value(inert(shape), contents=contents) for shape in call.shapes]
        return outputs if call.has_several else outputs[0]

    # What rules say.

    def axis(self, source: Source, dim: int) -> Tensor | None:
        """Return the atoms of a used weight's indices along one of its dimensions; None where they are not its own."""
        if source.ids is None:
            return self.atoms((source.name, (dim,)), source.shape[dim])
        inner_dims = _inner_dims(source, dim)
        if inner_dims is None:
            return None
        dims, positions = inner_dims
        size = math.prod(source.shape[inner] for inner in dims)
        return self.atoms((source.name, dims), size)[positions]

    def atoms(self, axis: Axis, size: int) -> Tensor:
        """Return the atoms of a parameter's axis, made at the first call."""
        if axis not in self.axes:
            first = self.partition.add(size)
            self.axes[axis] = (first, size)
            if len(axis[1]) > 1:
                shape = self.graph.tensor(axis[0]).shape
                self.grids.append(torch.arange(first, first + size).reshape([shape[dim] for dim in axis[1]]))
        first, size = self.axes[axis]
        return torch.arange(first, first + size)

    def join(self, first: Tensor, second: Tensor) -> None:
        """Couple labels element by element; where one is of no channel, the other has to stay."""
        first, second = compact_both(first, second)
        both = (first >= 0) & (second >= 0)
        if both.any():
            self.partition.union(*distinct(first[both], second[both]))
        for one, other in ((first, second), (second, first)):
            lonely = (one >= 0) & (other < 0)
            if lonely.any():
                self.keep(one[lonely], "it meets what no layer makes, such as the model's input")

    def keep(self, labels: Tensor | None, reason: str) -> None:
        """Keep labels: none of their channels may go. None stands for no labels."""
        if labels is None:
            return
        atoms = torch.unique(compact(labels))
        atoms = atoms[atoms >= 0]
        if len(atoms):
            self.fixed.append((atoms, reason))

    def keep_only(self, labels: Tensor) -> None:
        """Keep labels that are all of one class: of their tensor nothing would be left."""
        single = len(torch.unique(compact(labels))) == 1
        self.keep(labels, "it is the only channel of its layer" if single else "all channels beside it go with it")

    def keep_rows(self, value: Value, reason: str) -> None:
        """Keep all rows of a parameter, so that the reason is listed for it."""
        for source in value.sources:
            if source.ids is None and len(source.shape) > 1:
                self.keep(self.axis(source, 0), reason)

    def need(self, labels: Tensor, dims: Sequence[int], reason: str, node: fx.Node) -> None:
        """Keep labels if, once the whole graph is read, they differ along one of these dimensions."""
        wanted = tuple(dim % labels.ndim for dim in dims if labels.ndim)
        if wanted and bool((compact(labels) >= 0).any()):
            self.needs.append(Need(labels, wanted, reason, node))

    def leak(self, labels: Tensor | None) -> None:
        """Note that channels are consumed by something that is not a weight."""
        if labels is not None:
            self.leaks.append(labels)

    def bind(self, value: Value, labels: Tensor) -> None:
        """Tie the elements of a parameter to the labels beside them: an element goes when all of these go."""
        for source in value.sources:
            ids = source.indices().broadcast_to(labels.shape)
            small_ids, small_labels = compact_both(ids, labels)
            met, neighbours = distinct(small_ids.reshape(-1), small_labels.reshape(-1))
            self.bindings.setdefault(source.name, []).append((source.moved(met), neighbours))

    def promote(self, value: Value) -> Tensor:
        """Return the labels of a value; each element of a parameter gets an atom of its own."""
        if not value.sources:
            return value.labels
        (source, *others) = value.sources
        tensor = self.graph.tensor(source.name)
        is_parameter = source.name in self.graph.program.graph_signature.parameters
        if others or not (is_parameter or (tensor.is_floating_point() and tensor.numel() <= _MOST_PROMOTED)):
            self.bind(value, inert(value.shape))
            return inert(value.shape)
        if source.name not in self.elements:
            self.elements[source.name] = self.partition.add(source.shape.numel())
            self.grids.append(torch.arange(source.shape.numel()).reshape(source.shape) + self.elements[source.name])
        labels = source.indices() + self.elements[source.name]
        self.bind(value, labels)
        return labels

    def vector(self, labels: Tensor, dim: int) -> Tensor | None:
        """Return the labels along a dimension, joined over all others; None where they hold no atom."""
        small = compact(labels)
        if not (small >= 0).any():
            return None
        for other in range(small.ndim):
            if other != dim and small.shape[other] > 1:
                self.join(small, small.narrow(other, 0, 1).expand_as(small))
        return small.movedim(dim, 0).reshape(small.shape[dim], -1)[:, 0].expand(labels.shape[dim])

    def varying(self, labels: Tensor) -> list[int]:
        """Return the dimensions along which labels differ, with what is joined taken as equal."""
        return varying(self.classes(labels))

    def classes(self, labels: Tensor) -> Tensor:
        """Return labels with each atom's class in its place."""
        small = compact(labels)
        return torch.where(small >= 0, self.partition.find(small.clamp(min=0)), small).expand(labels.shape)


def _used(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the operations whose results an output, a check or what is written in place needs."""
    used: set[fx.Node] = set()
    for node in reversed(nodes):
        writes = isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        holds = has_tensor(node.meta.get("val"))
        if node.op == "output" or writes or not holds or any(user in used for user in node.users):
            used.add(node)
    return used


def _flat(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (list, tuple)):
        for entry in tree:
            yield from _flat(entry)
    elif isinstance(tree, dict):
        yield from _flat(list(tree.values()))
    else:
        yield tree


def _refusal(call: Call) -> GraphError:
    name, place = call.node.target.overloadpacket, where(call.node)  # type: ignore[union-attr]
    if call.family is Family.CELL:
        return GraphError(f"{_cell(call)}, so it can't tell which channels it couples: in {place}; use such a layer")
    return GraphError(
        f"operation {name} is not known, so prunus can't tell which channels it couples: in {place}; write it with "
        "other operations, or enter it in prunus.graph.operations, in the family whose rules it keeps"
    )


def _cell(call: Call) -> str:
    return f"aten.{call.name} is a single step of a recurrent layer, and prunus follows nn.LSTM, nn.GRU and nn.RNN only"


def _inner_dims(source: Source, dim: int) -> tuple[tuple[int, ...], Tensor] | None:
    """Find which dimensions of a parameter a dimension of the used weight runs over, and the index at each position."""
    ids = source.indices()
    coordinates = torch.unravel_index(ids, source.shape)
    inner_dims: list[int] = []
    position = torch.zeros(ids.shape[dim], dtype=torch.int64)
    for inner, coordinate in enumerate(coordinates):
        if source.shape[inner] == 1:
            continue
        first = first_of(coordinate, dim)
        if torch.equal(coordinate, along(first, dim, ids.shape)):
            if bool((first != first[0]).any()) or ids.ndim == 1:
                inner_dims.append(inner)
                position = position * source.shape[inner] + first
        elif dim in varying(coordinate):
            return None
    return (tuple(inner_dims), position) if inner_dims else None
