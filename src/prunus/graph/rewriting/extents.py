"""Which indices of each dimension of each tensor in a graph stay: activations, and parameters on their way to a use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from prunus.graph.coupling import Value
from prunus.graph.coupling.values import INERT, compact
from prunus.graph.kept import Kept

# For each dimension which indices stay, bool; None where all do.
Masks: TypeAlias = tuple[Tensor | None, ...]


class RewriteError(ValueError):
    """An operation that can't be computed on what is kept; the message says which, where, and why."""


class Extents:
    """What stays of each tensor of a graph, as one mask a dimension.

    Args:
        kept: which classes go.
    """

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self._gone = kept.gone[kept.coupling.class_of]  # by atom
        self._masks: dict[int, tuple[Value, Masks]] = {}  # the value is held, so that its id stays its own
        self._by_labels: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def of(self, value: Value) -> Masks:
        """Return which indices of each dimension of a tensor stay.

        Raises:
            RewriteError: what stays is no grid, or nothing of it stays.
        """
        if id(value) not in self._masks:
            masks: Masks = (None,) * value.labels.ndim
            if value.sources:
                masks = self._of_sources(value)
            elif value.labelled or value.is_filled:
                stays = self._stays(compact(value.labels))
                if bool(stays.any()) or not value.is_filled:  # zeros that no channel meets are made as before
                    masks = _by_dimension(stays, value.shape)
            self._masks[id(value)] = value, masks
        return self._masks[id(value)][1]

    def shape(self, value: Value) -> list[int]:
        """Return what is left of a tensor's shape."""
        return cut_shape(value.shape, self.of(value))

    def is_cut(self, value: Value) -> bool:
        """Tell whether a tensor loses anything."""
        return any(mask is not None for mask in self.of(value))

    def _stays(self, labels: Tensor) -> Tensor:
        key = (labels.data_ptr(), labels.shape, labels.stride())
        if key not in self._by_labels:
            self._by_labels[key] = labels, ~(self._gone[labels.clamp(min=0)] & (labels != INERT))
        return self._by_labels[key][1]

    def _of_sources(self, value: Value) -> Masks:
        by_source = [self._of_source(value, place) for place in range(len(value.sources))]
        if not all(same(masks, by_source[0]) for masks in by_source):
            names = " and ".join(repr(source.name) for source in value.sources)
            raise RewriteError(
                f"a tensor that is computed from {names} would lose other parts of one than of the other"
            )
        return by_source[0]

    def _of_source(self, value: Value, place: int) -> Masks:
        source = value.sources[place]
        indices = dict(self.kept.indices.get(source.name, {}))
        columns = self.kept.columns.get(source.name)
        if columns is not None:  # as many in each row, though not the same
            indices[1] = torch.arange(columns.shape[1])
        if not indices:
            return (None,) * value.labels.ndim
        along = []
        for dim, size in enumerate(source.shape):
            mask = torch.ones(size, dtype=torch.bool)
            if dim in indices:
                mask.zero_()[indices[dim]] = True
            along.append(mask)
        if source.ids is None:
            return tuple(whole_is_none(mask) for mask in along)
        return _by_dimension(outer(along).reshape(-1)[compact(source.ids)], value.shape)


def _by_dimension(stays: Tensor, shape: torch.Size) -> Masks:
    """Return the mask of each dimension for elements that stay: one size where all indices are alike."""
    if bool(stays.all()):
        return (None,) * len(shape)
    if not bool(stays.any()):
        raise RewriteError(f"nothing would be left of a tensor of shape {tuple(shape)}")
    along = [stays.movedim(dim, 0).flatten(1).any(1) if stays.ndim > 1 else stays for dim in range(stays.ndim)]
    if not torch.equal(outer(along), stays):
        raise RewriteError(f"what would be left of a tensor of shape {tuple(shape)} is no grid")
    return tuple(whole_is_none(mask) for mask in along)


def cut_shape(shape: Sequence[int], masks: Masks) -> list[int]:
    """Return what is left of a shape."""
    return [size if mask is None else int(mask.sum()) for size, mask in zip(shape, masks, strict=True)]


def outer(along: list[Tensor]) -> Tensor:
    """Return which elements of a grid stay."""
    stays = torch.ones([len(mask) for mask in along], dtype=torch.bool)
    for dim, mask in enumerate(along):
        stays &= mask.reshape([-1 if place == dim else 1 for place in range(len(along))])
    return stays


def whole_is_none(mask: Tensor) -> Tensor | None:
    """Return a mask, None where all of it stays."""
    return None if bool(mask.all()) else mask


def same(first: Masks, second: Masks) -> bool:
    """Tell whether the same indices stay."""
    return len(first) == len(second) and all(alike(one, other) for one, other in zip(first, second, strict=True))


def alike(one: Tensor | None, other: Tensor | None) -> bool:
    """Tell whether the same indices of one dimension stay."""
    if one is None or other is None:
        return one is None and other is None
    return torch.equal(one, other)


def indices(mask: Tensor | None, size: int) -> Tensor:
    """Return the indices that stay, int64."""
    return torch.arange(size) if mask is None else mask.nonzero().flatten()


def taken(tensor: Tensor, masks: Masks) -> Tensor:
    """Return what stays of a tensor; along dimensions that it was expanded to it takes no memory."""
    for dim, mask in enumerate(masks):
        if mask is None:
            continue
        if tensor.stride(dim) == 0:
            tensor = tensor.narrow(dim, 0, int(mask.sum()))
        else:
            tensor = tensor.index_select(dim, mask.nonzero().flatten().to(tensor.device))
    return tensor
