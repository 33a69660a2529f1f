"""Where a tensor's zeros are not: as a bitmap, or as the gaps between those that stay.

Both are told with the tensor's own density; `structure.py` adds a bitmap that knows rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prunus.packing.coder import Decoder, Encoder, Frequencies
from prunus.packing.errors import DamagedError
from prunus.packing.tables import Table, code_bits

Mask: TypeAlias = NDArray[np.bool_]
MaskPieces: TypeAlias = Callable[[], Iterable[Mask]]

# A gap's symbol is its length without the low bits, in a byte; this one says: so many, and the gap goes on.
_ON = 255
_GAP_WIDTH = 8
_MOST_SHIFT = 22
# Low bits of gaps are taken as random. With 16 steps to the mean gap that costs 1 / (24 * 16 ** 2) of a nat each.
_STEPS_OF_MEAN = 16


class Positions(Protocol):
    """A way to write which entries are nonzero, piece by piece."""

    @property
    def bits(self) -> float:
        """What all of it takes, an estimate."""

    def write(self, encoder: Encoder, mask: Mask) -> None:
        """Write one piece."""

    def read(self, decoder: Decoder, count: int) -> NDArray[Any]:
        """Read one piece of `count` entries: a mask, or the indices of the nonzero ones."""


def bernoulli_bits(count: int, total: int) -> float:
    """Return n H(p): the empirical entropy, in bits, of where `count` of `total` lie.

    >>> bernoulli_bits(2, 4)
    4.0
    """
    return sum(part * math.log2(total / part) for part in (count, total - count) if part)


@dataclass(frozen=True)
class Bitmap:
    """One flag for each entry, all with the same probability; every other entry costs its share of the entropy."""

    probability: float
    bits: float = 0.0

    @classmethod
    def of(cls, num_nonzero: int, total: int) -> Bitmap:
        """Return the bitmap for a density."""
        return cls(num_nonzero / total, bernoulli_bits(num_nonzero, total))

    def write(self, encoder: Encoder, mask: Mask) -> None:
        """Write one piece."""
        encoder.flags(mask, self.probability)

    def read(self, decoder: Decoder, count: int) -> Mask:
        """Read one piece."""
        return np.asarray(decoder.flags(count, self.probability) != 0)


@dataclass(frozen=True)
class Gaps:
    """The number of zeros before each nonzero.

    Attributes:
        shift: how many low bits of a gap are taken as they are.
        frequencies: of the other bits: those of gaps between entries that are nonzero independently of each other,
            or those of a table that was counted.
        table: that table.
        bits: what all of it takes, an estimate.
    """

    shift: int
    frequencies: Frequencies
    table: Table | None = None
    bits: float = 0.0

    @classmethod
    def of(cls, num_nonzero: int, total: int) -> Gaps:
        """Return the gaps of a density, as they are where there is no structure."""
        zeros = total - num_nonzero
        steps = zeros // (num_nonzero * _STEPS_OF_MEAN)
        shift = min(steps.bit_length(), _MOST_SHIFT)
        going_on = zeros / total
        for _ in range(shift):
            going_on *= going_on  # the chance that a gap goes on for one more step
        powers = np.cumprod(np.full(_ON + 1, going_on)) / max(going_on, 2.0**-60)
        frequencies = powers * (1 - going_on)
        frequencies[_ON] = powers[_ON]
        return cls(shift, frequencies)

    def fitted(self, pieces: MaskPieces) -> Gaps:
        """Return these gaps with what they cost, and with a table of their own where that is cheaper."""
        counts = np.zeros(1 << _GAP_WIDTH, np.int64)
        low_bits = 0
        for mask in pieces():
            symbols, low = self._symbols(mask)
            counts += np.bincount(symbols, minlength=1 << _GAP_WIDTH)
            low_bits += self.shift * len(low)
        plain = replace(self, bits=low_bits + code_bits(counts, self.frequencies))
        if np.count_nonzero(counts) < 2:
            return plain
        table = Table.fitted(counts, _GAP_WIDTH)
        return min(plain, self._with(table, low_bits + table.own_bits + table.bits(counts)), key=lambda gaps: gaps.bits)

    def _with(self, table: Table, bits: float) -> Gaps:
        frequencies = np.zeros(1 << _GAP_WIDTH)
        frequencies[table.low : table.low + len(table.levels)] = table.frequencies
        return Gaps(self.shift, frequencies, table, bits)

    def write_plan(self, encoder: Encoder) -> None:
        """Write what is the same for all pieces."""
        encoder.number(int(self.table is not None), 2)
        if self.table is not None:
            self.table.write(encoder)

    @classmethod
    def read_plan(cls, decoder: Decoder, num_nonzero: int, total: int) -> Gaps:
        """Read what `write_plan` wrote, for a density."""
        plain = cls.of(num_nonzero, total)
        return plain._with(Table.read(decoder, _GAP_WIDTH), 0.0) if decoder.number(2) else plain

    def write(self, encoder: Encoder, mask: Mask) -> None:
        """Write one piece."""
        symbols, low = self._symbols(mask)
        encoder.number(len(symbols), len(mask) + 1)
        encoder.table(symbols, self.frequencies)
        encoder.uniform(low, self.shift)

    def read(self, decoder: Decoder, count: int) -> NDArray[np.int64]:
        """Read one piece: the indices of its nonzero entries."""
        symbols = decoder.table(decoder.number(count + 1), self.frequencies)
        last = symbols != _ON
        if not len(symbols):
            return np.zeros(0, np.int64)
        if not last[-1]:
            raise DamagedError("a gap has no end")
        steps = np.diff(np.cumsum(symbols, dtype=np.int64)[last], prepend=0)
        low = decoder.uniform(len(steps), self.shift)
        indices: NDArray[np.int64] = np.cumsum((steps << self.shift) + low + 1) - 1
        if indices[-1] >= count:
            raise DamagedError("a gap leads out of its tensor")
        return indices

    def _symbols(self, mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the symbols of the gaps in one piece, and the low bits of each gap."""
        gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
        steps = gaps >> self.shift
        times_on = steps // _ON
        symbols = np.full(len(gaps) + int(times_on.sum()), _ON, np.int64)
        symbols[np.cumsum(times_on + 1) - 1] = steps % _ON
        return symbols, gaps & ((1 << self.shift) - 1)
