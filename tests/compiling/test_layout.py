"""Loops over addresses visit exactly those that they were found for, in order; addresses have 32 bits."""

from __future__ import annotations

import itertools

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.compiling.checking import check
from prunus.compiling.kernels.calls import runs
from prunus.compiling.layout import Mode, Nest, nest
from prunus.compiling.net import Net, whole
from prunus.compiling.operations import Contract
from prunus.compiling.planning import plan
from prunus.errors import CompileError


def visited(found: Nest, buffer: int) -> list[int]:
    """Walk the loops as C does."""
    addresses = []
    for counters in itertools.product(*map(range, found.counts)):
        at = found.bases[buffer] + sum(c * s for c, s in zip(counters, found.strides[buffer], strict=True))
        if found.tables is not None:
            at += int(found.tables[buffer][counters[0]])
        addresses.append(at)
    return addresses


@st.composite
def address_arrays(draw: st.DrawFn) -> list[numpy.ndarray]:
    """Draw arrays of one shape, of any addresses or in even steps."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    size = int(numpy.prod(shape))
    arrays = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            flat = draw(st.lists(st.integers(0, 50), min_size=size, max_size=size))
            arrays.append(numpy.array(flat, dtype=numpy.int64).reshape(shape))
        else:
            strides = draw(st.lists(st.integers(-5, 20), min_size=len(shape), max_size=len(shape)))
            arrays.append(sum(i * s for i, s in zip(numpy.indices(shape), strides, strict=True)))
    return arrays


@given(address_arrays())
def test_any_addresses(arrays: list[numpy.ndarray]) -> None:
    loops = nest(arrays)
    for buffer, array in enumerate(arrays):
        assert visited(loops, buffer) == array.reshape(-1).tolist()


@given(address_arrays())
def test_any_addresses_as_runs(arrays: list[numpy.ndarray]) -> None:
    found = runs(arrays)
    for array, starts, step in zip(arrays, found.starts, found.steps, strict=True):
        elements = starts[:, None] + step * numpy.arange(found.length)
        assert elements.reshape(-1).tolist() == array.reshape(-1).tolist()


def test_equal_runs_with_gaps_of_any_size_between_are_runs() -> None:
    rows = numpy.array([0, 100, 130, 131])[:, None] + 2 * numpy.arange(6)
    found = runs([rows.reshape(-1), numpy.arange(24)])
    assert (found.length, found.steps, found.starts[0].tolist()) == (6, (2, 1), [0, 100, 130, 131])


def test_what_lies_in_order_is_one_loop() -> None:
    found = nest([numpy.arange(24).reshape(2, 3, 4), 7 + 2 * numpy.arange(24).reshape(2, 3, 4)])
    assert found.counts == (24,)
    assert found.tables is None


def test_padding_beyond_what_can_be_addressed_is_refused() -> None:
    far, box = (60_000, 60_000), (1, 3, 3)
    weight, bias = numpy.ones((1, 1, 1, 1)), numpy.zeros(1)
    conv = Contract("conv", 1, box, whole(0, (1, 1, 1)), weight, bias, (3, 3), far, far)
    net = Net({"x": (0, (1, 1, 1))}, (conv,), (whole(1, box),), {0: (1, 1, 1), 1: box})
    check(net)
    with pytest.raises(CompileError, match="more than the 2,147,483,648 that a program can address"):
        plan(net, Mode(8, 8), 4)
