"""What is left of each parameter, buffer and activation when some classes go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunus.graph.coupling import Coupling, Grouping
from prunus.graph.coupling.values import INERT, Value, compact


@dataclass(frozen=True, eq=False)
class Kept:
    """Which indices of each dimension of each parameter and buffer stay.

    Attributes:
        coupling: what goes together.
        gone: the classes that go, bool per class.
        indices: parameter or buffer -> dimension -> the indices that stay, int64; only dimensions that lose some.
        columns: weight of a grouped convolution -> the indices of dimension 1 that stay in each row, int64 of
            (rows, columns that stay): groups need not lose the same. Only where some go.
        training: likewise of the graph of training mode, where only that reaches some parameters.
    """

    coupling: Coupling
    gone: Tensor
    indices: Mapping[str, Mapping[int, Tensor]]
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    training: Kept | None = None

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """Return what is left of a parameter or buffer, or of a tensor of its shape, as a copy."""
        if name in self.columns:
            columns = self.columns[name].to(tensor.device)
            spread = columns.reshape(*columns.shape, *[1] * (tensor.ndim - 2))
            tensor = tensor.gather(1, spread.expand(*columns.shape, *tensor.shape[2:]))
        for dim, indices in self.indices.get(name, {}).items():
            tensor = tensor.index_select(dim, indices.to(tensor.device))
        return tensor.clone()

    def size(self, name: str, dim: int) -> int:
        """Return what is left of the size of a dimension of a parameter or buffer."""
        if dim == 1 and name in self.columns:
            return self.columns[name].shape[1]
        whole = self.coupling.graph.tensor(name).shape[dim]
        indices = self.indices.get(name, {}).get(dim)
        return whole if indices is None else len(indices)

    def stays(self, labels: Tensor) -> Tensor:
        """Return which elements with these labels stay, bool of their shape."""
        small = compact(labels)
        gone = self.gone[self.coupling.class_of[small.clamp(min=0)]] & (small != INERT)
        return (~gone).expand(labels.shape)

    def along(self, value: Value, dim: int) -> Tensor:
        """Return which indices of a dimension of an activation stay, bool; an index goes when all its elements do."""
        stays = compact(self.stays(value.labels))
        size = value.shape[dim]
        return stays.movedim(dim, 0).flatten(1).any(1).expand(size) if stays.ndim > 1 else stays.expand(size)

    def shape(self, value: Value) -> list[int]:
        """Return what is left of an activation's shape."""
        return [int(self.along(value, dim).sum()) for dim in range(value.labels.ndim)]


def keep(coupling: Coupling, gone: Tensor) -> Kept:
    """Find what is left when classes go; a class comes back where its going would leave an axis empty.

    Args:
        coupling: what goes together.
        gone: the classes to go, bool per class.
    """
    gone = gone & coupling.removable
    before = -1
    while before != int(gone.sum()):
        before = int(gone.sum())
        for axis in coupling.axes:
            classes = coupling.axis_classes(axis)
            if bool(gone[classes].all()):
                gone[classes[0]] = False
        _keep_activations(coupling, gone)
        for grouping in coupling.groupings:
            _even_groups(coupling, grouping, gone)
    indices: dict[str, dict[int, Tensor]] = {}
    for axis in coupling.axes:
        name, dims = axis
        stays = ~gone[coupling.axis_classes(axis)]
        sizes = [coupling.graph.tensor(name).shape[dim] for dim in dims]
        _note(indices, name, dims, stays.reshape(sizes))
    for name, bound in coupling.bindings.items():
        shape = coupling.graph.tensor(name).shape
        covered = indices.get(name, {}).keys() | {dim for other, dims in coupling.axes if other == name for dim in dims}
        _note_bound(indices, name, shape, bound, coupling, gone, covered)
    cut_indices = {
        name: {dim: index for dim, index in by_dim.items() if len(index) < coupling.graph.tensor(name).shape[dim]}
        for name, by_dim in indices.items()
    }
    columns = {grouping.weight: _columns(coupling, grouping, gone) for grouping in coupling.groupings}
    cut = {name: own for name, own in columns.items() if own.shape[1] < coupling.graph.tensor(name).shape[1]}
    return Kept(coupling, gone, {name: by_dim for name, by_dim in cut_indices.items() if by_dim}, cut)


def _even_groups(coupling: Coupling, grouping: Grouping, gone: Tensor) -> None:
    """Bring classes back until all groups of a convolution that stay have equally many inputs and outputs."""
    ends = [coupling.class_of[atoms].reshape(grouping.groups, -1) for atoms in (grouping.inputs, grouping.outputs)]
    while True:
        stay = torch.stack([(~gone[classes]).any(1) for classes in ends]).any(0)
        missing = 0
        for classes in ends:
            out = gone[classes]
            counts = (~out).sum(1)
            lacking = torch.where(stay, max(1, int(counts.max())) - counts, 0)
            missing += int(lacking.sum())
            gone[classes[out & (out.cumsum(1) <= lacking[:, None])]] = False
        if not missing:
            return


def _columns(coupling: Coupling, grouping: Grouping, gone: Tensor) -> Tensor:
    """Return which columns of each row of a grouped convolution's weight stay; of rows that go, any so many."""
    along, across = (grouping.outputs, grouping.inputs) if grouping.transposed else (grouping.inputs, grouping.outputs)
    stays = ~gone[coupling.class_of[along]].reshape(grouping.groups, -1)
    order = (~stays).to(torch.int8).argsort(dim=1, stable=True)
    columns = order[:, : int(stays.sum(1).max())].sort(1).values
    return columns.repeat_interleave(len(across) // grouping.groups, 0)


def _keep_activations(coupling: Coupling, gone: Tensor) -> None:
    """Bring a class back for each tensor that would lose all its channels, pieces of a split included."""
    seen = set()
    for values in coupling.values.values():
        for value in values if isinstance(values, list) else [values]:
            if value is None or not value.labelled:
                continue
            small = compact(value.labels)
            if (key := (small.data_ptr(), small.shape)) not in seen:
                seen.add(key)
                classes = coupling.classes(small)
                if bool((classes >= 0).all()) and bool(gone[classes].all()):
                    gone[classes.flatten()[0]] = False


def _note(indices: dict[str, dict[int, Tensor]], name: str, dims: tuple[int, ...], stays: Tensor) -> None:
    """Note which indices stay; where an axis runs over several dimensions, those that any of its atoms needs."""
    for place, dim in enumerate(dims):
        own = stays.movedim(place, 0).flatten(1).any(1) if stays.ndim > 1 else stays
        indices.setdefault(name, {})[dim] = own.nonzero().flatten()


def bound_elements(
    bound: list[tuple[Tensor, Tensor]], coupling: Coupling, gone: Tensor, numel: int
) -> tuple[Tensor, Tensor]:
    """Return which elements of a parameter meet anything that stays, and which meet anything at all, bool by flat id.

    Args:
        bound: elements and the labels beside them, as in `Coupling.bindings`.
        coupling: what goes together.
        gone: the classes that go, bool per class.
        numel: how many elements the parameter has.
    """
    stays, met = torch.zeros(numel, dtype=torch.bool), torch.zeros(numel, dtype=torch.bool)
    for ids, labels in bound:
        met[ids] = True
        stays[ids[(labels == INERT) | ~gone[coupling.class_of[labels.clamp(min=0)]]]] = True
    return stays, met


def _note_bound(
    indices: dict[str, dict[int, Tensor]],
    name: str,
    shape: torch.Size,
    bound: list[tuple[Tensor, Tensor]],
    coupling: Coupling,
    gone: Tensor,
    covered: set[int],
) -> None:
    """Note what stays of a parameter that goes where its neighbours go: an index whose elements all may go, goes."""
    stays, met = bound_elements(bound, coupling, gone, shape.numel())
    if bool(stays[met].all()):
        return
    for dim in range(len(shape)):
        if dim in covered:
            continue
        kept = stays.reshape(shape).movedim(dim, 0).reshape(shape[dim], -1).any(1)
        never = ~met.reshape(shape).movedim(dim, 0).reshape(shape[dim], -1).any(1)
        if bool((kept | never).any()):
            indices.setdefault(name, {})[dim] = (kept | never).nonzero().flatten()
