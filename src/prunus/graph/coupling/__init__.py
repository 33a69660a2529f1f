"""Which indices of which parameters have to go together, read off a model's graph index by index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from prunus.graph import Graph
from prunus.graph.coupling import arithmetic, contraction, convolution, movement, recurrent  # noqa: F401  # enter their rules
from prunus.graph.coupling.reader import Reader
from prunus.graph.coupling.uses import Axis, Grouping, Groups, Product, Use
from prunus.graph.coupling.values import INERT, Value, compact, varying

__all__ = ["Axis", "Coupling", "Grouping", "Groups", "Product", "Use", "Value", "couple"]


@dataclass(frozen=True, eq=False)
class Coupling:
    """What a model's graph couples.

    An atom stands for one index of one axis of a parameter; atoms that have to go together form a class.

    Attributes:
        graph: what was read.
        class_of: the class of each atom, int64.
        num_classes: how many classes there are.
        axes: parameter and dimensions -> first atom and size; the atoms of an axis follow each other.
        bindings: parameter -> elements (flat ids) that go where the labels beside them go.
        uses: where weights consume and make channels.
        products: products of activations.
        reason: why a class has to stay, as an index of `reasons`, int64 per class; -1 where it may go.
        reasons: the texts.
        leaky: classes that something consumes which is no weight, bool per class.
        values: operation -> what it computes, with labels.
        groupings: grouped convolutions whose groups need not lose the same.
    """

    graph: Graph
    class_of: Tensor
    num_classes: int
    axes: dict[Axis, tuple[int, int]]
    bindings: dict[str, list[tuple[Tensor, Tensor]]]
    uses: list[Use]
    products: list[Product]
    reason: Tensor
    reasons: tuple[str, ...]
    leaky: Tensor
    values: dict[fx.Node, Value | list[Value] | None]
    groupings: list[Grouping] = field(default_factory=list)

    @property
    def removable(self) -> Tensor:
        """Which classes may go, bool per class."""
        return self.reason < 0

    def axis_classes(self, axis: Axis) -> Tensor:
        """Return the class of each index of an axis."""
        first, size = self.axes[axis]
        return self.class_of[first : first + size]

    def classes(self, labels: Tensor) -> Tensor:
        """Return labels with classes in the place of atoms."""
        small = compact(labels)
        return torch.where(small >= 0, self.class_of[small.clamp(min=0)], small).expand(labels.shape)


def couple(graph: Graph, groups: Groups = "alike") -> Coupling:
    """Read which indices of a model's parameters have to go together.

    Args:
        graph: the model's.
        groups: what grouped convolutions may lose. "alike": whole groups, or the same places of each, so that the
            classes say all. "counted": anything that leaves equally many channels in all groups that stay; see
            `Coupling.groupings`.

    Source: dependency graphs for structured pruning go back to Fang et al., "DepGraph: towards any structural pruning",
    CVPR 2023; here single indices are followed instead of layers, so that operations that move elements need no rule.

    Raises:
        GraphError: an operation on channels has no rule; the message names it, its module and its line.
    """
    with one_thread():
        return _couple(graph, groups)


def _couple(graph: Graph, groups: Groups) -> Coupling:
    reader = Reader(graph, groups)
    reader.read()
    convolution.settle_groupings(reader)
    _settle_grids(reader)
    roots = reader.partition.find(torch.arange(len(reader.partition)))
    names, class_of = torch.unique(roots, return_inverse=True)
    reason, reasons = _reasons(reader, class_of, len(names))
    leaky = torch.zeros(len(names), dtype=torch.bool)
    for labels in reader.leaks:
        small = compact(labels)
        leaky[class_of[small[small >= 0]]] = True
    bindings = {
        name: [(source.indices(), labels) for source, labels in bound] for name, bound in reader.bindings.items()
    }
    return Coupling(
        graph,
        class_of,
        len(names),
        reader.axes,
        bindings,
        reader.uses,
        reader.products,
        reason,
        reasons,
        leaky,
        reader.values,
        reader.groupings,
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: labels are many small tensors, for which several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _settle_grids(reader: Reader) -> None:
    """Join labels until every tensor stays a grid whatever goes: where two dimensions hold channels, one is chosen.

    A tensor of (groups, channels of a group) can lose whole groups, or the same channel of each group, but not single
    elements. The dimension that leaves more classes is taken.
    """
    seen: dict[tuple[int, ...], Tensor] = {}
    for labels in reader.grids:
        small = compact(labels)
        if small.ndim >= 2 and small.numel() > 1:
            seen.setdefault((small.data_ptr(), *small.shape, *small.stride()), small)
    pending = list(seen.values())
    while pending:
        again = []
        for labels in pending:
            differ = reader.varying(labels)
            if len(differ) >= 2:
                _settle(reader, labels, differ)
                again.append(labels)
        if not again:
            return
        pending = list(seen.values())


def _settle(reader: Reader, labels: Tensor, differ: list[int]) -> None:
    if bool((labels == INERT).any()):  # part of it is channels, part is not
        _settle_mixed(reader, labels, differ)
        return
    best = max(differ, key=lambda dim: (len(torch.unique(_joined_over(reader, labels, dim))), -dim))
    for dim in differ:
        if dim != best:
            reader.join(labels, labels.narrow(dim, 0, 1).expand_as(labels))


def _settle_mixed(reader: Reader, labels: Tensor, differ: list[int]) -> None:
    """Keep channels that lie beside elements of no channel, unless they do so along one dimension only."""
    reader.keep(labels, "it lies beside what no layer makes, such as the model's input")
    atoms = labels[labels >= 0]
    reader.partition.union(atoms, atoms[:1].expand_as(atoms))
    labels.masked_fill_(labels == INERT, int(atoms[0]))


def _joined_over(reader: Reader, labels: Tensor, dim: int) -> Tensor:
    """Estimate the classes that are left along one dimension when all others are joined."""
    classes = reader.classes(labels).movedim(dim, 0).flatten(1)
    return classes.amin(1)


def _reasons(reader: Reader, class_of: Tensor, num_classes: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return why classes have to stay: the first reason that was met."""
    reasons = list(reader.fixed)
    for need in reader.needs:
        if set(varying(reader.classes(need.labels))) & set(need.dims):
            small = compact(need.labels)
            reasons.append((torch.unique(small[small >= 0]), need.reason))
    texts = list(dict.fromkeys(text for _, text in reasons))
    reason = torch.full((num_classes,), -1)
    for atoms, text in reversed(reasons):
        reason[class_of[atoms]] = texts.index(text)
    return reason, tuple(texts)
