"""The choice of the k smallest: bool tensors, bit for bit a stable sort's choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunus.select.sources import Scores, checked_chunks, common_dtype
from prunus.select.threshold import Threshold, count_smallest


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

    >>> from prunus.select import WholeScores
    >>> smallest([WholeScores(torch.tensor([1.0, 2.0])), WholeScores(torch.tensor([2.0]))], k=2)
    [tensor([True, True]), tensor([False])]
    """
    counts, threshold = count_smallest(sources, k)
    return [pick(source, count, threshold) for source, count in zip(sources, counts, strict=True)]


@torch.no_grad()
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

    >>> from prunus.select import WholeScores
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
    """Mark the scores below the value and the first of those equal to it, k in sum; None where that can't be.

    Chunks that hold ties carry 2 for a tie until it is known how many of them belong to the k smallest.
    """
    dtype = common_dtype([source])
    bound = float(torch.tensor(value, dtype=torch.float64).to(dtype))
    mask = torch.empty(source.count, dtype=torch.bool, device=source.sample(max(source.count, 1)).device)
    tied: list[tuple[Tensor, int]] = []
    start = below = 0
    for chunk in checked_chunks(source, 0, dtype):
        part = mask[start : start + chunk.numel()]
        torch.lt(chunk, bound, out=part)
        below += int(part.count_nonzero())
        ties = chunk == bound
        if num_ties := int(ties.count_nonzero()):
            tied.append((part.view(torch.uint8).add_(ties, alpha=2), num_ties))
        start += chunk.numel()
    assert start == source.count
    left = k - below
    if not 0 <= left <= sum(num_ties for _, num_ties in tied):
        return None
    for codes, num_ties in tied:
        _settle(codes, min(left, num_ties))
        left -= min(left, num_ties)
    return mask


def _settle(codes: Tensor, num_taken: int) -> None:
    """Turn the first `num_taken` 2s into 1 and the others into 0."""
    taken = (codes == 2).nonzero().flatten()[:num_taken]
    codes.bitwise_and_(1)
    codes[taken] = 1
