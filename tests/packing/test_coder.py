"""Symbols through the range coder and back; what they cost against the entropy; broken bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.errors import PackError
from prunus.packing.coder import Decoder, Encoder
from prunus.packing.frequencies import FrequencyTable, entropy_bits

NUMBERS = st.one_of(st.integers(1, 1 << 10), st.integers(1, 1 << 62)).flatmap(
    lambda below: st.tuples(st.just(below), st.integers(0, below - 1))
)


@given(st.lists(NUMBERS, max_size=30), st.binary(max_size=30), st.integers(0, 23))
@settings(deadline=None)
def test_whatever_is_written_is_read_in_the_same_order(numbers: list[tuple[int, int]], data: bytes, width: int) -> None:
    symbols = np.arange(40) * 7919 % (1 << width)
    flags = np.arange(20) % 7 == 0
    encoder = Encoder()
    for below, number in numbers:
        encoder.number(number, below)
    encoder.raw(data)
    encoder.uniform(symbols, width)
    encoder.flags(flags, 1 / 7)
    encoder.symbol(2, np.array([1.0, 5.0, 0.25]))
    decoder = Decoder(encoder.finish())
    assert [decoder.number(below) for below, _ in numbers] == [number for _, number in numbers]
    assert decoder.raw(len(data)) == data
    assert np.array_equal(decoder.uniform(40, width), symbols)
    assert np.array_equal(decoder.flags(20, 1 / 7), flags)
    assert decoder.symbol(np.array([1.0, 5.0, 0.25])) == 2


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_tables_frequencies_are_powers_of_two_in_steps_of_an_octaves_part(steps: int) -> None:
    levels = np.arange(1, 60, dtype=np.uint8)
    found = FrequencyTable(8, 0, steps, levels).frequencies
    assert found / found[0] == pytest.approx([2 ** (k / steps) for k in range(59)], rel=1e-5)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=200).filter(lambda counts: sum(map(bool, counts)) > 1))
@settings(deadline=None)
def test_a_fitted_table_comes_back_and_codes_near_the_entropy(counts: list[int]) -> None:
    padded = np.zeros(256, np.int64)
    padded[: len(counts)] = counts
    table = FrequencyTable.fitted(padded, 8)
    encoder = Encoder()
    table.write(encoder)
    again = FrequencyTable.read(Decoder(encoder.finish()), 8)
    assert (again.low, again.steps, again.levels.tolist()) == (table.low, table.steps, table.levels.tolist())
    by_hand = -sum(n * math.log2(n / sum(counts)) for n in counts if n)
    assert entropy_bits(padded) == pytest.approx(by_hand)
    assert by_hand - 1e-6 <= table.bits(padded) <= by_hand + 0.1 * sum(counts)  # at one step: ln(2)^2 / 24 nats, about


def test_coded_symbols_take_what_the_table_says() -> None:
    generator = np.random.default_rng(0)
    symbols = np.minimum(generator.geometric(0.3, 50_000), 30)
    counts = np.bincount(symbols, minlength=32)
    table = FrequencyTable.fitted(counts, 5)
    encoder = Encoder()
    encoder.table(symbols - table.low, table.frequencies)
    assert 8 * len(encoder.finish()) == pytest.approx(table.bits(counts), rel=1e-3)


def test_bits_of_nothing_are_nothing_and_no_zero_ends_them() -> None:
    encoder = Encoder()
    encoder.number(0, 1)
    encoder.uniform(np.zeros(5), 0)
    assert encoder.finish() == b""
    encoder.number(0, 256)
    assert not encoder.finish().endswith(b"\0")


@pytest.mark.parametrize("read", ["table", "uniform", "number", "flags", "symbol"])
def test_bits_that_no_encoder_writes_are_an_error_or_symbols_in_range(read: str) -> None:
    calls: dict[str, Any] = {
        "table": (lambda decoder: decoder.table(300, np.ones(7)), 7),
        "uniform": (lambda decoder: decoder.uniform(300, 20), 1 << 20),
        "number": (lambda decoder: [decoder.number(1000) for _ in range(300)], 1000),
        "flags": (lambda decoder: decoder.flags(300, 0.001), 2),
        "symbol": (lambda decoder: [decoder.symbol(np.array([1.0, 1e-9])) for _ in range(300)], 2),
    }
    call, below = calls[read]
    generator = np.random.default_rng(1)
    for data in (b"\xff" * 40, b"", *(generator.bytes(int(n)) for n in generator.integers(1, 60, 50))):
        try:
            symbols = call(Decoder(data))
        except PackError as error:
            assert "damaged" in str(error)  # noqa: PT017
        else:
            assert all(0 <= symbol < below for symbol in symbols)


def test_frequencies_that_can_not_be_are_an_error_of_the_file() -> None:
    """A forged density of 1 leaves no gaps: all their frequencies are 0."""
    for frequencies in (np.zeros(5), np.array([np.nan, 1.0]), np.array([np.inf, 1.0])):
        with pytest.raises(PackError, match="damaged"):
            Decoder(b"1234").table(3, frequencies)
        with pytest.raises(PackError, match="damaged"):
            Decoder(b"1234").symbol(frequencies)
