"""Symbols <-> bits: a range coder, which codes every symbol with a probability.

Probabilities are whole numbers, or results of +, -, * and / in double precision, which IEEE 754 defines to the bit.
Logarithms and powers, which libraries round differently, are not used in decoding. So a file decodes to the same
symbols on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prunus import extras
from prunus.packing.errors import DamagedError

Symbols: TypeAlias = NDArray[np.int32]
Frequencies: TypeAlias = NDArray[np.float64]

# The coder has 24 bits for a probability, so uniform symbols may have up to 23 bits.
WIDEST = 23
# Symbols are coded in pieces of this length: four megabytes, independent of the tensor's size.
PIECE = 1 << 20
_WORD = 4


def _streams() -> Any:
    return extras.require("constriction", "reading and writing .prunus files").stream


class Encoder:
    """Writes symbols to a stream of bits; a `Decoder` reads them in the same order."""

    def __init__(self) -> None:
        streams = _streams()
        self._models = streams.model
        self._coder = streams.queue.RangeEncoder()

    def uniform(self, symbols: NDArray[Any], width: int) -> None:
        """Write symbols of `width` bits that are all equally likely; at most `WIDEST` bits."""
        if width and symbols.size:
            self._coder.encode(_int32(symbols), self._models.Uniform(1 << width))

    def table(self, symbols: NDArray[Any], frequencies: Frequencies) -> None:
        """Write symbols below ``len(frequencies)``, which is at least 2."""
        if symbols.size:
            self._coder.encode(_int32(symbols), self._models.Categorical(frequencies, perfect=False))

    def flags(self, flags: NDArray[Any], probability: float) -> None:
        """Write bits, each set with this probability."""
        if flags.size:
            self._coder.encode(_int32(flags), self._models.Bernoulli(probability, perfect=False))

    def number(self, value: int, below: int) -> None:
        """Write one whole number, all equally likely: 0 <= value < below."""
        for digit, size in zip(_digits(value, below), _sizes(below), strict=True):
            if size > 1:
                self._coder.encode(digit, self._models.Uniform(size))

    def symbol(self, value: int, frequencies: Frequencies) -> None:
        """Write one symbol below ``len(frequencies)``, which is at least 2."""
        self._coder.encode(value, self._models.Categorical(frequencies, lazy=True))

    def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.uniform(np.frombuffer(data, np.uint8), 8)

    @property
    def num_bits(self) -> int:
        """The approximate number of bits written so far."""
        return int(self._coder.num_bits())

    def finish(self) -> bytes:
        """Return the stream; zeros at its end are left out, since the decoder adds them."""
        words: NDArray[np.uint32] = self._coder.get_compressed()
        return _big_endian(words).tobytes().rstrip(b"\0")


class Decoder:
    """Reads what an `Encoder` wrote, in the same order; impossible bits raise `DamagedError`."""

    def __init__(self, data: bytes | memoryview) -> None:
        streams = _streams()
        self._models = streams.model
        words = np.zeros(-(-len(data) // _WORD), np.uint32)
        words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        self._coder = streams.queue.RangeDecoder(_big_endian(words))

    def uniform(self, count: int, width: int) -> Symbols:
        """Read `count` symbols of `width` bits."""
        if not (width and count):
            return np.zeros(count, np.int32)
        return self._read(lambda: self._models.Uniform(1 << width), count)

    def table(self, count: int, frequencies: Frequencies) -> Symbols:
        """Read `count` symbols below ``len(frequencies)``."""
        if not count:
            return np.zeros(0, np.int32)
        return self._read(lambda: self._models.Categorical(frequencies, perfect=False), count)

    def flags(self, count: int, probability: float) -> Symbols:
        """Read `count` bits, each set with this probability."""
        if not count:
            return np.zeros(0, np.int32)
        return self._read(lambda: self._models.Bernoulli(probability, perfect=False), count)

    def number(self, below: int) -> int:
        """Read one whole number in [0, below)."""
        value = 0
        for size in _sizes(below):
            value = value << _DIGIT | (self._one(self._models.Uniform, size) if size > 1 else 0)
        if value >= below:
            raise DamagedError(f"a number must be below {below}, got {value}")
        return value

    def symbol(self, frequencies: Frequencies) -> int:
        """Read one symbol below ``len(frequencies)``."""
        return self._one(self._models.Categorical, frequencies, lazy=True)

    def raw(self, count: int) -> bytes:
        """Read bytes as they are."""
        pieces = (self.uniform(min(PIECE, count - at), 8) for at in range(0, count, PIECE))
        return b"".join(piece.astype(np.uint8).tobytes() for piece in pieces)

    def _one(self, kind: Any, parameter: Any, **options: bool) -> int:
        return int(self._guard(lambda: self._coder.decode(kind(parameter, **options))))

    def _read(self, model: Callable[[], Any], count: int) -> Symbols:
        symbols: Symbols = self._guard(lambda: self._coder.decode(model(), count))
        return symbols

    @staticmethod
    def _guard(decode: Callable[[], Any]) -> Any:
        """Call the coder; for impossible bits it raises an AssertionError or, at worst, a Rust panic.

        Invalid probabilities that were computed from such bits raise a ValueError.
        """
        try:
            return decode()
        except (AssertionError, ValueError, OverflowError) as error:
            raise DamagedError("its bits are not those of any symbols") from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # it is not an Exception, and can't be imported
                raise
            raise DamagedError("its bits are not those of any symbols") from error


_DIGIT = 20


def _sizes(below: int) -> list[int]:
    """Return the number of values of each digit of a number in [0, below), the highest digit first."""
    sizes = []
    while below >= 1 << WIDEST:
        sizes.append(1 << _DIGIT)
        below = ((below - 1) >> _DIGIT) + 1
    return [below, *sizes]


def _digits(value: int, below: int) -> list[int]:
    num_low = len(_sizes(below)) - 1
    digits = [value >> _DIGIT * num_low]
    return digits + [value >> _DIGIT * place & ((1 << _DIGIT) - 1) for place in reversed(range(num_low))]


def _big_endian(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Convert words to big-endian or back, in place, so that zero bytes at the end can be left out."""
    return words.byteswap(inplace=True) if sys.byteorder == "little" else words


def _int32(symbols: NDArray[Any]) -> Symbols:
    return np.ascontiguousarray(symbols, np.int32)
