"""Mark the k smallest scores with bool tensors: exactly those that a stable sort would choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prunus.pruning.select.sources import Scores, checked_chunks, common_dtype, num_true
from prunus.pruning.select.threshold import Threshold, count_smallest


def smallest(sources: Sequence[Scores], k: int) -> list[Tensor]:
    """Choose the k smallest scores over all sources.

    Args:
        sources: any number of sources, of any floating dtypes and on any devices.
        k: the number of scores to choose, from 0 to their total number.

    Returns:
        One flat bool tensor per source on its device, True for the k smallest scores; of equal scores, those of earlier
        sources and lower indices are chosen, as by a stable sort.

    Raises:
        ValueError, NanScoresError, TypeError: as `count_smallest`.

    >>> from prunus.pruning.select import WholeScores
    >>> smallest([WholeScores(torch.tensor([1.0, 2.0])), WholeScores(torch.tensor([2.0]))], k=2)
    [tensor([True, True]), tensor([False])]
    """
    counts, threshold = count_smallest(sources, k)
    return [pick(source, count, threshold) for source, count in zip(sources, counts, strict=True)]


@torch.no_grad()
def pick(source: Scores, k: int, near: Threshold | None = None) -> Tensor:
    """Choose the k smallest scores of one source; of equal scores, those of lower index.

    Args:
        source: the scores.
        k: the number of scores to choose, from 0 to `source.count`.
        near: a guess of the threshold: a right one saves the search, a wrong one costs a pass over the scores.

    Returns:
        A flat bool tensor on the scores' device, True for the k smallest scores.

    Raises:
        ValueError, NanScoresError, TypeError: as `count_smallest`, with the source's index 0.

    >>> from prunus.pruning.select import WholeScores
    >>> pick(WholeScores(torch.tensor([2.0, 1.0, 2.0])), k=2)
    tensor([ True,  True, False])
    """
    mask = _cut(source, k, near.value) if near is not None else None
    if mask is None:
        _, threshold = count_smallest([source], k)
        mask = _cut(source, k, threshold.value)
    assert mask is not None
    return mask


def _cut(source: Scores, k: int, value: float) -> Tensor | None:
    """Mark k scores: all below the value and the first of those equal to it; None if the value is not the threshold.

    One pass is mostly enough: either no score of this source equals the threshold, or all that do are chosen.
    """
    dtype = common_dtype([source])
    bound = float(torch.tensor(value, dtype=torch.float64).to(dtype))
    mask = torch.empty(source.count, dtype=torch.bool, device=source.sample(max(source.count, 1)).device)
    num_marked = _mark(source, torch.le, bound, mask)
    if num_marked <= k:
        return mask if num_marked == k else None
    num_marked = _mark(source, torch.lt, bound, mask)
    if num_marked > k:
        return None
    _mark_ties(source, bound, mask, k - num_marked)
    return mask


def _mark(source: Scores, compare: Callable[..., Tensor], bound: float, mask: Tensor) -> int:
    """Write ``compare(scores, bound)`` to the mask, and return the number of True."""
    start = num_marked = 0
    for chunk in checked_chunks(source, 0, common_dtype([source])):
        part = mask[start : start + chunk.numel()]
        num_marked += int(num_true(compare(chunk, bound, out=part)))
        start += chunk.numel()
    assert start == source.count
    return num_marked


def _mark_ties(source: Scores, bound: float, mask: Tensor, num_left: int) -> None:
    """Mark the first `num_left` of the scores equal to the bound, reading no further than the last of them."""
    chunks = source.chunks()
    start = 0
    while num_left:
        ties = next(chunks) == bound
        num_ties = int(num_true(ties))
        if num_ties > num_left:
            ties[ties.nonzero().flatten()[num_left:]] = False
        mask[start : start + ties.numel()].logical_or_(ties)
        num_left -= min(num_ties, num_left)
        start += ties.numel()
