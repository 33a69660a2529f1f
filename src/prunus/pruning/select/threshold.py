"""The search for the k-th smallest score over many sources.

A strided sample gives a bracket around the threshold. One pass counts the scores below the bracket and collects those
inside it; the threshold is one of these few. The counts show whether the bracket missed the threshold; then it is
widened. Scores equal to an end of the bracket are counted, never collected, so that many equal scores take no memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunus.pruning.select.sources import Scores, checked_chunks, common_dtype, num_true

# Scores in the first sample. The bracket is 3 standard errors of a sampled quantile wide on both sides: for a random
# sample it misses once in 370 times, and it holds at most 6 * 0.5 / sqrt(2**18) = 1/170 of all scores.
_SAMPLE = 2**18
_STANDARD_ERRORS = 3.0
_WIDER = 8.0

# Candidates above this number and this fraction of all scores are sampled. At least 64 are needed: a bracket computed
# from half of fewer candidates could be as wide as the one they are from.
_CANDIDATES = 2**18
_CANDIDATE_FRACTION = 1 / 64


@dataclass(frozen=True)
class Threshold:
    """The k-th smallest score, and the number of passes over the scores that the search took."""

    value: float
    passes: int


@dataclass(frozen=True)
class _Interval:
    """The values strictly between two ends; if the ends are equal, that one value."""

    low: float
    high: float

    @property
    def is_point(self) -> bool:
        return self.low == self.high


@dataclass(frozen=True)
class _Window:
    """Bounds on the threshold: it is in [low, high] and is the `rank`-th smallest of `population` scores.

    `sample` is a sample of these scores. The bracket computed from it is `widening` times wider than usual, since
    narrower ones missed the threshold.
    """

    sample: Tensor
    rank: int
    population: int
    low: float = -math.inf
    high: float = math.inf
    widening: float = 1.0


class _Candidates:
    """Scores from inside an interval: all of them, or once there are more than `limit`, a sample of them."""

    def __init__(self, limit: int) -> None:
        self.pieces: list[tuple[int, Tensor]] = []  # each with the index of its source
        self.stride = 1
        self._limit = limit
        self._size = 0

    @property
    def complete(self) -> bool:
        return self.stride == 1

    def add(self, source: int, scores: Tensor) -> None:
        self.pieces.append((source, scores if self.complete else scores[:: self.stride].clone()))
        self._size += self.pieces[-1][1].numel()
        while self._size > self._limit:
            self.stride *= 2
            self.pieces = [(-1, self.joined()[::2].clone())]
            self._size = self.pieces[0][1].numel()

    def joined(self) -> Tensor:
        pieces = [piece for _, piece in self.pieces]
        return torch.cat([piece.to(pieces[0].device) for piece in pieces])


@dataclass(frozen=True)
class _Pass:
    """The result of a pass over all sources: per source, the number of scores below an interval and inside it."""

    interval: _Interval
    below: list[int]
    inside: list[int]
    candidates: _Candidates


@torch.no_grad()
def count_smallest(sources: Sequence[Scores], k: int) -> tuple[list[int], Threshold]:
    """Count how many of the k smallest scores over all sources each source holds.

    Of equal scores, those of earlier sources count first, as in a stable sort of the concatenated sources.

    Args:
        sources: any number of sources, of any floating dtypes and on any devices.
        k: the number of scores to choose, from 0 to their total number.

    Returns:
        One count per source, which add up to k, and the threshold, with which `pick` needs a single pass.

    Raises:
        ValueError: k is negative or larger than the number of scores.
        NanScoresError: a score is NaN.
        TypeError: a source is not of floating dtype.

    >>> from prunus.pruning.select import WholeScores
    >>> count_smallest([WholeScores(torch.tensor([1.0, 5.0])), WholeScores(torch.tensor([2.0, 3.0]))], k=3)
    ([1, 2], Threshold(value=3.0, passes=1))
    """
    total = sum(source.count for source in sources)
    if not 0 <= k <= total:
        raise ValueError(f"k must be between 0 and the number of scores, {total}, got {k}")
    if total == 0:
        return [0] * len(sources), Threshold(-math.inf, passes=0)
    dtype = common_dtype(sources)
    limit = max(_CANDIDATES, int(total * _CANDIDATE_FRACTION))
    window = _Window(_first_sample(sources, total, dtype), k, total)
    interval = _bracket(window) if k else _Interval(-math.inf, -math.inf)
    for passes in itertools.count(1):
        counted = _count(sources, interval, dtype, _Candidates(limit))
        rank = k - sum(counted.below)
        if k == 0 or (0 < rank <= sum(counted.inside) and counted.candidates.complete):
            value, below, ties = _ranks(counted, rank)
            return _share_ties(below, ties, k), Threshold(value, passes)
        window, interval = _next(window, counted, rank)
    raise AssertionError("unreachable")


def _first_sample(sources: Sequence[Scores], total: int, dtype: torch.dtype) -> Tensor:
    """Return a sample of all scores with a prime stride, which divides no usual number of rows or channels."""
    stride = _prime(total // _SAMPLE)
    samples = [source.sample(stride).to(dtype) for source in sources]
    return torch.cat([sample.to(samples[0].device) for sample in samples])


def _prime(number: int) -> int:
    """Return the smallest prime of at least `number`, or 1 for less than 2."""
    if number < 2:
        return 1
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number


def _bracket(window: _Window) -> _Interval:
    """Return an interval between two values of the sample that most likely contains the threshold."""
    size = window.sample.numel()
    share = window.rank / window.population
    margin = window.widening * (1 + _STANDARD_ERRORS * math.sqrt(size * share * (1 - share)))
    first, last = math.floor(share * size - margin), math.ceil(share * size + margin)
    low = max(window.low, _kth_smallest(window.sample, first)) if first > 0 else window.low
    high = min(window.high, _kth_smallest(window.sample, last)) if last <= size else window.high
    return _Interval(min(low, high), max(low, high))


def _kth_smallest(scores: Tensor, k: int) -> float:
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))  # exact; not every dtype has a kthvalue
    # On a GPU, sort is fast, but kthvalue uses a single block of threads.
    return float(wide.kthvalue(k).values if wide.device.type == "cpu" else wide.sort().values[k - 1])


def _count(sources: Sequence[Scores], interval: _Interval, dtype: torch.dtype, candidates: _Candidates) -> _Pass:
    """Count the scores below and inside an interval in one pass, and collect those inside if it is not a point."""
    below, inside = [], []
    for index, source in enumerate(sources):
        num_below: list[Tensor] = []
        num_inside: list[Tensor | int] = []
        for scores in checked_chunks(source, index, dtype):
            if interval.is_point:
                num_below.append(num_true(scores < interval.low))
                num_inside.append(num_true(scores == interval.low))
            else:
                under = scores <= interval.low
                within = _where(scores, (scores < interval.high).logical_xor_(under))
                num_below.append(num_true(under))
                num_inside.append(within.numel())
                candidates.add(index, within)
        below.append(sum(int(number) for number in num_below))
        inside.append(sum(int(number) for number in num_inside))
    return _Pass(interval, below, inside, candidates)


def _where(scores: Tensor, flags: Tensor) -> Tensor:
    """Return ``scores[flags]``, faster if few flags are set: eight flags are read as one word."""
    if scores.numel() % 8:
        return scores[flags]
    words = flags.view(torch.int64).nonzero().flatten()
    return scores.reshape(-1, 8)[words][flags.view(-1, 8)[words]]


def _next(window: _Window, counted: _Pass, rank: int) -> tuple[_Window, _Interval]:
    """Return the next interval, after one that missed the threshold or held too many scores to collect all."""
    interval = counted.interval
    if 0 < rank <= sum(counted.inside):
        window = _Window(counted.candidates.joined(), rank, sum(counted.inside), interval.low, interval.high)
        return window, _bracket(window)
    if rank <= 0:
        window, end = replace(window, high=interval.low), interval.low
    else:
        window, end = replace(window, low=interval.high), interval.high
    if not interval.is_point:
        return window, _Interval(end, end)  # the usual cause: many scores equal to the end
    window = replace(window, widening=window.widening * _WIDER)
    return window, _bracket(window)


def _ranks(counted: _Pass, rank: int) -> tuple[float, list[int], list[int]]:
    """Return the threshold, and per source the number of scores below it and equal to it."""
    if counted.interval.is_point:
        return counted.interval.low, counted.below, counted.inside
    value = _kth_smallest(counted.candidates.joined(), rank)
    below, ties = list(counted.below), [0] * len(counted.below)
    for source, scores in counted.candidates.pieces:
        below[source] += int((scores < value).count_nonzero())
        ties[source] += int((scores == value).count_nonzero())
    return value, below, ties


def _share_ties(below: Sequence[int], ties: Sequence[int], k: int) -> list[int]:
    """Return how many of the k smallest each source holds: all below the threshold, then ties by source."""
    left = k - sum(below)
    counts = []
    for num_below, num_ties in zip(below, ties, strict=True):
        taken = min(num_ties, left)
        counts.append(num_below + taken)
        left -= taken
    assert left == 0
    return counts
