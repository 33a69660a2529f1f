"""Orders against their meaning, index by index."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.permuting.symmetry import index_order, reordered


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.permutations(range(4)))
@settings(deadline=None)
def test_the_nth_index_of_a_class_takes_the_nth_of_its_source(classes: list[int], source: list[int]) -> None:
    order = index_order(torch.tensor(classes), torch.tensor(source))
    at = {own: [index for index, other in enumerate(classes) if other == own] for own in range(4)}
    if any(len(at[own]) != len(at[source[own]]) for own in set(classes)):
        assert order is None
        return
    assert order is not None
    assert order.tolist() == [at[source[own]][at[own].index(index)] for index, own in enumerate(classes)]


@given(st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_orders_of_dimensions_taken_as_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(2, 3, 4, generator=generator)
    both, last = torch.randperm(8, generator=generator), torch.randperm(3, generator=generator)
    found = reordered(tensor, {(0, 2): both, (1,): last})
    for first in range(2):
        for middle in range(3):
            for third in range(4):
                taken = int(both[first * 4 + third])
                assert found[first, middle, third] == tensor[taken // 4, last[middle], taken % 4]
