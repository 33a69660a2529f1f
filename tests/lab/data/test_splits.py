"""Splits are whole, fair to each class, and the same everywhere."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.lab.data.splits import hold_out


@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=120), share=st.floats(0, 1))
@settings(deadline=None, max_examples=150)
def test_every_index_is_on_one_side_and_every_class_in_its_share(labels: list[int], share: float) -> None:
    size = round(share * len(labels))
    stay, held_out = hold_out(torch.tensor(labels), size)
    assert len(held_out) == size
    assert sorted(stay.tolist() + held_out.tolist()) == list(range(len(labels)))
    for part in (stay, held_out):
        assert part.tolist() == sorted(part.tolist())
    for label in set(labels):
        exact = labels.count(label) * size / len(labels)
        found = sum(labels[index] == label for index in held_out)
        assert abs(found - exact) < 1, (label, found, exact)


def test_the_choice_is_the_one_the_description_gives() -> None:
    labels = torch.tensor([1, 0] * 10)
    zeros = sorted(range(1, 20, 2), key=lambda index: hashlib.sha256(str(index).encode()).hexdigest())
    ones = sorted(range(0, 20, 2), key=lambda index: hashlib.sha256(str(index).encode()).hexdigest())
    row = zeros + ones
    _, held_out = hold_out(labels, 4)
    assert held_out.tolist() == sorted(row[place] for place in (2, 7, 12, 17))  # the middle of each fifth


def test_the_choice_looks_random() -> None:
    """Neighbours in the file fall on either side independently, as far as 10,000 of them can tell."""
    stay, held_out = hold_out(torch.zeros(10_000, dtype=torch.int64), 5_000)
    side = torch.zeros(10_000)
    side[held_out] = 1
    assert abs((side[1:] == side[:-1]).float().mean().item() - 0.5) < 0.02  # four standard deviations
    assert abs(held_out.double().mean().item() - stay.double().mean().item()) < 240


def test_it_does_not_touch_the_random_state() -> None:
    before = torch.get_rng_state()
    hold_out(torch.arange(10), 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [-1, 11])
def test_a_size_that_is_not_there_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be from 0 to 10, the number of labels, got {size}"):
        hold_out(torch.zeros(10, dtype=torch.int64), size)
