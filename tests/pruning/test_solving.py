"""Least squares under a mask against the normal equations, and chosen masks against all there are."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.pruning.moments import damped
from prunus.pruning.solving import choose, refit


def problem(seed: int, outputs: int, inputs: int, samples: int, groups: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, what is wanted, and dense weights that nearly give it; the inputs are correlated."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, inputs, inputs, generator=generator, dtype=torch.float64)
    rows = torch.randn(groups, samples, inputs, generator=generator, dtype=torch.float64) @ mixing
    weight = torch.randn(groups, outputs, inputs, generator=generator, dtype=torch.float64)
    noise = torch.randn(groups, samples, outputs, generator=generator, dtype=torch.float64)
    return rows, rows @ weight.transpose(1, 2) + 0.1 * noise, weight


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 12), st.integers(1, 40), st.integers(1, 3))
def test_refitted_weights_solve_the_normal_equations_of_each_row(
    seed: int, outputs: int, inputs: int, samples: int, groups: int
) -> None:
    rows, wanted, dense = problem(seed, outputs, inputs, samples, groups)
    mask = torch.rand(dense.shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    gram = damped(rows.transpose(1, 2) @ rows, 1e-3)
    right = (rows.transpose(1, 2) @ wanted).transpose(1, 2)
    weight = refit(gram, right, dense, mask, 500)
    assert not bool(weight[~mask].any())
    for group, row in itertools.product(range(groups), range(outputs)):
        kept = mask[group, row].nonzero().flatten()
        exact = torch.linalg.solve(gram[group][kept][:, kept], right[group, row, kept])
        torch.testing.assert_close(weight[group, row, kept], exact, rtol=1e-3, atol=1e-3 * float(dense.abs().max()))


def keep_largest(count: int, total: int) -> object:
    """Return what keeps the largest scores of all rows together."""

    def keep(scores: Tensor, share: float) -> Tensor:
        best = scores.flatten().topk(count + round((total - count) * share)).indices
        return torch.zeros(total, dtype=torch.bool).index_fill(0, best, True).view(scores.shape)

    return keep


def residual(rows: Tensor, wanted: Tensor, mask: Tensor) -> float:
    """Return the least squared error under a mask, by a library's least squares."""
    total = 0.0
    for row in range(mask.shape[0]):
        kept = mask[row].nonzero().flatten()
        solution = torch.linalg.lstsq(rows[:, kept], wanted[:, row : row + 1]).solution
        total += float((rows[:, kept] @ solution - wanted[:, row : row + 1]).square().sum())
    return total


@pytest.mark.parametrize("seed", range(6))
def test_a_chosen_mask_is_nearly_the_best_of_all_and_better_than_the_largest_weights(seed: int) -> None:
    rows, wanted, dense = problem(seed, 1, 10, 60)
    gram, right = rows.transpose(1, 2) @ rows, (rows.transpose(1, 2) @ wanted).transpose(1, 2)
    mask = choose(damped(gram, 1e-6), right, dense, keep_largest(4, 10))[0]  # type: ignore[arg-type]
    assert int(mask.sum()) == 4
    masks = torch.zeros(210, 10, dtype=torch.bool)
    for place, kept in enumerate(itertools.combinations(range(10), 4)):
        masks[place, list(kept)] = True
    errors = sorted(residual(rows[0], wanted[0], own.unsqueeze(0)) for own in masks)
    by_magnitude = torch.zeros(1, 10, dtype=torch.bool).index_fill(1, dense[0, 0].abs().topk(4).indices, True)
    own = residual(rows[0], wanted[0], mask)
    assert own <= residual(rows[0], wanted[0], by_magnitude) * (1 + 1e-9)
    assert own <= errors[10]  # among the best 5% of all 210 masks


def test_inputs_that_oppose_each_other_do_not_make_it_diverge() -> None:
    gram = torch.tensor([[[1.0, -0.9], [-0.9, 1.0]]])  # a vector of ones is nearly of the smallest eigenvalue
    right = torch.tensor([[[1.0, -0.9]]])
    mask = choose(gram, right, torch.zeros(1, 1, 2), keep_largest(1, 2))  # type: ignore[arg-type]
    assert mask.tolist() == [[[True, False]]]


def test_what_is_wanted_exactly_by_few_weights_is_found() -> None:
    rows, _, dense = problem(3, 4, 30, 200)
    sparse = dense * (torch.rand(dense.shape, generator=torch.Generator().manual_seed(1)) < 0.2)
    right = (rows.transpose(1, 2) @ (rows @ sparse.transpose(1, 2))).transpose(1, 2)
    count = int(torch.count_nonzero(sparse))
    keep = keep_largest(count, dense.numel())
    mask = choose(damped(rows.transpose(1, 2) @ rows, 1e-6), right, dense, keep)  # type: ignore[arg-type]
    assert torch.equal(mask, sparse != 0)
