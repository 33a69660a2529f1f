"""Gains of swaps against computing each swapped layer anew; orders against all orders, and against planted blocks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.permuting.swaps import Gains, View, best_order
from prunus.pruning.patterns import Inputs, NofM

pytestmark = pytest.mark.usefixtures("one_thread")

Pattern = Inputs | NofM


def view(rows: int, inputs: int, places: list[int], seed: int = 0) -> View:
    generator = torch.Generator().manual_seed(seed)
    return View(torch.rand(rows, inputs, generator=generator), torch.tensor(places))


def value(matrix: Tensor, pattern: Pattern, threshold: float) -> float:
    """Return what is kept of a layer: of n:m the n largest, of blocks what their sums exceed the threshold by."""
    total = 0.0
    for row in matrix.tolist():
        if isinstance(pattern, NofM):
            groups = [row[first : first + pattern.m] for first in range(0, len(row), pattern.m)]
            total += sum(sum(sorted(group)[-pattern.n :]) for group in groups)
        else:
            groups = [row[first : first + pattern.size] for first in range(0, len(row), pattern.size)]
            total += sum(max(0.0, sum(group) - threshold * len(group)) for group in groups)
    return total


def best_kept(matrix: Tensor, pattern: Pattern, sparsity: float) -> float:
    """Return the magnitude that a layer keeps."""
    if isinstance(pattern, NofM):
        return value(matrix, pattern, 0.0)
    sums = [
        sum(row[first : first + pattern.size]) for row in matrix.tolist() for first in range(0, len(row), pattern.size)
    ]
    return sum(sorted(sums)[round(sparsity * len(sums)) :])


@given(
    pattern=st.sampled_from([Inputs(2), Inputs(3), Inputs(4), NofM(2, 4), NofM(1, 3), NofM(3, 4)]),
    blocks=st.integers(2, 3),
    rows=st.integers(1, 5),
    seed=st.integers(0, 999),
    data=st.data(),
)
@settings(deadline=None, max_examples=40)
def test_gains_are_those_of_the_swapped_layer(
    pattern: Pattern, blocks: int, rows: int, seed: int, data: st.DataObject
) -> None:
    size = pattern.m if isinstance(pattern, NofM) else pattern.size
    inputs = blocks * size - (0 if isinstance(pattern, NofM) else seed % 2)
    places = data.draw(st.lists(st.integers(0, inputs - 1), min_size=2, max_size=inputs, unique=True))
    layer = view(rows, inputs, places, seed)
    gains = Gains(layer, pattern, 0.5)
    gains.start()

    def check() -> None:
        now = value(layer.matrix, pattern, gains.threshold)
        found = gains.of_swaps()
        for first, second in itertools.product(range(len(places)), repeat=2):
            swapped = layer.matrix.clone()
            here, there = places[first], places[second]
            swapped[:, [here, there]] = swapped[:, [there, here]]
            expected = value(swapped, pattern, gains.threshold) - now
            assert float(found[first, second]) == pytest.approx(expected, abs=1e-4)

    check()
    gains.swap(torch.tensor([0]), torch.tensor([len(places) - 1]))  # what has changed is computed anew
    check()


def test_no_swap_is_left_that_gains() -> None:
    pattern = NofM(2, 4)
    layer = view(64, 16, list(range(16)))
    order = best_order([layer], pattern, 0.5, math.inf)
    found = layer.matrix[:, order]
    kept = best_kept(found, pattern, 0.5)
    assert sorted(order.tolist()) == list(range(16))
    assert kept > best_kept(layer.matrix, pattern, 0.5)
    for first, second in itertools.combinations(range(16), 2):
        swapped = found.clone()
        swapped[:, [first, second]] = swapped[:, [second, first]]
        assert best_kept(swapped, pattern, 0.5) <= kept + 1e-3


@pytest.mark.parametrize(("pattern", "sparsity"), [(NofM(2, 4), 0.5), (Inputs(4), 0.5), (Inputs(4), 0.75)])
def test_orders_are_nearly_the_best_of_all(pattern: Pattern, sparsity: float) -> None:
    for seed in range(5):
        layer = view(24, 8, list(range(8)), seed)
        halves = [(0, *rest) for rest in itertools.combinations(range(1, 8), 3)]
        orders = [[*half, *sorted(set(range(8)) - set(half))] for half in halves]
        everything = [best_kept(layer.matrix[:, order], pattern, sparsity) for order in orders]
        found = layer.matrix[:, best_order([layer], pattern, sparsity, math.inf)]
        kept = best_kept(found, pattern, sparsity)
        rank = sum(other > kept + 1e-4 for other in everything)
        assert rank <= 3, f"{rank} of {len(everything)} orders are better"


def test_planted_blocks_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    planted = (torch.rand(50, 8, generator=generator) < 0.25).float().repeat_interleave(4, 1) + 0.01
    shuffled = planted[:, torch.randperm(32, generator=generator)]
    order = best_order([View(shuffled, torch.arange(32))], Inputs(4), 0.75, math.inf)
    alive = round(float((planted > 0.5).float().mean()) * 400)
    assert best_kept(shuffled[:, order], Inputs(4), 1 - alive / 400) == pytest.approx(4 * 1.01 * alive, rel=1e-3)


def test_layers_that_read_the_same_channels_are_ordered_together() -> None:
    """One layer alone would be ordered in pairs (0, 1), (2, 3); the other, with ten times the weights, in (0, 2)."""
    small = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    large = torch.tensor([[10.0, 0, 10, 0], [0, 10, 0, 10]])
    places = torch.arange(4)
    order = best_order([View(small, places), View(large, places)], Inputs(2), 0.5, math.inf).tolist()
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset((0, 2)), frozenset((1, 3))}


def test_when_time_is_up_the_order_stays() -> None:
    assert best_order([view(9, 8, list(range(8)))], Inputs(4), 0.5, 0.0).tolist() == list(range(8))


def test_a_layer_with_more_rows_than_are_looked_at_still_counts_in_full() -> None:
    """Of 4,096 rows that want channels 0 and 2 together, 1,024 are looked at; as many, half larger, want 0 and 1."""
    many = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]]).repeat(2048, 1)
    few = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).repeat(512, 1) * 1.5
    places = torch.arange(4)
    order = best_order([View(few, places), View(many, places)], Inputs(2), 0.5, math.inf).tolist()
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset((0, 2)), frozenset((1, 3))}
