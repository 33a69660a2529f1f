"""A bitmap of a matrix that adapts to the densities of its rows and columns.

Pruned weights are not spread evenly: some neurons and some inputs lose most of theirs. Rows and columns are put into
classes of density. The class of each row is written; the class of a column follows from the rows before. Each pair of
classes has a probability, which starts at the product of both densities and adapts to the flags. Encoder and decoder
compute the same, so nothing else is written. The flags of a pair of classes are written together, for speed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunus.packing.coder import Decoder, Encoder
from prunus.packing.positions import Mask, bernoulli_bits

# Densities relative to that of the tensor, between the classes: half-octaves, rounded to exact binary numbers.
_EDGES = np.array([0.1875, 0.375, 0.53125, 0.71875, 1.0, 1.40625, 2.0, 2.8125, 4.0, 8.0])
_CENTRES = np.array([0.125, 0.28125, 0.4375, 0.625, 0.84375, 1.1875, 1.6875, 2.375, 3.375, 5.625, 11.0])
_NUM_CLASSES = len(_CENTRES)
_EMPTY = _NUM_CLASSES  # the class of a row without nonzeros, whose flags are not written
# The least number of entries in a batch of whole rows: smaller batches cost time, larger ones adapt later. A large
# tensor has at most this many batches.
_ENTRIES = 512
_BATCHES = 2048
# The bits for a large tensor are estimated from this many of its entries.
MEASURED = 1 << 21
# The number of nonzeros, of the tensor's density, that a column starts with.
_COLUMN_PRIOR = 1.0
# The number of nonzeros that the initial probability of a pair counts as.
_PRIOR_WEIGHT = 2.0
_MIN_PROBABILITY, _MAX_PROBABILITY = 2.0**-20, 1 - 2.0**-20
# The least number of columns, so that the number of batches is bounded by the tensor's size.
MIN_COLUMNS = 8


class RowBitmap:
    """The bitmap, with its probabilities after the rows so far.

    Args:
        num_nonzero, total: the numbers of nonzeros and of entries of the tensor; it has zeros and nonzeros.
        columns: the number of entries of a row.
        bits: the estimated number of bits for all rows, from `measured`.
    """

    def __init__(self, num_nonzero: int, total: int, columns: int, bits: float = 0.0) -> None:
        self.bits = bits
        self._density = num_nonzero / total
        self._columns = columns
        self._batch_rows = -(-max(_ENTRIES, total // _BATCHES) // columns)
        self._column_counts = np.zeros(columns, np.int64)
        self._num_rows = 0
        self._row_classes = np.full(_NUM_CLASSES + 1, 0.5)
        initial = np.clip(self._density * _CENTRES[:, None] * _CENTRES[None, :], _MIN_PROBABILITY, 0.75).ravel()
        self._hits = np.full(len(initial), _PRIOR_WEIGHT)
        self._tries = _PRIOR_WEIGHT / initial

    @classmethod
    def measured(cls, mask: Mask, num_nonzero: int, total: int, columns: int) -> RowBitmap:
        """Return the bitmap with the number of bits that `write` needs for the tensor, estimated from its first rows.

        Args:
            mask: the first rows, or all.
            num_nonzero: as for the class.
            total: as for the class.
            columns: as for the class.
        """
        state, bits = cls(num_nonzero, total, columns), 0.0
        for flags in state._batches(mask):
            classes = state._classes_of(flags)
            bits += sum(-math.log2(state._count_row(row_class)) for row_class in classes.tolist())
            pairs = state._pairs(classes)
            for pair, places in _places(pairs, len(state._hits)):
                ones, probability = int(np.count_nonzero(flags.reshape(-1)[places])), state._probability(pair)
                bits -= ones * math.log2(probability) + (len(places) - ones) * math.log2(1 - probability)
            state._learn(flags, pairs)
        return cls(num_nonzero, total, columns, bits * total / mask.size)

    def write(self, encoder: Encoder, mask: Mask) -> None:
        """Write one piece of whole rows."""
        for flags in self._batches(mask):
            classes = self._classes_of(flags)
            for row_class in classes.tolist():
                encoder.symbol(row_class, self._row_classes)
                self._count_row(row_class)
            pairs = self._pairs(classes)
            for pair, places in _places(pairs, len(self._hits)):
                encoder.flags(flags.reshape(-1)[places], self._probability(pair))
            self._learn(flags, pairs)

    def read(self, decoder: Decoder, count: int) -> Mask:
        """Read one piece of whole rows."""
        mask = np.zeros(count, np.bool_)
        for flags in self._batches(mask):
            classes = np.zeros(len(flags), np.int64)
            for row in range(len(flags)):
                classes[row] = decoder.symbol(self._row_classes)
                self._count_row(int(classes[row]))
            pairs = self._pairs(classes)
            for pair, places in _places(pairs, len(self._hits)):
                flags.reshape(-1)[places] = decoder.flags(len(places), self._probability(pair)) != 0
            self._learn(flags, pairs)
        return mask

    def _batches(self, mask: Mask) -> Iterator[Mask]:
        """Return views of batches of rows."""
        matrix = mask.reshape(-1, self._columns)
        return (matrix[row : row + self._batch_rows] for row in range(0, len(matrix), self._batch_rows))

    def _classes_of(self, flags: Mask) -> NDArray[np.int64]:
        counts = np.count_nonzero(flags, axis=1)
        classes = _class(counts / (self._columns * self._density))
        return np.where(counts == 0, _EMPTY, classes)

    def _count_row(self, row_class: int) -> float:
        """Count a row's class, and return its probability before."""
        probability = float(self._row_classes[row_class] / self._row_classes.sum())
        self._row_classes[row_class] += 1
        return probability

    def _pairs(self, classes: NDArray[np.int64]) -> NDArray[np.int16]:
        """Return the index of the pair of classes of each entry, flat; for empty rows, the number of pairs."""
        expected = self._num_rows * self._density + _COLUMN_PRIOR
        of_columns = _class((self._column_counts + _COLUMN_PRIOR) / expected).astype(np.int16)
        pairs = classes.astype(np.int16)[:, None] * np.int16(_NUM_CLASSES) + of_columns
        pairs[classes == _EMPTY] = len(self._hits)
        return pairs.reshape(-1)

    def _probability(self, pair: int) -> float:
        return float(min(max(self._hits[pair] / self._tries[pair], _MIN_PROBABILITY), _MAX_PROBABILITY))

    def _learn(self, flags: Mask, pairs: NDArray[np.int16]) -> None:
        size = len(self._hits) + 1
        self._tries += np.bincount(pairs, minlength=size)[:-1]
        self._hits += np.bincount(pairs[flags.reshape(-1)], minlength=size)[:-1]
        self._column_counts += np.count_nonzero(flags, axis=0)
        self._num_rows += len(flags)


def _places(pairs: NDArray[np.int16], num_pairs: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield each pair of classes with the indices of its entries; empty rows are skipped."""
    order = np.argsort(pairs, kind="stable")
    counts = np.bincount(pairs, minlength=num_pairs + 1)
    ends = np.cumsum(counts)
    for pair in np.flatnonzero(counts[:-1]).tolist():
        yield pair, order[ends[pair] - counts[pair] : ends[pair]]


def _class(relative: NDArray[Any]) -> NDArray[np.int64]:
    return np.searchsorted(_EDGES, relative, side="right").astype(np.int64)


def promise(mask: Mask, columns: int) -> float:
    """Return about how many bits a bitmap could save at most by using the density of each row and of each column.

    Densities of evenly spread nonzeros differ by chance; what this seems to save is subtracted.
    """
    matrix = mask.reshape(-1, columns)
    saved = [_saved(np.count_nonzero(matrix, axis=axis), matrix.shape[axis]) for axis in (0, 1)]
    return max(saved[0], 0.0) + max(saved[1], 0.0)


def _saved(counts: NDArray[Any], length: int) -> float:
    """Return the bits saved by the densities of rows, or columns, of this length, from their numbers of nonzeros."""
    nonzeros = counts.astype(np.float64)
    zeros = length - nonzeros
    with np.errstate(divide="ignore", invalid="ignore"):
        of_zeros = np.where(zeros > 0, zeros * np.log2(length / zeros), 0)
        entropy = np.nansum(nonzeros * np.log2(length / nonzeros) + of_zeros)
    by_chance = len(counts) * 0.5 / math.log(2)
    return bernoulli_bits(int(counts.sum()), length * len(counts)) - float(entropy) - by_chance
