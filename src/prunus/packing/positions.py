"""The positions of a tensor's nonzero entries: as a bitmap, or as the gaps between them.

Both are coded with the density of the tensor; the bitmap in `row_bitmap.py` also uses those of rows and columns.
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
from prunus.packing.frequencies import FrequencyTable, code_bits

Mask: TypeAlias = NDArray[np.bool_]
MaskPieces: TypeAlias = Callable[[], Iterable[Mask]]

# The symbol of a gap is its length without the low bits, in a byte; this symbol adds its value to the next one's.
_CONTINUED = 255
_GAP_WIDTH = 8
_MAX_SHIFT = 22
# Low bits of gaps are coded as random. With 16 steps per mean gap, this costs 1 / (24 * 16 ** 2) nats per gap.
_STEPS_OF_MEAN = 16


class Positions(Protocol):
    """A way to code which entries are nonzero, piece by piece."""

    @property
    def bits(self) -> float:
        """The estimated number of bits for all pieces."""

    def write(self, encoder: Encoder, mask: Mask) -> None:
        """Write one piece."""

    def read(self, decoder: Decoder, count: int) -> NDArray[Any]:
        """Read one piece of `count` entries: a mask, or the indices of the nonzero entries."""


def bernoulli_bits(count: int, total: int) -> float:
    """Return n H(p): the empirical entropy, in bits, of the positions of `count` of `total` entries.

    >>> bernoulli_bits(2, 4)
    4.0
    """
    return sum(part * math.log2(total / part) for part in (count, total - count) if part)


@dataclass(frozen=True)
class Bitmap:
    """One flag per entry, all with the same probability."""

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
        shift: the number of low bits of a gap that are coded as random.
        frequencies: the frequencies of the other bits: those of gaps between independent nonzeros, or of `table`.
        table: a table of counted frequencies; None for independent nonzeros.
        bits: the estimated number of bits for all pieces.
    """

    shift: int
    frequencies: Frequencies
    table: FrequencyTable | None = None
    bits: float = 0.0

    @classmethod
    def of(cls, num_nonzero: int, total: int) -> Gaps:
        """Return the gaps for a density, with the frequencies of independent nonzeros."""
        zeros = total - num_nonzero
        steps = zeros // (num_nonzero * _STEPS_OF_MEAN)
        shift = min(steps.bit_length(), _MAX_SHIFT)
        continues = zeros / total
        for _ in range(shift):
            continues *= continues  # the probability that a gap is longer by one more step
        powers = np.cumprod(np.full(_CONTINUED + 1, continues)) / max(continues, 2.0**-60)
        frequencies = powers * (1 - continues)
        frequencies[_CONTINUED] = powers[_CONTINUED]
        return cls(shift, frequencies)

    def fitted(self, pieces: MaskPieces) -> Gaps:
        """Return the gaps with their number of bits, and with a table of counted frequencies if that takes fewer."""
        counts = np.zeros(1 << _GAP_WIDTH, np.int64)
        low_bits = 0
        for mask in pieces():
            symbols, low = self._symbols(mask)
            counts += np.bincount(symbols, minlength=1 << _GAP_WIDTH)
            low_bits += self.shift * len(low)
        plain = replace(self, bits=low_bits + code_bits(counts, self.frequencies))
        if np.count_nonzero(counts) < 2:
            return plain
        table = FrequencyTable.fitted(counts, _GAP_WIDTH)
        return min(plain, self._with(table, low_bits + table.own_bits + table.bits(counts)), key=lambda gaps: gaps.bits)

    def _with(self, table: FrequencyTable, bits: float) -> Gaps:
        frequencies = np.zeros(1 << _GAP_WIDTH)
        frequencies[table.low : table.low + len(table.levels)] = table.frequencies
        return Gaps(self.shift, frequencies, table, bits)

    def write_plan(self, encoder: Encoder) -> None:
        """Write the parameters for all pieces."""
        encoder.number(int(self.table is not None), 2)
        if self.table is not None:
            self.table.write(encoder)

    @classmethod
    def read_plan(cls, decoder: Decoder, num_nonzero: int, total: int) -> Gaps:
        """Read what `write_plan` wrote, for a density."""
        plain = cls.of(num_nonzero, total)
        return plain._with(FrequencyTable.read(decoder, _GAP_WIDTH), 0.0) if decoder.number(2) else plain

    def write(self, encoder: Encoder, mask: Mask) -> None:
        """Write one piece."""
        symbols, low = self._symbols(mask)
        encoder.number(len(symbols), len(mask) + 1)
        encoder.table(symbols, self.frequencies)
        encoder.uniform(low, self.shift)

    def read(self, decoder: Decoder, count: int) -> NDArray[np.int64]:
        """Read one piece: the indices of its nonzero entries."""
        symbols = decoder.table(decoder.number(count + 1), self.frequencies)
        last = symbols != _CONTINUED
        if not len(symbols):
            return np.zeros(0, np.int64)
        if not last[-1]:
            raise DamagedError("a gap has no end")
        steps = np.diff(np.cumsum(symbols, dtype=np.int64)[last], prepend=0)
        low = decoder.uniform(len(steps), self.shift)
        indices: NDArray[np.int64] = np.cumsum((steps << self.shift) + low + 1) - 1
        if indices[-1] >= count:
            raise DamagedError("a gap ends outside its tensor")
        return indices

    def _symbols(self, mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the symbols of the gaps in one piece, and the low bits of each gap."""
        gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
        steps = gaps >> self.shift
        continued = steps // _CONTINUED
        symbols = np.full(len(gaps) + int(continued.sum()), _CONTINUED, np.int64)
        symbols[np.cumsum(continued + 1) - 1] = steps % _CONTINUED
        return symbols, gaps & ((1 << self.shift) - 1)
