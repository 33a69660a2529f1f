"""How the weights of a layer are stored so that they take little flash: dense, or what is not zero with its places.

A layer is a matrix: a row of weights for each output. The place of a weight is its column. For each layer the storage
that takes the fewest bytes is taken:

    dense      every weight
    places     a byte or two for the place of each weight
    gaps       a byte for how far each weight is from the one before; 255 adds up and stands for no weight
    mask       a bit for each place, whether there is a weight

With places and gaps, how many weights each row has is told by a byte or two for each row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from prunus.compiling.net import Numbers
from prunus.exporting.c.arrays import unsigned

# A gap of a byte holds less than this; so much stands for a step without a weight.
FAR = 255
# The largest int8 that its negative is one too.
_MOST = 127
# So near a whole number is one: float32 holds 127 to seven millionths.
_WHOLE = 1e-3


@dataclass(frozen=True, eq=False)
class Stored:
    """A layer's weights as arrays.

    Attributes:
        kind: "dense", "places", "gaps" or "mask".
        shape: rows and columns of the matrix.
        weights: float32 or int8, row by row: all, or those that are not zero.
        scales: float32, what the int8 of each row are times; None for float32.
        places: uint8 or uint16: places, gaps, or bits from the lowest of each byte on; None if dense.
        counts: how many weights each row has; None if dense or a mask.
    """

    kind: str
    shape: tuple[int, int]
    weights: NDArray[Any]
    scales: NDArray[numpy.float32] | None = None
    places: NDArray[Any] | None = None
    counts: NDArray[Any] | None = None

    @property
    def bytes(self) -> int:
        """What its arrays take."""
        arrays = (self.weights, self.scales, self.places, self.counts)
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def nonzero(self) -> int:
        """How many weights are not zero: rounding to int8 may have made some zero."""
        return int(numpy.count_nonzero(self.weights))

    @property
    def most(self) -> int:
        """The most weights that a row has."""
        if self.kind == "mask":
            return int(numpy.count_nonzero(_dense(self), axis=1).max(initial=0))
        return self.shape[1] if self.counts is None else int(self.counts.max(initial=0))


def store(matrix: Numbers, in_8_bits: bool) -> Stored:
    """Store a matrix in the fewest bytes; of equals, the simplest.

    Args:
        matrix: (rows, columns).
        in_8_bits: whether one of whole multiples of its rows' scales, max |w| / 127, becomes int8 with these scales.
    """
    numbers, scales = (in_8_bits and whole(matrix)) or (matrix.astype(numpy.float32), None)
    candidates = [storage(numbers, scales) for storage in STORAGES.values()]
    return min((stored for stored in candidates if stored is not None), key=lambda stored: stored.bytes)


def restore(stored: Stored) -> Numbers:
    """Return the matrix that was stored, int8 times their scales."""
    dense = _dense(stored).astype(numpy.float64)
    return dense if stored.scales is None else dense * stored.scales[:, None]


def whole(matrix: Numbers) -> tuple[NDArray[numpy.int8], NDArray[numpy.float32]] | None:
    """Return whole numbers from -127 to 127 and a scale for each row, whose products are the weights; None for others.

    A weight that was rounded so may have been multiplied by a norm's factor since, in float32.
    """
    if not bool(numpy.isfinite(matrix).all()):
        return None
    scales = (numpy.abs(matrix).max(axis=1, initial=0) / _MOST).astype(numpy.float32)
    exact = matrix / numpy.where(scales > 0, scales, 1)[:, None]
    rounded = numpy.clip(numpy.rint(exact), -_MOST, _MOST)
    return (rounded.astype(numpy.int8), scales) if bool((numpy.abs(exact - rounded) < _WHOLE).all()) else None


_Scales = NDArray[numpy.float32] | None
_Storage = Callable[[NDArray[Any], _Scales], Stored | None]


def _as_dense(numbers: NDArray[Any], scales: _Scales) -> Stored:
    return Stored("dense", numbers.shape, numbers.reshape(-1), scales)


def _as_places(numbers: NDArray[Any], scales: _Scales) -> Stored | None:
    """Store the place of each weight; None where two bytes don't tell it."""
    rows, columns = numpy.nonzero(numbers)
    if numbers.shape[1] > 2**16:
        return None
    places = columns.astype(numpy.uint8 if numbers.shape[1] <= 2**8 else numpy.uint16)
    return Stored("places", numbers.shape, numbers[rows, columns], scales, places, _counts(numbers))


def _as_gaps(numbers: NDArray[Any], scales: _Scales) -> Stored:
    """Store how far each weight is from the one before in its row; the first from the row's beginning."""
    rows, columns = numpy.nonzero(numbers)
    first = numpy.diff(rows, prepend=-1) != 0
    gaps = numpy.where(first, columns, columns - numpy.roll(columns, 1))
    steps = gaps // FAR  # so many times 255 go before what is left
    ends = numpy.cumsum(steps + 1) - 1
    coded = numpy.full(int((steps + 1).sum()), FAR, dtype=numpy.uint8)
    coded[ends] = gaps % FAR
    return Stored("gaps", numbers.shape, numbers[rows, columns], scales, coded, _counts(numbers))


def _as_mask(numbers: NDArray[Any], scales: _Scales) -> Stored:
    bits = numpy.packbits(numbers.reshape(-1) != 0, bitorder="little")
    return Stored("mask", numbers.shape, numbers[numbers != 0], scales, bits)


# name -> (numbers, scales) -> stored; None where it can't be; simple ones first.
STORAGES: dict[str, _Storage] = {"dense": _as_dense, "places": _as_places, "gaps": _as_gaps, "mask": _as_mask}


def _counts(numbers: NDArray[Any]) -> NDArray[Any]:
    return unsigned(numpy.count_nonzero(numbers, axis=1))


def _dense(stored: Stored) -> NDArray[Any]:
    rows, columns = stored.shape
    if stored.kind == "dense":
        return stored.weights.reshape(stored.shape)
    matrix = numpy.zeros(rows * columns, dtype=stored.weights.dtype)
    assert stored.places is not None
    if stored.kind == "mask":
        matrix[numpy.unpackbits(stored.places, count=rows * columns, bitorder="little") != 0] = stored.weights
        return matrix.reshape(stored.shape)
    assert stored.counts is not None
    row_of = numpy.repeat(numpy.arange(rows), stored.counts)
    places = stored.places.astype(numpy.int64)
    if stored.kind == "gaps":
        reached = numpy.cumsum(places)[places != FAR]
        before = numpy.concatenate([[0], reached])[numpy.cumsum(stored.counts) - stored.counts]
        places = reached - numpy.repeat(before, stored.counts)
    matrix[row_of * columns + places] = stored.weights
    return matrix.reshape(stored.shape)
