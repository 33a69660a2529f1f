"""Operations that compute: what stays of their tensors must fit together, and what they mix must stay whole.

Each check is entered for a family of operations. It raises where the operation on what is
left would not be the original's result restricted to what is left, and returns the literals that must change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from prunus.graph import where
from prunus.graph.coupling import Value
from prunus.graph.coupling.arithmetic import reduced_dims
from prunus.graph.coupling.calls import Call
from prunus.graph.operations import Family
from prunus.graph.rewriting.extents import Extents, Masks, RewriteError, alike

Literals: TypeAlias = dict[str, Any]
Check: TypeAlias = "Callable[[Fit], Literals | None]"
_CHECKS: dict[Family, Check] = {}


class Fit:
    """One operation with what stays of each of its tensors.

    Args:
        call: the operation.
        outputs: its results.
        extents: what stays.
    """

    def __init__(self, call: Call, outputs: Sequence[Value], extents: Extents) -> None:
        self.call, self.outputs, self.extents = call, outputs, extents
        self._letters: dict[str, tuple[int, Tensor | None]] = {}

    def masks(self, value: Value) -> Masks:
        """Return which indices stay, one mask a dimension."""
        return self.extents.of(value)

    def whole(self, value: Value | None, dims: Sequence[int] | None = None) -> None:
        """Raise unless a tensor keeps all indices of some dimensions, of all for None."""
        if value is None:
            return
        masks = self.masks(value)
        for dim in range(len(masks)) if dims is None else dims:
            if masks and masks[dim] is not None:
                raise self.error(
                    f"dimension {dim % len(masks)} of a tensor of shape {tuple(value.shape)} must stay whole"
                )

    def letters(self, value: Value | None, letters: str) -> None:
        """Note a letter for each dimension of a tensor; raise where another dimension of that letter keeps others.

        A dimension of size 1 is one that broadcasts: it agrees with all.
        """
        if value is None:
            return
        for letter, size, mask in zip(letters, value.shape, self.masks(value), strict=True):
            if size == 1 or letter == ANY:
                continue
            earlier = self._letters.setdefault(letter, (size, mask))
            if not alike(earlier[1], mask):
                raise self.error(
                    f"a dimension of size {size} keeps {_count(size, mask)} indices in one tensor and "
                    f"{_count(*earlier)} in another, or not the same ones"
                )

    def error(self, reason: str) -> RewriteError:
        """Return an error that names the operation."""
        return RewriteError(
            f"aten.{self.call.name} can't be computed on what is kept: {reason}; in {where(self.call.node)}"
        )


ANY = "."  # the letter of a dimension that nothing is said of


def _count(size: int, mask: Tensor | None) -> int:
    return size if mask is None else int(mask.sum())


def literals(call: Call, outputs: Sequence[Value], extents: Extents) -> Literals:
    """Return the arguments of a computing operation that have other numbers on what is left.

    Raises:
        RewriteError: the operation on what is left would give something else.
    """
    fit = Fit(call, outputs, extents)
    check = _CHECKS.get(call.family, all_whole) if call.is_touched else all_whole
    return check(fit) or {}


def checks(*families: Family) -> Callable[[Check], Check]:
    """Enter the decorated check for the operations of some families."""

    def enter(check: Check) -> Check:
        for family in families:
            _CHECKS[family] = check
        return check

    return enter


@checks(Family.PATCHES)
def all_whole(fit: Fit) -> None:
    """Raise unless no tensor loses anything."""
    for value in (*fit.call.values, *fit.outputs):
        fit.whole(value)


@checks(Family.SAME)
def _same(fit: Fit) -> None:
    for value in (fit.call.values[0], *fit.outputs):
        fit.letters(value, _alphabet(value))


def _alphabet(value: Value) -> str:
    """Return a letter for each dimension, counted from the last one, as tensors are broadcast."""
    return "".join(chr(ord("a") + place) for place in reversed(range(len(value.shape))))


@checks(Family.ELEMENTWISE)
def _elementwise(fit: Fit) -> None:
    for value in (*fit.call.values, *fit.outputs):
        fit.letters(value, _alphabet(value))


@checks(Family.TRIANGLE)
def _triangle(fit: Fit) -> None:
    for value in (*fit.call.values, *fit.outputs):
        fit.whole(value, [-2, -1])
        fit.letters(value, _alphabet(value))


@checks(Family.PRELU)
def _prelu(fit: Fit) -> None:
    value, weight = fit.call["self"], fit.call["weight"]
    _channels(fit, value, [weight])


def _channels(fit: Fit, value: Value, vectors: Sequence[Value | None]) -> None:
    """Check that inputs and outputs keep the same, and vectors the same as dimension 1."""
    letters = _alphabet(value)
    for tensor in (value, *fit.outputs[:1]):
        fit.letters(tensor, letters)
    for vector in vectors:
        if vector is not None and vector.labels.ndim:
            fit.letters(vector, letters[1])


@checks(Family.GLU)
def _glu(fit: Fit) -> None:
    value, (out,) = fit.call["self"], fit.outputs
    dim = fit.call["dim"] % len(value.shape)
    mask = fit.masks(value)[dim]
    halves = (None, None) if mask is None else mask.chunk(2)
    if not all(alike(_none_if_whole(half), fit.masks(out)[dim]) for half in halves):
        raise fit.error("its two halves must keep the same")
    letters = _alphabet(value)
    for tensor in (value, out):
        fit.letters(tensor, letters[:dim] + ANY + letters[dim + 1 :])


def _none_if_whole(mask: Tensor | None) -> Tensor | None:
    return None if mask is None or bool(mask.all()) else mask


@checks(Family.MIX)
def _mixing(fit: Fit) -> None:
    value = fit.call.values[0]
    dim = fit.call["dim"] % max(len(value.shape), 1)
    letters = _alphabet(value)
    for tensor in (value, *fit.outputs):
        fit.whole(tensor, [dim])
        fit.letters(tensor, letters[:dim] + ANY + letters[dim + 1 :])


@checks(Family.REDUCE)
def _reducing(fit: Fit) -> Literals | None:
    if isinstance(fit.call.get("other"), Value):
        return _elementwise(fit)
    value = fit.call.values[0]
    reduced = reduced_dims(fit.call.get("dim"), len(value.shape))
    fit.whole(value, reduced)
    letters = "".join(ANY if dim in reduced else letter for dim, letter in enumerate(_alphabet(value)))
    fit.letters(value, letters)
    for out in fit.outputs:
        fit.letters(out, letters if fit.call.get("keepdim") else letters.replace(ANY, ""))
    return None


@checks(Family.CHANNEL_NORM)
def _channel_norm(fit: Fit) -> None:
    names = ("weight", "bias", "running_mean", "running_var")
    _channels(fit, fit.call["input"], [fit.call.get(name) for name in names])


@checks(Family.LAYER_NORM)
def _layer_norm(fit: Fit) -> None:
    value = fit.call["input"]
    normalised = range(-len(fit.call["normalized_shape"]), 0)
    letters = _alphabet(value)
    for tensor in (value, *fit.outputs):
        fit.whole(tensor, normalised)
        fit.letters(tensor, letters)
    for name in ("weight", "bias"):
        fit.whole(fit.call.get(name))


@checks(Family.GROUP_NORM)
def _group_norm(fit: Fit) -> Literals:
    value, groups = fit.call["input"], fit.call["num_groups"]
    _channels(fit, value, [fit.call.get(name) for name in ("weight", "bias")])
    mask = fit.masks(value)[1]
    if mask is None:
        return {}
    by_group = mask.reshape(groups, -1)
    if not torch.equal(by_group.any(1), by_group.all(1)):
        raise fit.error("a group must go whole")
    return {"num_groups": int(by_group.all(1).sum())}


@checks(Family.EMBEDDING)
def _embedding(fit: Fit) -> None:
    table, index, (out,) = fit.call["weight"], fit.call["indices"], fit.outputs
    fit.whole(index)
    fit.whole(table, [0])
    fit.letters(table, f"{ANY}c")
    fit.whole(out, range(len(out.shape) - 1))
    fit.letters(out, ANY * (len(out.shape) - 1) + "c")


@checks(Family.WINDOW)
def _resized(fit: Fit) -> None:
    value, *others = fit.call.values
    rank = len(value.shape)
    dims = fit.call.row.spatial_dims(rank)
    letters = _alphabet(value)[: rank - dims] + ANY * dims
    for tensor in (value, *fit.outputs):
        fit.whole(tensor, range(rank - dims, rank))
        fit.letters(tensor, letters)
    for tensor in others:
        fit.whole(tensor)


@checks(Family.PAD)
def _padded(fit: Fit) -> Literals:
    value, (out,) = fit.call.values[0], fit.outputs
    pads = list(fit.call["pad"])
    rank = len(value.shape)
    new = list(pads)
    for dim in range(rank):
        place = 2 * (rank - 1 - dim)
        before, after = pads[place : place + 2] if place < len(pads) else (0, 0)
        left, result = fit.masks(value)[dim], fit.masks(out)[dim]
        if left is None and result is None:
            continue
        size = out.shape[dim]
        stays = torch.ones(size, dtype=torch.bool) if result is None else result
        inner = stays[max(before, 0) : size - max(after, 0)]
        own = torch.ones(value.shape[dim], dtype=torch.bool) if left is None else left
        seen = own[max(-before, 0) : len(own) - max(-after, 0)]
        if not torch.equal(inner, seen):
            raise fit.error(f"dimension {dim} would keep other indices after padding than before")
        if (before or after) and fit.call.get("mode", "constant") != "constant":
            raise fit.error(f"dimension {dim} is padded by its own elements and must stay whole")
        if place < len(pads):
            new[place] = _pad(before, stays[: max(before, 0)], own[: max(-before, 0)])
            new[place + 1] = _pad(after, stays[size - max(after, 0) :], own[len(own) - max(-after, 0) :])
    return {"pad": new} if new != pads else {}


def _pad(pad: int, added: Tensor, dropped: Tensor) -> int:
    return int(added.sum()) if pad >= 0 else -int(dropped.sum())
