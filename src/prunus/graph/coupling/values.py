"""What flows through a graph when it is read for coupling: labels of elements, or a parameter on its way to its use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The label of an element that belongs to no channel, so that it has to stay.
INERT = -1


@dataclass(frozen=True, eq=False)
class Source:
    """Where the elements of a value lie in a parameter or buffer.

    Attributes:
        name: of the parameter or buffer.
        shape: its shape.
        ids: int64, of the value's shape: the flat index of each element; None where value and parameter are the same.
    """

    name: str
    shape: torch.Size
    ids: Tensor | None = None

    def indices(self) -> Tensor:
        """Return the ids, made where there were none."""
        return torch.arange(self.shape.numel()).reshape(self.shape) if self.ids is None else self.ids

    def moved(self, ids: Tensor) -> Source:
        """Return the same source in another arrangement."""
        return Source(self.name, self.shape, ids)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        labels: int64, of the tensor's shape: each element's atom, or INERT; expanded rather than copied.
        sources: the parameters it was computed from, and nothing else; empty for what depends on the inputs.
        contents: its elements, where it is a small constant of the graph.
        is_filled: whether it is filled with one number (zeros, ones), so that it can be cut like whatever it meets.
    """

    labels: Tensor
    sources: tuple[Source, ...] = ()
    contents: Tensor | None = None
    is_filled: bool = False

    @property
    def shape(self) -> torch.Size:
        """The tensor's shape, for the example inputs."""
        return self.labels.shape

    @property
    def labelled(self) -> bool:
        """Whether any element is of a channel."""
        return not self.is_filled and bool((compact(self.labels) >= 0).any())


def inert(shape: Sequence[int]) -> Tensor:
    """Return labels without an atom, which take no memory."""
    return torch.tensor(INERT).expand(tuple(shape))


def compact(labels: Tensor) -> Tensor:
    """Return labels with every dimension along which they were expanded cut to one."""
    for dim, (stride, size) in enumerate(zip(labels.stride(), labels.shape, strict=True)):
        if stride == 0 and size > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def tidy(labels: Tensor) -> Tensor:
    """Return the same labels, expanded along every dimension along which they are equal: it makes the rest quick."""
    small = compact(labels)
    for dim, size in enumerate(small.shape):
        if size > 1:
            first = small.narrow(dim, 0, 1)
            if torch.equal(small, first.expand_as(small)):
                small = first
    return small.contiguous().expand(labels.shape) if small.numel() < labels.numel() else labels


def along(vector: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """Return labels of a shape that vary along one dimension only."""
    view = [1] * len(shape)
    view[dim] = len(vector)
    return vector.reshape(view).expand(tuple(shape))


def varying(classes: Tensor) -> list[int]:
    """Return the dimensions along which classes differ."""
    small = compact(classes)
    return [dim for dim, size in enumerate(small.shape) if size > 1 and bool((small != small.narrow(dim, 0, 1)).any())]


def first_along(labels: Tensor, keep: Sequence[int]) -> Tensor:
    """Return the labels at index 0 of every dimension but those to keep, in the order of the dimensions."""
    for dim in reversed(range(labels.ndim)):
        if dim not in keep:
            labels = labels.select(dim, 0)
    return labels


def first_of(tensor: Tensor, dim: int) -> Tensor:
    """Return a tensor's entries along a dimension, at index 0 of all others."""
    return tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1)[:, 0]


def compact_both(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the dimensions along which both were expanded, after bringing them to one shape."""
    shape: torch.Size = torch.broadcast_shapes(first.shape, second.shape)  # type: ignore[no-untyped-call]
    first, second = first.expand(shape), second.expand(shape)
    for dim, size in enumerate(first.shape):
        if size > 1 and first.stride(dim) == 0 == second.stride(dim):
            first, second = first.narrow(dim, 0, 1), second.narrow(dim, 0, 1)
    return first, second


def distinct(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct pairs of two vectors; the first's entries are not negative, the second's at least -1."""
    span = int(second.max()) + 2 if len(second) else 1
    keys = torch.unique(first * span + second + 1)
    return keys // span, keys % span - 1
