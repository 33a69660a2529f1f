"""The search for the k-th smallest score over many sources.

A strided sample brackets the threshold; one pass counts the scores below the bracket and collects those inside;
the threshold is the right one of these few. A bracket that missed shows in the counts, and is widened. Scores
equal to an end of the bracket are counted, never collected, so that many ties take no memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunus.pruning.select.sources import Scores, checked_chunks, common_dtype, num_true

# Scores in the first sample. The bracket reaches 3 standard errors of a sampled quantile to both sides: it misses
# once in 370 times if the sample is a fair one, and holds at most 6 * 0.5 / sqrt(2**18) = 1/170 of all scores.
_SAMPLE = 2**18
_STANDARD_ERRORS = 3.0
_WIDER = 8.0

# Candidates are thinned out above this many and above this fraction of all scores. Fewer than 64 would not do: a
# bracket drawn from half of them could be no narrower than the one they come from.
_CANDIDATES = 2**18
_CANDIDATE_FRACTION = 1 / 64


@dataclass(frozen=True)
class Threshold:
    """Where the cut lies: the k-th smallest score, and how many passes over the scores it took to find it."""

    value: float
    passes: int


@dataclass(frozen=True)
class _Interval:
    """The values strictly between two ends, or where the ends are equal that one value."""

    low: float
    high: float

    @property
    def is_point(self) -> bool:
        return self.low == self.high


@dataclass(frozen=True)
class _Window:
    """What is known of the threshold: it lies in [low, high] and is the `rank`-th smallest of `population` scores.

    `sample` stands for these scores. Each time it misled, the bracket drawn from it gets `widening` times wider.
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
class _Look:
    """What one pass over all sources saw: per source the number of scores below an interval and inside it."""

    interval: _Interval
    below: list[int]
    inside: list[int]
    candidates: _Candidates


@torch.no_grad()
def count_smallest(sources: Sequence[Scores], k: int) -> tuple[list[int], Threshold]:
    """Count how many of the k smallest scores over all sources each source holds.

    Ties go to the earlier source, as they would in a stable sort of the sources joined end to end.

    Args:
        sources: any number of sources, of any floating dtypes and on any devices.
        k: how many scores to take, 0 to their total number.

    Returns:
        One count per source, k in sum, and the threshold, which makes `pick` a single pass.

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
        look = _look(sources, interval, dtype, _Candidates(limit))
        rank = k - sum(look.below)
        if k == 0 or (0 < rank <= sum(look.inside) and look.candidates.complete):
            value, below, ties = _ranks(look, rank)
            return _share_ties(below, ties, k), Threshold(value, passes)
        window, interval = _go_on(window, look, rank)
    raise AssertionError("unreachable")


def _first_sample(sources: Sequence[Scores], total: int, dtype: torch.dtype) -> Tensor:
    """Return a sample of all scores, by a prime stride: rows and channels are never in step with it."""
    stride = _prime(total // _SAMPLE)
    samples = [source.sample(stride).to(dtype) for source in sources]
    return torch.cat([sample.to(samples[0].device) for sample in samples])


def _prime(number: int) -> int:
    """Return the smallest prime that is not below `number`, or 1 for less than 2."""
    if number < 2:
        return 1
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number


def _bracket(window: _Window) -> _Interval:
    """Return the interval between two values of the sample that most likely hold the threshold between them."""
    size = window.sample.numel()
    share = window.rank / window.population
    margin = window.widening * (1 + _STANDARD_ERRORS * math.sqrt(size * share * (1 - share)))
    first, last = math.floor(share * size - margin), math.ceil(share * size + margin)
    low = max(window.low, _kth_smallest(window.sample, first)) if first > 0 else window.low
    high = min(window.high, _kth_smallest(window.sample, last)) if last <= size else window.high
    return _Interval(min(low, high), max(low, high))


def _kth_smallest(scores: Tensor, k: int) -> float:
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))  # exact; not every dtype has a kthvalue
    # A GPU sorts quickly, but finds a k-th value with a single block of threads.
    return float(wide.kthvalue(k).values if wide.device.type == "cpu" else wide.sort().values[k - 1])


def _look(sources: Sequence[Scores], interval: _Interval, dtype: torch.dtype, candidates: _Candidates) -> _Look:
    """Pass over all sources once: count below and inside an interval, and collect what is inside if it is open."""
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
                found = _where(scores, (scores < interval.high).logical_xor_(under))
                num_below.append(num_true(under))
                num_inside.append(found.numel())
                candidates.add(index, found)
        below.append(sum(int(number) for number in num_below))
        inside.append(sum(int(number) for number in num_inside))
    return _Look(interval, below, inside, candidates)


def _where(scores: Tensor, flags: Tensor) -> Tensor:
    """Return ``scores[flags]``, quicker where few flags are set: eight of them are read as one word."""
    if scores.numel() % 8:
        return scores[flags]
    words = flags.view(torch.int64).nonzero().flatten()
    return scores.reshape(-1, 8)[words][flags.view(-1, 8)[words]]


def _go_on(window: _Window, look: _Look, rank: int) -> tuple[_Window, _Interval]:
    """Decide where to look next, after the threshold was not found or not alone in the interval looked at."""
    interval = look.interval
    if 0 < rank <= sum(look.inside):
        window = _Window(look.candidates.joined(), rank, sum(look.inside), interval.low, interval.high)
        return window, _bracket(window)
    if rank <= 0:
        window, end = replace(window, high=interval.low), interval.low
    else:
        window, end = replace(window, low=interval.high), interval.high
    if not interval.is_point:
        return window, _Interval(end, end)  # the usual cause: many scores equal to the end
    window = replace(window, widening=window.widening * _WIDER)
    return window, _bracket(window)


def _ranks(look: _Look, rank: int) -> tuple[float, list[int], list[int]]:
    """Return the threshold, and per source the number of scores below it and equal to it."""
    if look.interval.is_point:
        return look.interval.low, look.below, look.inside
    value = _kth_smallest(look.candidates.joined(), rank)
    below, ties = list(look.below), [0] * len(look.below)
    for source, scores in look.candidates.pieces:
        below[source] += int((scores < value).count_nonzero())
        ties[source] += int((scores == value).count_nonzero())
    return value, below, ties


def _share_ties(below: Sequence[int], ties: Sequence[int], k: int) -> list[int]:
    """Give each source what it holds below the threshold, and the ties that are left in order of the sources."""
    left = k - sum(below)
    counts = []
    for num_below, num_ties in zip(below, ties, strict=True):
        taken = min(num_ties, left)
        counts.append(num_below + taken)
        left -= taken
    assert left == 0
    return counts
