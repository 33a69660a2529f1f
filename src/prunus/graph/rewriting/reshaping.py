"""Reshapes proven group by group, and dimensions that an operation passes through: large tensors cost nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from prunus.graph.operations import AtenOperation
from prunus.graph.rewriting.extents import Masks, alike, outer


def keeps_order(before: Sequence[int], masks: Masks, after: Sequence[int], results: Masks) -> bool:
    """Tell whether what stays of a tensor is, in order, what stays of it in another shape.

    Args:
        before: its shape.
        masks: what stays of each dimension.
        after: the other shape.
        results: what stays of each dimension of it.
    """
    if 0 in before:
        return False
    return all(
        _group_keeps_order(before[first:last], masks[first:last], after[start:end], results[start:end])
        for (first, last), (start, end) in _groups(before, after)
    )


def _groups(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield the shortest runs of dimensions of two shapes that hold as many elements."""
    i = j = 0
    while i < len(before) or j < len(after):
        first, start, left, right = i, j, 1, 1
        if i < len(before):
            left, i = before[i], i + 1
        if j < len(after):
            right, j = after[j], j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        yield (first, i), (start, j)


def _group_keeps_order(before: Sequence[int], masks: Masks, after: Sequence[int], results: Masks) -> bool:
    if all(mask is None for mask in (*masks, *results)):
        return True
    if len(masks) == len(results) == 1:
        return alike(masks[0], results[0])
    return torch.equal(_staying(before, masks), _staying(after, results))


def _staying(shape: Sequence[int], masks: Masks) -> Tensor:
    """Return which elements stay, in order, bool."""
    along = [
        torch.ones(size, dtype=torch.bool) if mask is None else mask for size, mask in zip(shape, masks, strict=True)
    ]
    return outer(along).flatten()


def active_dims(row: AtenOperation, arguments: dict[str, Any], rank: int) -> set[int] | None:
    """Return the dimensions along which an operation moves elements; None where that isn't known.

    All others go through it one to one: each has the place in the result that it has in the input.
    """
    if row.name == "index":
        places = [place for place, entry in enumerate(arguments["indices"]) if entry is not None]
        return set(places) if len(places) == 1 and len(arguments["indices"][places[0]].shape) == 1 else None
    named = arguments.get(row.along) if isinstance(row.along, str) else row.along
    if named is None or named == []:
        return None
    return {dim % rank for dim in ([named] if isinstance(named, int) else named)}
