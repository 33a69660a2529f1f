"""Weights stored for flash, and values in shared memory: properties held for whatever is drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.exporting.c.identifiers import distinct, identifier
from prunus.exporting.c.memory import Span, place
from prunus.exporting.c.storage import STORAGES, restore, store

matrices = st.builds(
    lambda rows, columns, density, seed: _drawn(rows, columns, density, seed),
    st.integers(1, 6),
    st.integers(1, 2000),
    st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0]),
    st.integers(0, 2**32 - 1),
)


def _drawn(rows: int, columns: int, density: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, columns)).astype(np.float32).astype(float) * (
        random.random((rows, columns)) < density
    )


@given(matrices)
@settings(deadline=None, max_examples=60)
def test_every_storage_gives_the_weights_back(matrix: np.ndarray) -> None:
    for name, storage in STORAGES.items():
        stored = storage(matrix.astype(np.float32), None)
        assert stored is not None
        assert (stored.kind, stored.shape) == (name, matrix.shape)
        assert np.array_equal(restore(stored), matrix)
        assert stored.nonzero == np.count_nonzero(matrix)
        assert stored.most == (matrix.shape[1] if name == "dense" else np.count_nonzero(matrix, axis=1).max())


@given(matrices)
@settings(deadline=None, max_examples=60)
def test_the_smallest_is_taken_and_int8_where_it_is_exact(matrix: np.ndarray) -> None:
    chosen = store(matrix, False)
    assert chosen.bytes == min(storage(matrix.astype(np.float32), None).bytes for storage in STORAGES.values())
    steps = np.abs(matrix).max(axis=1, keepdims=True) / 127
    rounded = np.rint(matrix / np.where(steps > 0, steps, 1)) * steps
    found = store(rounded, True)
    assert found.weights.dtype == np.int8
    np.testing.assert_allclose(restore(found), rounded, rtol=1e-5)
    kept = store(matrix, True)
    np.testing.assert_allclose(restore(kept), matrix, rtol=1e-3 if kept.weights.dtype == np.int8 else 1e-6)


def test_what_is_best_at_which_sparsity() -> None:
    """By counting bytes: a mask costs a bit for each weight; a gap a byte, a place one or two for each that is kept."""
    kinds = {}
    for density in (1.0, 0.5, 0.02, 0.001):
        kinds[density] = store(_drawn(40, 4000, density, 0), False).kind
    assert kinds == {1.0: "dense", 0.5: "mask", 0.02: "gaps", 0.001: "places"}
    assert store(_drawn(40, 200, 0.02, 0), False).kind == "places", "a byte tells any place"


def test_what_is_not_finite_stays_in_float() -> None:
    assert store(np.array([[1.0, np.inf]]), True).weights.dtype == np.float32


spans = st.lists(
    st.builds(lambda size, first, length: Span(size, first, first + length), *[st.integers(n, 9) for n in (1, 0, 0)]),
    max_size=12,
)


@given(spans)
def test_no_two_that_live_at_once_share_memory(given_: list[Span]) -> None:
    starts, total = place(given_)
    for i, one in enumerate(given_):
        assert 0 <= starts[i] <= total - one.size
        for j, other in enumerate(given_[:i]):
            together = one.first <= other.last and other.first <= one.last
            apart = starts[i] + one.size <= starts[j] or starts[j] + other.size <= starts[i]
            assert apart or not together
    live = [sum(span.size for span in given_ if span.first <= step <= span.last) for step in range(20)]
    assert total >= max(live, default=0)


@given(st.text(), st.lists(st.text(max_size=6), max_size=6))
def test_names_are_those_of_c(text: str, names: list[str]) -> None:
    assert identifier(text).isidentifier()
    assert identifier(text).isascii()
    found = distinct(names)
    assert len(set(found)) == len(names)
    assert all(name.isidentifier() and name.isascii() for name in found)
