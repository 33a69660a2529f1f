"""The exact k smallest over many tensors, without joining them.

A strided sample brackets the k-th smallest score; one pass counts the scores outside the bracket and collects
those inside; the k-th smallest of these few is the threshold. A bracket that missed shows in the counts, and
is widened. Equal scores at the bracket's ends are counted, never collected, so that a tensor of nothing but
ties costs no memory. Scores compare by exact value, whatever their dtypes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Scores in one chunk. On a CPU a few chunks must fit the cache; on other devices each one costs a launch.
_CPU_CHUNK = 2**18
_DEVICE_CHUNK = 2**26

# Scores in the first sample. The bracket holds about 8 * 0.5 / sqrt(2**18) = 1/128 of all scores.
_SAMPLE = 2**18
_STANDARD_ERRORS = 4.0
_WIDER = 8.0

# Candidates are thinned out above this many and above this fraction of all scores.
_CANDIDATES = 2**18
_CANDIDATE_FRACTION = 1 / 64


class NanScoresError(ValueError):
    """A source holds NaN, which has no order; `source` is its index."""

    def __init__(self, source: int) -> None:
        super().__init__(f"the scores of source {source} hold NaN, which can't be ranked; make them finite or infinite")
        self.source = source


class Scores(Protocol):
    """One tensor's scores, readable again and again: floating point, never NaN, infinities allowed."""

    @property
    def count(self) -> int:
        """The number of scores."""

    def chunks(self) -> Iterator[Tensor]:
        """Yield the scores in order as flat tensors, the same each time."""

    def sample(self, stride: int) -> Tensor:
        """Return every `stride`-th score, beginning with the first, flat."""


@dataclass(frozen=True, eq=False)
class WholeScores(Scores):
    """Scores already in memory, of any shape."""

    tensor: Tensor

    @property
    def count(self) -> int:
        """The number of scores."""
        return self.tensor.numel()

    def chunks(self) -> Iterator[Tensor]:
        """Yield the scores in order as flat tensors."""
        yield from torch.split(self.tensor.detach().flatten(), chunk_length(self.tensor.device))

    def sample(self, stride: int) -> Tensor:
        """Return every `stride`-th score, beginning with the first, flat."""
        return self.tensor.detach().flatten()[::stride]


@dataclass(frozen=True, eq=False)
class ElementwiseScores(Scores):
    """Scores computed from a tensor's elements, chunk by chunk, each time they are read.

    >>> smallest([ElementwiseScores(torch.tensor([3.0, -1.0, -2.0]), torch.abs)], k=1)
    [tensor([False,  True, False])]
    """

    tensor: Tensor
    function: Callable[[Tensor], Tensor]

    @property
    def count(self) -> int:
        """The number of scores."""
        return self.tensor.numel()

    def chunks(self) -> Iterator[Tensor]:
        """Yield the scores in order as flat tensors."""
        return map(self.function, WholeScores(self.tensor).chunks())

    def sample(self, stride: int) -> Tensor:
        """Return every `stride`-th score, beginning with the first, flat."""
        return self.function(WholeScores(self.tensor).sample(stride))


@dataclass(frozen=True)
class Threshold:
    """Where the cut lies: the k-th smallest score, and how many passes over the scores it took to find it."""

    value: float
    passes: int


@dataclass
class _Tally:
    """How many scores of one source lie where around a bracket [low, high]; at_high is 0 where low == high."""

    below: int = 0
    at_low: int = 0
    inside: int = 0
    at_high: int = 0


class _Candidates:
    """Scores from inside a bracket: all of them, or once there are more than `limit`, a sample of them."""

    def __init__(self, limit: int) -> None:
        self.pieces: list[tuple[int, Tensor]] = []  # with the index of their source, unless thinned out
        self.stride = 1
        self._limit = limit
        self._size = 0

    def add(self, source: int, scores: Tensor) -> None:
        self.pieces.append((source, scores[:: self.stride].clone() if self.stride > 1 else scores))
        self._size += self.pieces[-1][1].numel()
        while self._size > self._limit:
            self.stride *= 2
            self.pieces = [(-1, self.joined()[::2].clone())]
            self._size = self.pieces[0][1].numel()

    def joined(self) -> Tensor:
        pieces = [piece for _, piece in self.pieces]
        return torch.cat([piece.to(pieces[0].device) for piece in pieces])


@dataclass(frozen=True)
class _Window:
    """Where the threshold must lie: [low, high], with a sorted sample of the scores in it.

    The threshold is the `rank`-th smallest of `population` scores, of which the sample speaks.
    """

    low: float
    high: float
    sample: Tensor
    rank: int
    population: int


def chunk_length(device: torch.device) -> int:
    """Return how many scores a source should yield at a time: a few cachefuls on a CPU, more elsewhere."""
    return _CPU_CHUNK if device.type == "cpu" else _DEVICE_CHUNK


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

    >>> count_smallest([WholeScores(torch.tensor([1.0, 5.0])), WholeScores(torch.tensor([2.0, 3.0]))], k=3)
    ([1, 2], Threshold(value=3.0, passes=1))
    """
    sizes = [source.count for source in sources]
    total = sum(sizes)
    if not 0 <= k <= total:
        raise ValueError(f"k must be between 0 and the number of scores, {total}, got {k}")
    if k == 0 or not total:
        return [0] * len(sizes), Threshold(-math.inf, 0)
    dtype = _common_dtype(sources)
    limit = max(_CANDIDATES, int(total * _CANDIDATE_FRACTION))
    window = _Window(-math.inf, math.inf, _first_sample(sources, total, dtype), k, total)
    widening = 1.0
    passes = 0
    while True:
        low, high = _bracket(window, widening)
        candidates = _Candidates(limit)
        tallies = [_tally(index, source, low, high, dtype, candidates) for index, source in enumerate(sources)]
        passes += 1
        below = sum(tally.below for tally in tallies)
        inside = sum(tally.inside for tally in tallies)
        rank = k - below - sum(tally.at_low for tally in tallies)
        if k <= below:
            window = _Window(window.low, low, window.sample, window.rank, window.population)
            widening *= _WIDER
        elif rank <= 0:
            return _share(k, tallies, candidates, low, (low, high)), Threshold(low, passes)
        elif rank <= inside and candidates.stride > 1:
            window = _Window(low, high, candidates.joined().sort().values, rank, inside)
            widening = 1.0
        elif rank <= inside:
            value = float(_wide(candidates.joined()).kthvalue(rank).values)
            return _share(k, tallies, candidates, value, (low, high)), Threshold(value, passes)
        elif rank <= inside + sum(tally.at_high for tally in tallies):
            return _share(k, tallies, candidates, high, (low, high)), Threshold(high, passes)
        else:
            window = _Window(high, window.high, window.sample, window.rank, window.population)
            widening *= _WIDER


def smallest(sources: Sequence[Scores], k: int) -> list[Tensor]:
    """Choose the k smallest scores over all sources.

    Args:
        sources: any number of sources, of any floating dtypes and on any devices.
        k: how many scores to take, 0 to their total number.

    Returns:
        One flat bool tensor per source on its device, True where the score is among the k smallest; ties go
        by source, then by index: the choice of a stable sort.

    Raises:
        ValueError, NanScoresError, TypeError: as `count_smallest`.

    >>> smallest([WholeScores(torch.tensor([1.0, 2.0])), WholeScores(torch.tensor([2.0]))], k=2)
    [tensor([True, True]), tensor([False])]
    """
    counts, threshold = count_smallest(sources, k)
    return [pick(source, count, threshold) for source, count in zip(sources, counts, strict=True)]


def pick(source: Scores, k: int, near: Threshold | None = None) -> Tensor:
    """Choose the k smallest scores of one source; ties go by index.

    Args:
        source: the scores.
        k: how many to take, 0 to `source.count`.
        near: where the cut may lie. A right guess saves the search for it; a wrong one costs a pass.

    Returns:
        A flat bool tensor on the scores' device, True where the score is among the k smallest.

    Raises:
        ValueError, NanScoresError, TypeError: as `count_smallest`, with the source's index 0.

    >>> pick(WholeScores(torch.tensor([2.0, 1.0, 2.0])), k=2)
    tensor([ True,  True, False])
    """
    mask = _cut(source, k, near.value) if near is not None else None
    if mask is None:
        _, threshold = count_smallest([source], k)
        mask = _cut(source, k, threshold.value)
    assert mask is not None
    return mask


def _common_dtype(sources: Sequence[Scores]) -> torch.dtype:
    """Return the narrowest dtype that holds every source's scores exactly."""
    dtypes = [source.sample(max(source.count, 1)).dtype for source in sources]
    for index, dtype in enumerate(dtypes):
        if not dtype.is_floating_point:
            raise TypeError(f"scores must be of floating dtype, got {dtype} from source {index}; convert them")
    return functools.reduce(torch.promote_types, dtypes)


def _first_sample(sources: Sequence[Scores], total: int, dtype: torch.dtype) -> Tensor:
    """Return a sorted sample of all scores, by a prime stride: rows and channels are never in step with it."""
    stride = _prime(total // _SAMPLE)
    samples = [source.sample(stride).to(dtype) for source in sources]
    return torch.cat([sample.to(samples[0].device) for sample in samples]).sort().values


def _prime(number: int) -> int:
    """Return the smallest prime that is not below `number`, or 1 for less than 2."""
    if number < 2:
        return 1
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number


def _bracket(window: _Window, widening: float) -> tuple[float, float]:
    """Return two values of the sample that hold the threshold between them, most likely."""
    size = window.sample.numel()
    share = window.rank / window.population
    margin = 1 + _STANDARD_ERRORS * widening * math.sqrt(size * share * (1 - share))
    first, last = math.floor(share * size - margin), math.ceil(share * size + margin)
    low = max(window.low, float(window.sample[first])) if first >= 0 else window.low
    high = min(window.high, float(window.sample[last])) if last < size else window.high
    return min(low, high), max(low, high)


def _tally(index: int, source: Scores, low: float, high: float, dtype: torch.dtype, candidates: _Candidates) -> _Tally:
    """Count one source around the bracket and collect what lies inside."""
    below = to_low = inside = to_high = 0
    checksum = 0.0
    for chunk in source.chunks():
        scores = chunk.to(dtype)
        checksum += float(scores.sum())
        under = scores <= low
        below += int((scores < low).count_nonzero())
        to_low += int(under.count_nonzero())
        if low < high:
            between = scores[(scores < high) ^ under]
            inside += between.numel()
            to_high += int((scores <= high).count_nonzero())
            candidates.add(index, between)
    if math.isnan(checksum) and any(bool(chunk.isnan().any()) for chunk in source.chunks()):
        raise NanScoresError(index)
    return _Tally(below, to_low - below, inside, max(0, to_high - to_low - inside))


def _wide(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _share(
    k: int, tallies: Sequence[_Tally], candidates: _Candidates, value: float, bracket: tuple[float, float]
) -> list[int]:
    """Give each source what it holds below the threshold, and the ties that are left in order of the sources."""
    if value == bracket[0]:
        below = [tally.below for tally in tallies]
        ties = [tally.at_low for tally in tallies]
    elif value == bracket[1]:
        below = [tally.below + tally.at_low + tally.inside for tally in tallies]
        ties = [tally.at_high for tally in tallies]
    else:
        below = [tally.below + tally.at_low for tally in tallies]
        ties = [0] * len(tallies)
        for index, scores in candidates.pieces:
            below[index] += int((scores < value).count_nonzero())
            ties[index] += int((scores == value).count_nonzero())
    left = k - sum(below)
    for index, num_ties in enumerate(ties):
        below[index] += min(num_ties, left)
        left -= min(num_ties, left)
    assert left == 0
    return below


def _cut(source: Scores, k: int, value: float) -> Tensor | None:
    """Mark the scores below the value and the first of those equal to it, k in sum; None where that can't be.

    Chunks that hold ties carry 2 for a tie until it is known how many of them belong to the k smallest.
    """
    mask = torch.empty(source.count, dtype=torch.bool, device=source.sample(max(source.count, 1)).device)
    codes = mask.view(torch.uint8)
    start = below = equal = 0
    tied: list[tuple[Tensor, int]] = []
    for chunk in source.chunks():
        part = slice(start, start + chunk.numel())
        bound = float(torch.tensor(value, dtype=chunk.dtype))
        torch.lt(chunk, bound, out=mask[part])
        ties = chunk == bound
        num_ties = int(ties.count_nonzero())
        below += int(mask[part].count_nonzero())
        if num_ties:
            codes[part].add_(ties.view(torch.uint8), alpha=2)
            tied.append((codes[part], num_ties))
        start, equal = part.stop, equal + num_ties
    if not below <= k <= below + equal:
        return None
    left = k - below
    for part_codes, num_ties in tied:
        _settle(part_codes, min(left, num_ties))
        left -= min(left, num_ties)
    return mask


def _settle(codes: Tensor, num_taken: int) -> None:
    """Turn the first `num_taken` 2s into 1 and the others into 0."""
    taken = (codes == 2).nonzero().flatten()[:num_taken]
    codes.bitwise_and_(1)
    codes[taken] = 1
