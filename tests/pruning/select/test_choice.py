from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.pruning.select import (
    ElementwiseScores,
    NanScoresError,
    Scores,
    Threshold,
    WholeScores,
    count_smallest,
    pick,
    smallest,
    sources,
)
from stable_sort import SUBNORMAL, VALUES, Cut, cases, scaled_down, scales, sorted_choice, tensors


@settings(deadline=None, max_examples=100)
@given(cases(), scales)
def test_the_choice_is_a_stable_sorts(case: tuple[list[Tensor], int], scale: dict[str, int]):
    tensors, k = case
    with scaled_down(**scale):
        found = smallest([WholeScores(tensor) for tensor in tensors], k)
    for ours, theirs in zip(found, sorted_choice(tensors, k), strict=True):
        assert torch.equal(ours, theirs)


@settings(deadline=None, max_examples=100)
@given(st.data(), tensors(), st.sampled_from(VALUES + SUBNORMAL + (math.nan, 1e300)) | st.floats())
def test_a_wrong_hint_changes_nothing(data: st.DataObject, scores: Tensor, hint: float):
    k = data.draw(st.integers(0, len(scores)))
    near = data.draw(st.sampled_from((Threshold(hint, passes=1), None)))
    (expected,) = sorted_choice([scores], k)
    assert torch.equal(pick(Cut(scores, (3, 50)), k, near), expected)


def test_values_compare_exactly_across_dtypes():
    """In bfloat16 all three would be 1; in float32 the last two."""
    between = torch.tensor([1 + 2**-30], dtype=torch.float64)
    sources = [torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1 + 2**-23]), between]
    assert [int(mask) for mask in smallest([WholeScores(source) for source in sources], 2)] == [1, 0, 1]


def test_zeros_tie_whatever_their_sign():
    found = smallest([WholeScores(torch.tensor([0.0, -0.0])), WholeScores(torch.tensor([-0.0, 0.0]))], 3)
    assert torch.cat(found).tolist() == [True, True, True, False]


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 3072, 2**18])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_counting_flags(size: int, share: float):
    flags = torch.rand(size + 16) < share
    for start in (0, 3, 8):
        assert int(sources.num_true(flags[start : start + size])) == sum(flags[start : start + size].tolist())


@pytest.mark.parametrize("k", range(7))
def test_ties_go_by_source_then_index(k: int):
    found = smallest([WholeScores(torch.ones(2)), WholeScores(torch.ones(1)), WholeScores(torch.ones(3))], k)
    assert torch.cat(found).tolist() == [True] * k + [False] * (6 - k)


@dataclass(frozen=True, eq=False)
class Counting(Scores):
    """Scores that count how often they are read."""

    scores: Scores
    reads: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.scores.count

    def chunks(self) -> Iterator[Tensor]:
        self.reads.append("chunks")
        yield from self.scores.chunks()

    def sample(self, stride: int) -> Tensor:
        return self.scores.sample(stride)


@pytest.mark.parametrize(
    ("scores", "reads"),
    [
        (torch.randperm(5000, generator=torch.Generator().manual_seed(0)), [2, 2, 2, 2, 2]),
        (torch.arange(5000) % 50, [2, 4, 3, 3, 3]),
    ],
)
def test_how_often_scores_are_read(scores: Tensor, reads: list[int]):
    """Once to count, once to pick; once more where there are ties that are not chosen, and again where some are."""
    sources = [Counting(WholeScores(piece)) for piece in scores.float().split(1000)]
    found = smallest(sources, 1530)
    assert torch.equal(torch.cat(found), sorted_choice([scores], 1530)[0])
    assert [len(source.reads) for source in sources] == reads


def test_a_hint_saves_the_search():
    source = Counting(WholeScores(torch.randn(1000)))
    (count,), near = count_smallest([source], 300)
    source.reads.clear()
    pick(source, count, near)
    assert len(source.reads) == 1


@settings(deadline=None, max_examples=30)
@given(st.permutations((0, 1, 2)), st.integers(0, 60), st.integers(0, 2**31))
def test_any_memory_layout(order: list[int], k: int, seed: int):
    tensor = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed)).permute(order)
    expected = sorted_choice([tensor.contiguous().abs()], k)
    assert torch.equal(smallest([WholeScores(tensor.abs())], k)[0], expected[0])
    assert torch.equal(smallest([ElementwiseScores(tensor, torch.abs)], k)[0], expected[0])


def test_scalars_and_gradients():
    scores = torch.tensor(2.0, requires_grad=True)
    (mask,) = smallest([ElementwiseScores(scores, torch.square)], 1)
    assert (mask.tolist(), mask.requires_grad) == ([True], False)


def test_a_failing_pick_says_why():
    with pytest.raises(ValueError, match="between 0 and the number of scores, 3, got 4"):
        pick(WholeScores(torch.ones(3)), 4)
    for near, k in itertools.product((None, Threshold(1.0, passes=1)), (0, 1, 3)):
        with pytest.raises(NanScoresError):
            pick(WholeScores(torch.tensor([1.0, math.nan, 2.0])), k, near)
        with pytest.raises(TypeError, match=r"torch\.int64"):
            pick(WholeScores(torch.arange(3)), k, near)
