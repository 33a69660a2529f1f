from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus.measuring.memory import peak_memory
from prunus.pruning.select import (
    ElementwiseScores,
    NanScoresError,
    Threshold,
    WholeScores,
    count_smallest,
    smallest,
    threshold,
)
from stable_sort import Cut, cases, scaled_down, scales, sorted_choice


@settings(deadline=None, max_examples=100)
@given(cases(), scales)
def test_counts_are_those_of_a_stable_sort(case: tuple[list[Tensor], int], scale: dict[str, int]):
    tensors, k = case
    with scaled_down(**scale):
        counts, near = count_smallest([WholeScores(tensor) for tensor in tensors], k)
    assert counts == [int(mask.sum()) for mask in sorted_choice(tensors, k)]
    if k:
        joined = torch.cat([tensor.double() for tensor in tensors])
        assert near.value == joined.sort().values[k - 1]


@settings(deadline=None, max_examples=100)
@given(cases(), st.sampled_from(("smallest", "largest", "a constant", "shuffled")), scales)
def test_a_misleading_sample_costs_passes_but_no_mistakes(
    case: tuple[list[Tensor], int], lie: str, scale: dict[str, int]
):
    tensors, k = case
    sources = []
    for tensor in tensors:
        ordered = tensor.sort().values
        claimed = {
            "smallest": ordered[:1].expand(len(tensor)),
            "largest": ordered[-1:].expand(len(tensor)),
            "a constant": torch.full_like(tensor, 0.5),
            "shuffled": ordered.flip(0),
        }[lie]
        sources.append(Cut(tensor, (5, 64, 1), claimed))
    with scaled_down(**scale):
        found = smallest(sources, k)
    for ours, theirs in zip(found, sorted_choice(tensors, k), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("claimed", "k"), [(10.0, 1000), (-10.0, 2000)])
def test_a_bracket_that_missed_is_widened(claimed: float, k: int):
    """Both sides: the sample lies far above the threshold, and far below it."""
    scores = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    sample = torch.linspace(claimed - 1, claimed + 1, 3000)
    drawn: list[threshold._Window] = []
    bracket = threshold._bracket

    def spy(window: threshold._Window) -> threshold._Interval:
        drawn.append(window)
        return bracket(window)

    with scaled_down(sample=200, candidates=4096), mock.patch.object(threshold, "_bracket", spy):
        counts, near = count_smallest([Cut(scores, (100,), sample)], k)
    assert counts == [k]
    assert near.value == scores.sort().values[k - 1]
    assert near.passes > 2
    assert max(window.widening for window in drawn) >= threshold._WIDER
    ends = {(window.low, window.high) for window in drawn}
    assert len(ends) > 1, "each miss leaves a smaller window"


@pytest.mark.parametrize("k", [1, 50])
def test_a_bracket_widens_at_the_ends_too(k: int):
    """For the smallest and the largest score a sample's standard error is almost nothing."""
    scores = torch.arange(50.0)
    with scaled_down(sample=3):
        _, near = count_smallest([Cut(scores, (10,), torch.full((50,), 20.5))], k)
    assert near.value == k - 1


def test_a_sample_in_step_with_the_data_is_survived():
    """Every score that the first stride meets is 0; the others are not."""
    stride = threshold._prime(10_000 // 16)
    scores = torch.rand(10_000, generator=torch.Generator().manual_seed(1)) + 1
    scores[::stride] = 0
    with scaled_down():
        counts, near = count_smallest([WholeScores(scores)], 5000)
    assert near.value == scores.sort().values[4999]
    assert (counts, near.passes > 2) == ([5000], True)


def test_too_many_candidates_are_thinned_out_and_the_search_goes_on():
    """A sample that tells nothing of the scores puts them all into the first bracket."""
    scores = torch.randn(20_000, generator=torch.Generator().manual_seed(2))
    claimed = torch.tensor([-math.inf, math.inf]).repeat(10_000)
    held: list[int] = []
    add = threshold._Candidates.add

    def spy(self: threshold._Candidates, source: int, found: Tensor) -> None:
        add(self, source, found)
        held.append(sum(piece.numel() for _, piece in self.pieces))

    with scaled_down(candidates=256), mock.patch.object(threshold._Candidates, "add", spy):
        _, near = count_smallest([Cut(scores, (64,), claimed)], 7000)
    assert near.value == scores.sort().values[6999]
    assert near.passes > 1
    assert 128 <= max(held) <= 256


def test_what_is_thinned_out_stands_for_all_of_it():
    """Candidates come in ascending order; a sample of the first ones only would mislead again and again."""
    scores = torch.arange(50_000.0)
    claimed = torch.tensor([-math.inf, math.inf]).repeat(25_000)
    with scaled_down(candidates=1024):
        _, near = count_smallest([Cut(scores, (64,), claimed)], 40_000)
    assert (near.value, near.passes) == (39_999, 3)


def test_rows_and_sample_are_not_in_step():
    """A power of two for a stride would meet the same two of 64 columns in every row, which differ in scale."""
    scores = torch.randn(2**12, 64, generator=torch.Generator().manual_seed(4)).abs() * torch.logspace(-3, 3, 64)
    with scaled_down(sample=2**13, candidates=2**16):
        assert threshold.count_smallest([WholeScores(scores)], 2**17)[1].passes == 1


@pytest.mark.parametrize("size", [1000, 2**21])
def test_random_scores_take_one_pass(size: int):
    scores = torch.randn(size, generator=torch.Generator().manual_seed(3))
    for k in (1, size // 5, size - 1):
        assert count_smallest([WholeScores(scores)], k)[1].passes == 1


class Selecting(nn.Module):
    """A selection as a module, so that its memory can be measured like a model's."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, scores: Tensor) -> Tensor:
        return smallest([ElementwiseScores(scores, torch.abs)], int(self.share * scores.numel()))[0]


@pytest.mark.parametrize(
    "make",
    [
        torch.zeros,
        lambda size: torch.randn(size).sign(),
        lambda size: torch.randn(size).mul_(torch.rand(size) < 0.1),
        lambda size: torch.randn(size).bfloat16(),
        lambda size: torch.full((size,), math.inf),
        torch.randn,
    ],
    ids=["zeros", "one bit", "nine tenths zeros", "bfloat16", "infinite", "normal"],
)
def test_ties_take_no_memory(make):
    """The mask is one byte a score; all else is a few chunks and the candidates, however many scores tie."""
    size = 2**20
    torch.manual_seed(0)
    scores = make(size)
    for share in (0.2, 0.95):
        with scaled_down(chunk=2**14, sample=2**12, candidates=2**14):
            peak = peak_memory(Selecting(share), (scores,))
        assert peak is not None
        assert size <= peak <= 1.5 * size


@pytest.mark.parametrize("where", [0, 99, 100, 250])
def test_nan_names_its_source(dtype: torch.dtype, where: int):
    bad = torch.ones(251, dtype=dtype)
    bad[where] = math.nan
    sources = [WholeScores(torch.ones(5)), Cut(bad, (100,)), WholeScores(torch.ones(5))]
    for k in (0, 100, 261):
        with pytest.raises(NanScoresError, match="source 1") as caught:
            count_smallest(sources, k)
        assert caught.value.source == 1


def test_infinities_that_sum_to_nan_are_no_nan(dtype: torch.dtype):
    scores = torch.tensor([math.inf, -math.inf, 1.0], dtype=dtype)
    assert count_smallest([WholeScores(scores)], 2) == ([2], Threshold(1.0, passes=1))


def test_refused_arguments():
    with pytest.raises(ValueError, match="between 0 and the number of scores, 3, got 4"):
        count_smallest([WholeScores(torch.ones(3))], 4)
    with pytest.raises(ValueError, match="got -1"):
        count_smallest([WholeScores(torch.ones(3))], -1)
    with pytest.raises(TypeError, match=r"torch.int64 from source 1"):
        count_smallest([WholeScores(torch.ones(3)), WholeScores(torch.arange(3))], 1)


def test_nothing_to_choose_from():
    assert count_smallest([], 0)[0] == []
    assert count_smallest([WholeScores(torch.empty(0)), WholeScores(torch.empty(3, 0))], 0)[0] == [0, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sources_on_different_devices():
    tensors = [torch.randn(1000), torch.randn(1000, device="cuda"), torch.randn(1000, dtype=torch.float64)]
    for k in (0, 1500, 3000):
        found = smallest([WholeScores(tensor) for tensor in tensors], k)
        expected = sorted_choice([tensor.cpu() for tensor in tensors], k)
        assert all(torch.equal(ours.cpu(), theirs) for ours, theirs in zip(found, expected, strict=True))
        assert [mask.device.type for mask in found] == ["cpu", "cuda", "cpu"]
