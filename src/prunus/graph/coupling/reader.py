"""Reads a graph once, in order: each operation's rule labels its outputs and notes what has to go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx

from prunus.errors import GraphError
from prunus.graph import Graph, where
from prunus.graph.coupling.calls import FACTORIES, MOST_MADE, Call, bound, check_sizes, computed, has_tensor, shape_of
from prunus.graph.coupling.partition import Partition
from prunus.graph.coupling.values import Source, Value, along, compact, inert, tidy, varying

# The parameter, and the dimensions of it, that a run of atoms stands for: one dimension mostly, several where their
# indices only mean something together.
Axis: TypeAlias = tuple[str, tuple[int, ...]]

Groups: TypeAlias = Literal["alike", "counted"]

Rule: TypeAlias = Callable[["Reader", "Call"], "Value | list[Value]"]
RULES: dict[str, Rule] = {}

# Buffers up to this many elements, such as a bias that is not trained, are cut element by element like parameters.
_MOST_PROMOTED = 1 << 16


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter the decorated rule for operations of these names, such as ``"aten.conv2d"``."""

    def enter(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, name
            RULES[name] = function
        return function

    return enter


@dataclass(frozen=True, eq=False)
class Use:
    """A parameter that multiplies an activation: its columns consume channels, its rows make them.

    Attributes:
        node: the operation.
        weight: the parameter as it is used: matrices of (outputs, inputs, everything else), see `matrix`.
        order: how the dimensions of the used weight have to be permuted to be that.
        inputs: the atom of each input, None where the inputs are no channels.
        outputs: the atom of each output, None where they are no channels.
        groups: of a convolution: outputs meet the inputs of their own group only.
        positions: how many times for one sample the weight is multiplied.
        bias: the bias beside it.
        recurrent: whether its outputs depend on what they were before.
    """

    node: fx.Node
    weight: Source
    order: tuple[int, int]
    inputs: Tensor | None
    outputs: Tensor | None
    groups: int = 1
    positions: int = 1
    bias: Source | None = None
    recurrent: bool = False


@dataclass(frozen=True, eq=False)
class Grouping:
    """A grouped convolution whose groups may lose different channels, as long as all that stay keep equally many.

    Attributes:
        weight: the parameter; its rows are cut by whole groups and places, its columns row by row.
        groups: how many there are.
        inputs: the atom of each input, those of a group beside each other.
        outputs: the atom of each output, likewise.
        transposed: whether the weight's rows are the inputs and its columns the outputs of a group.
    """

    weight: str
    groups: int
    inputs: Tensor
    outputs: Tensor
    transposed: bool


@dataclass(frozen=True, eq=False)
class Product:
    """A product of two activations: as many multiply-adds for one sample as the labels have elements, times `depth`."""

    node: fx.Node
    labels: Tensor
    depth: int


@dataclass(frozen=True, eq=False)
class Need:
    """Labels that have to stay where they differ along some dimensions of a tensor."""

    labels: Tensor
    dims: tuple[int, ...]
    reason: str
    node: fx.Node


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
        found = node.meta.get("val")
        if not isinstance(found, Tensor):
            return None
        name = self.graph.tensors.get(node.name)
        if name is None:
            return Value(inert(shape_of(found)))
        tensor = self.graph.tensor(name)
        small = not tensor.is_floating_point() and not tensor.is_meta and name not in self.graph.model._parameters
        known = tensor.detach().cpu() if small else None
        return Value(inert(tensor.shape), (Source(name, tensor.shape),), known)

    def _operation(self, node: fx.Node) -> Any:
        if node.target is not None and getattr(node.target, "__name__", "") == "getitem":
            pieces = self.values.get(node.args[0])  # type: ignore[arg-type]
            place: Any = node.args[1]
            return pieces[place] if isinstance(pieces, list) else None
        if not isinstance(node.target, torch._ops.OpOverload) or not has_tensor(node.meta.get("val")):
            return None
        name = str(node.target.overloadpacket)
        arguments = bound(node.target, node, self.values)
        call = Call(node, name, arguments)
        values = call.values
        if name in FACTORIES or not any(value.sources or value.made or value.labelled for value in values):
            return self._untouched(call)
        function = RULES.get(name) or RULES.get(name.removesuffix("_"))
        if function is None and not any(value.labelled for value in values):
            return self._of_weights(call)
        if function is None:
            raise GraphError(
                f"operation {name} is not known, so prunus can't tell which channels it couples: in {where(node)}; "
                "write it with other operations, or have prunus learn it with one rule in prunus/coupling"
            )
        found = function(self, call)
        if isinstance(found, list):
            return [self._noted(value) for value in found]
        return self._noted(found)

    def _of_weights(self, call: Call) -> Value | list[Value]:
        """Keep parameters that an unknown operation turns into a weight, such as weight norm."""
        for value in call.values:
            self.bind(value, inert(value.shape))
        outputs = [Value(inert(shape)) for shape in call.shapes]
        return outputs if isinstance(call.node.meta["val"], (list, tuple)) else outputs[0]

    def _noted(self, value: Value) -> Value:
        labels = tidy(value.labels)
        self.grids.append(labels)
        return value if labels is value.labels else replace(value, labels=labels)

    def _untouched(self, call: Call) -> Value | list[Value]:
        """Label what depends on no parameter: it stays, or it is made to measure."""
        found = call.node.meta["val"]
        if call.name in FACTORIES and found.is_floating_point() and 0 < call.shape.numel() <= MOST_MADE:
            first = self.partition.add(call.shape.numel())
            return Value(torch.arange(first, len(self.partition)).reshape(call.shape), made=True)
        known = computed(call)
        outputs = [Value(inert(shape), known=known) for shape in call.shapes]
        return outputs if isinstance(found, (list, tuple)) else outputs[0]

    # What rules say.

    def axis(self, source: Source, dim: int) -> Tensor | None:
        """Return the atoms of a used weight's indices along one of its dimensions; None where they are not its own."""
        if source.ids is None:
            return self.atoms((source.name, (dim,)), source.shape[dim])
        inner = _inner_dim(source, dim)
        if inner is None:
            return None
        dims, positions = inner
        size = 1
        for each in dims:
            size *= source.shape[each]
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
        """Let labels go together, element by element; where one has no atom, the other has to stay as it is."""
        first, second = _compact_both(first, second)
        both = (first >= 0) & (second >= 0)
        if both.any():
            self.partition.union(*_distinct(first[both], second[both]))
        for one, other in ((first, second), (second, first)):
            lonely = (one >= 0) & (other < 0)
            if lonely.any():
                self.keep(one[lonely], "it meets what is no channel")

    def keep(self, labels: Tensor | None, reason: str) -> None:
        """Have labels stay."""
        if labels is None:
            return
        atoms = torch.unique(compact(labels))
        atoms = atoms[atoms >= 0]
        if len(atoms):
            self.fixed.append((atoms, reason))

    def need(self, labels: Tensor, dims: Sequence[int], reason: str, node: fx.Node) -> None:
        """Have labels stay if, once everything is read, they differ along one of these dimensions."""
        wanted = tuple(dim % labels.ndim for dim in dims if labels.ndim)
        if wanted and bool((compact(labels) >= 0).any()):
            self.needs.append(Need(labels, wanted, reason, node))

    def leak(self, labels: Tensor | None) -> None:
        """Note that channels are consumed by something that is not a weight."""
        if labels is not None:
            self.leaks.append(labels)

    def bind(self, value: Value, labels: Tensor) -> None:
        """Let the elements of a parameter go where all that they meet goes."""
        for source in value.sources:
            ids = source.indices().broadcast_to(labels.shape)
            small_ids, small_labels = _compact_both(ids, labels)
            met, neighbours = _distinct(small_ids.reshape(-1), small_labels.reshape(-1))
            self.bindings.setdefault(source.name, []).append((source.moved(met), neighbours))

    def promote(self, value: Value) -> Tensor:
        """Return labels for a value, after giving each element of a parameter an atom of its own."""
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
        for each in tree:
            yield from _flat(each)
    elif isinstance(tree, dict):
        yield from _flat(list(tree.values()))
    else:
        yield tree


def _compact_both(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the dimensions along which both were expanded, after bringing them to one shape."""
    shape: torch.Size = torch.broadcast_shapes(first.shape, second.shape)  # type: ignore[no-untyped-call]
    first, second = first.expand(shape), second.expand(shape)
    for dim, size in enumerate(first.shape):
        if size > 1 and first.stride(dim) == 0 == second.stride(dim):
            first, second = first.narrow(dim, 0, 1), second.narrow(dim, 0, 1)
    return first, second


def _distinct(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct pairs of two vectors; the first's entries are not negative, the second's at least -1."""
    span = int(second.max()) + 2 if len(second) else 1
    keys = torch.unique(first * span + second + 1)
    return keys // span, keys % span - 1


def _inner_dim(source: Source, dim: int) -> tuple[tuple[int, ...], Tensor] | None:
    """Find which dimensions of a parameter a dimension of the used weight runs over, and the index at each position."""
    ids = source.indices()
    coordinates = torch.unravel_index(ids, source.shape)
    others = [each for each in range(ids.ndim) if each != dim]
    found: list[int] = []
    position = torch.zeros(ids.shape[dim], dtype=torch.int64)
    for inner, coordinate in enumerate(coordinates):
        if source.shape[inner] == 1:
            continue
        first = first_of(coordinate, dim)
        if torch.equal(coordinate, along(first, dim, ids.shape)):
            if bool((first != first[0]).any()) or not others:
                found.append(inner)
                position = position * source.shape[inner] + first
        elif dim in varying(coordinate):
            return None
    return (tuple(found), position) if found else None


def first_of(tensor: Tensor, dim: int) -> Tensor:
    """Return a tensor's entries along a dimension, at index 0 of all others."""
    return tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1)[:, 0]
