"""Histograms of weights before and after pruning, so that the page needs no raw weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.pruning.masks import Masks

# bins on each side of zero, unless a threshold needs another number
HALF_BINS = 60
# the drawn range holds at least this share of the weights, so that outliers do not compress all others into one bar
DRAWN_SHARE = 0.999
_FINE_BINS = 4096


@dataclass(frozen=True)
class Bins:
    """Bins of equal width over [-limit, limit]."""

    limit: float
    number: int

    @property
    def centres(self) -> tuple[float, ...]:
        """The middle of each bin."""
        width = 2 * self.limit / self.number
        return tuple(-self.limit + width * (at + 0.5) for at in range(self.number))


@dataclass(frozen=True)
class Histogram:
    """Counts of the nonzero weights per bin, and the numbers of zeros and of weights outside the bins."""

    counts: tuple[int, ...]
    zeros: int
    outside: int


@dataclass(frozen=True)
class Cut:
    """The threshold between removed and kept dense weights: the largest |w| removed and the smallest |w| kept."""

    largest_removed: float
    smallest_kept: float

    @property
    def clean(self) -> bool:
        """Whether one threshold on |w| explains the choice."""
        return self.largest_removed <= self.smallest_kept

    @property
    def middle(self) -> float:
        """The threshold itself, between the two."""
        return (self.largest_removed + self.smallest_kept) / 2


def bins(limit: float, threshold: float | None = None, half: int = HALF_BINS) -> Bins:
    """Return bins over [-limit, limit], about `half` on each side, with edges at ±threshold if there is one.

    >>> bins(1.0)
    Bins(limit=1.0, number=120)
    >>> bins(1.0, threshold=0.25)  # 15 bins from 0 to the threshold
    Bins(limit=1.0, number=120)
    """
    if threshold:
        width = threshold / max(1, round(threshold * half / limit))
        number = math.ceil(limit / width)
        if number <= 4 * half:
            return Bins(number * width, 2 * number)
    return Bins(limit, 2 * half)


def histogram(tensors: Iterable[Tensor], into: Bins) -> Histogram:
    """Count the nonzero weights of tensors of any shape and floating dtype.

    >>> histogram([torch.tensor([-0.9, 0.0, 0.1, 0.2, 5.0])], Bins(limit=1.0, number=4))
    Histogram(counts=(1, 0, 2, 0), zeros=1, outside=1)
    """
    counts, zeros, total = torch.zeros(into.number, dtype=torch.int64), 0, 0
    for tensor in tensors:
        nonzero = tensor[tensor != 0].float()
        counts += torch.histc(nonzero, into.number, -into.limit, into.limit).long()
        zeros += tensor.numel() - nonzero.numel()
        total += tensor.numel()
    return Histogram(tuple(counts.tolist()), zeros, total - zeros - int(counts.sum()))


def drawn_limit(tensors: Sequence[Tensor]) -> float:
    """Return the limit of a range [-limit, limit] that holds 99.9% of the weights, without concatenating them.

    >>> drawn_limit([torch.tensor([0.5, -2.0])])
    2.0
    """
    largest = max((float(tensor.abs().max()) for tensor in tensors if tensor.numel()), default=0.0)
    if not math.isfinite(largest) or largest == 0:
        return 1.0
    fine = sum(torch.histc(tensor.abs().float(), _FINE_BINS, 0, largest) for tensor in tensors)
    assert isinstance(fine, Tensor)
    within = fine.double().cumsum(0) / fine.double().sum()
    last = int((within < DRAWN_SHARE).sum())
    return largest * (last + 1) / _FINE_BINS


def cut(dense: Mapping[str, Tensor], masks: Masks) -> Cut | None:
    """Return the threshold of masks; None if they removed nothing, or everything.

    >>> cut({"fc": torch.tensor([0.25, -0.75, 0.5])}, Masks({"fc": torch.tensor([False, True, True])}))
    Cut(largest_removed=0.25, smallest_kept=0.5)
    """
    removed = [dense[name][~mask].abs().max() for name, mask in masks.items() if not mask.all()]
    kept = [dense[name][mask].abs().min() for name, mask in masks.items() if mask.any()]
    if not removed or not kept:
        return None
    return Cut(float(torch.stack(removed).max()), float(torch.stack(kept).min()))
