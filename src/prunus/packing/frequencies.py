"""Frequency tables: the probability of each symbol, coded in a few bits per symbol.

A table holds one level for each symbol of its range. A symbol of level 0 does not occur; a symbol of level k > 0 has
the frequency 2 ** ((k - 1) / steps), with 1, 2 or 4 steps per octave: a coarse table is shorter, a fine one more exact.
With 4 steps a frequency is wrong by at most 9%, which costs about 0.002 bits per symbol.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prunus.packing.coder import Decoder, Encoder, Frequencies
from prunus.packing.errors import DamagedError

_STEPS = (1, 2, 4)
# 2 ** (16 + k / 4), rounded; constants, since libraries round powers differently.
_QUARTERS = np.array([65536, 77936, 92682, 110218], np.float64)
_MOST_LEVELS = 128
_MAX_TABLES = 256
# The bits of a symbol of frequency 0: the coder gives it probability 2 ** -24.
_NEVER_BITS = 24.0


@dataclass(frozen=True)
class FrequencyTable:
    """Frequencies of consecutive symbols.

    Attributes:
        width: the number of bits of a symbol.
        low: the lowest symbol.
        steps: the number of levels per octave.
        levels: the level of each symbol from `low` on, uint8.
        frequencies: the frequencies of these levels.
    """

    width: int
    low: int
    steps: int
    levels: NDArray[np.uint8]
    frequencies: Frequencies = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frequencies", _frequencies(self.levels, self.steps))

    @classmethod
    def fitted(cls, counts: NDArray[np.int64], width: int) -> FrequencyTable:
        """Return the table for which symbols of these counts and the table itself take the fewest bits.

        Args:
            counts: the count of each symbol below ``2 ** width``; at least two are not 0.
            width: the number of bits of a symbol.
        """
        present = np.flatnonzero(counts)
        low, high = int(present[0]), int(present[-1])
        tables = [cls(width, low, steps, _levels(counts[low : high + 1], steps)) for steps in _STEPS]
        return min(tables, key=lambda table: table.own_bits + table.bits(counts))

    @property
    def own_bits(self) -> float:
        """The number of bits of the table itself."""
        return 2 * self.width + 9 + len(self.levels) * math.log2(int(self.levels.max()) + 1)

    def bits(self, counts: NDArray[np.int64]) -> float:
        """Return the number of bits of symbols of these counts; infinity if one is outside the table's range."""
        high = self.low + len(self.levels)
        if counts[: self.low].any() or counts[high:].any():
            return math.inf
        return code_bits(counts[self.low : high], self.frequencies)

    def write(self, encoder: Encoder) -> None:
        """Write the table itself."""
        most = int(self.levels.max())
        encoder.number(self.low, 1 << self.width)
        encoder.number(len(self.levels) - 1, (1 << self.width) - self.low)
        encoder.number(_STEPS.index(self.steps), len(_STEPS))
        encoder.number(most, _MOST_LEVELS)
        _write_levels(encoder, self.levels, most)

    @classmethod
    def read(cls, decoder: Decoder, width: int) -> FrequencyTable:
        """Read a table of symbols of `width` bits."""
        low = decoder.number(1 << width)
        count = decoder.number((1 << width) - low) + 1
        steps = _STEPS[decoder.number(len(_STEPS))]
        most = decoder.number(_MOST_LEVELS)
        if count < 2 or most < 1:
            raise DamagedError("a frequency table is empty")
        levels = _read_levels(decoder, count, most)
        if not levels.any():
            raise DamagedError("a frequency table is all zero")
        return cls(width, low, steps, levels)


class EarlierTables:
    """The tables of a file so far, which later tensors can use again.

    Their number is limited for each width: a larger choice costs more bits and time, and a forged file may have any
    number of tables.
    """

    def __init__(self) -> None:
        self._of_width: dict[int, list[FrequencyTable]] = {}

    def of(self, width: int) -> list[FrequencyTable]:
        """Return the tables for symbols of a width, the oldest first."""
        return self._of_width.get(width, [])

    def add(self, table: FrequencyTable) -> None:
        """Add a table, unless their number has reached the limit."""
        tables = self._of_width.setdefault(table.width, [])
        if len(tables) < _MAX_TABLES:
            tables.append(table)


def _write_levels(encoder: Encoder, levels: NDArray[np.uint8], most: int) -> None:
    encoder.table(levels, np.ones(most + 1))


def _read_levels(decoder: Decoder, count: int, most: int) -> NDArray[np.uint8]:
    return decoder.table(count, np.ones(most + 1)).astype(np.uint8)


def code_bits(counts: NDArray[np.int64], frequencies: Frequencies) -> float:
    """Return the number of bits of symbols of these counts, coded with these frequencies."""
    used = counts > 0
    with np.errstate(divide="ignore"):
        bits = np.minimum(np.log2(frequencies.sum()) - np.log2(frequencies[used]), _NEVER_BITS)
    return float(counts[used] @ bits)


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Return the empirical entropy of all symbols of these counts together, in bits.

    >>> entropy_bits(np.array([4, 4]))
    8.0
    """
    return code_bits(counts, counts.astype(np.float64)) if counts.any() else 0.0


def fewest(tables: Sequence[FrequencyTable], counts: NDArray[np.int64]) -> tuple[float, int]:
    """Return the number of bits and the index of the table that codes these counts with the fewest bits."""
    return min((table.bits(counts), place) for place, table in enumerate(tables))


def _levels(counts: NDArray[np.int64], steps: int) -> NDArray[np.uint8]:
    used = counts > 0
    octaves = np.log2(counts[used] / counts[used].min())
    levels = np.zeros(len(counts), np.uint8)
    levels[used] = np.minimum(1 + np.rint(octaves * steps), _MOST_LEVELS - 1)
    return levels


def _frequencies(levels: NDArray[np.uint8], steps: int) -> Frequencies:
    quarters = (np.maximum(levels.astype(np.int64), 1) - 1) * (4 // steps)
    return np.where(levels > 0, np.ldexp(_QUARTERS[quarters % 4], quarters // 4), 0.0)
