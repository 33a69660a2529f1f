"""A bitmap of a matrix that learns, row by row, which columns are dense, and is told how dense each row is.

Pruned weights are not spread evenly: neurons die, and inputs matter or do not. For every row its class of density is
written, and for every entry the class of its column is what was seen in the rows above. Each pair of classes has
a probability, which starts at the product of both densities and follows what is seen. Encoder and decoder see the same,
so nothing else is written. Flags of one pair of classes are written together, which is what makes it fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunus.packing.coder import Decoder, Encoder
from prunus.packing.positions import Mask, bernoulli_bits

# Densities relative to the whole tensor's, between the classes: half-octaves, rounded to what is exact in binary.
_EDGES = np.array([0.1875, 0.375, 0.53125, 0.71875, 1.0, 1.40625, 2.0, 2.8125, 4.0, 8.0])
_CENTRES = np.array([0.125, 0.28125, 0.4375, 0.625, 0.84375, 1.1875, 1.6875, 2.375, 3.375, 5.625, 11.0])
_NUM_CLASSES = len(_CENTRES)
_EMPTY = _NUM_CLASSES  # a row's class if it has no nonzero at all: none of its flags are written
# So many entries, in whole rows, are taken together: fewer would leave the time to Python, more would learn later. A
# large tensor is taken in so many steps.
_ENTRIES = 512
_STEPS = 2048
# What a large tensor costs is measured on so many of its entries.
MEASURED = 1 << 21
# How many entries of the usual density a column is thought to have had before any was seen.
_COLUMN_PRIOR = 1.0
# How many nonzeros' worth of evidence the first guess of a probability counts for.
_GUESS_WEIGHT = 2.0
_LEAST, _MOST = 2.0**-20, 1 - 2.0**-20
# Written flags are kept in a piece of at least so many columns, so the number of steps is bounded by the tensor's size.
LEAST_COLUMNS = 8


class Rows:
    """The state of the model after some rows.

    Args:
        num_nonzero, total: of the whole tensor; neither all nor none are nonzero.
        columns: entries of a row.
        bits: what all of it takes, if `measured` told.
    """

    def __init__(self, num_nonzero: int, total: int, columns: int, bits: float = 0.0) -> None:
        self.bits = bits
        self._density = num_nonzero / total
        self._columns = columns
        self._together = -(-max(_ENTRIES, total // _STEPS) // columns)
        self._seen = np.zeros(columns, np.int64)
        self._num_rows = 0
        self._row_classes = np.full(_NUM_CLASSES + 1, 0.5)
        guess = np.clip(self._density * _CENTRES[:, None] * _CENTRES[None, :], _LEAST, 0.75).ravel()
        self._hits = np.full(len(guess), _GUESS_WEIGHT)
        self._tries = _GUESS_WEIGHT / guess

    @classmethod
    def measured(cls, mask: Mask, num_nonzero: int, total: int, columns: int) -> Rows:
        """Return the model with what `write` would take for a whole tensor, in bits, going by its first rows.

        Args:
            mask: the first rows, or all.
            num_nonzero: as for the class.
            total: likewise.
            columns: likewise.
        """
        state, bits = cls(num_nonzero, total, columns), 0.0
        for flags in state._batches(mask):
            classes = state._classes_of(flags)
            bits += sum(-math.log2(state._count_row(each)) for each in classes.tolist())
            pairs = state._pairs(classes)
            for pair, places in _places(pairs, len(state._hits)):
                ones, probability = int(np.count_nonzero(flags.reshape(-1)[places])), state._probability(pair)
                bits -= ones * math.log2(probability) + (len(places) - ones) * math.log2(1 - probability)
            state._learn(flags, pairs)
        return cls(num_nonzero, total, columns, bits * total / mask.size)

    def write(self, encoder: Encoder, mask: Mask) -> None:
        """Write one piece: some whole rows."""
        for flags in self._batches(mask):
            classes = self._classes_of(flags)
            for each in classes.tolist():
                encoder.symbol(each, self._row_classes)
                self._count_row(each)
            pairs = self._pairs(classes)
            for pair, places in _places(pairs, len(self._hits)):
                encoder.flags(flags.reshape(-1)[places], self._probability(pair))
            self._learn(flags, pairs)

    def read(self, decoder: Decoder, count: int) -> Mask:
        """Read one piece: some whole rows."""
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
        """Return views of a few rows each."""
        matrix = mask.reshape(-1, self._columns)
        return (matrix[row : row + self._together] for row in range(0, len(matrix), self._together))

    def _classes_of(self, flags: Mask) -> NDArray[np.int64]:
        counts = np.count_nonzero(flags, axis=1)
        classes = _class(counts / (self._columns * self._density))
        return np.where(counts == 0, _EMPTY, classes)

    def _count_row(self, row_class: int) -> float:
        """Count a row's class, and return how likely it was before."""
        probability = float(self._row_classes[row_class] / self._row_classes.sum())
        self._row_classes[row_class] += 1
        return probability

    def _pairs(self, classes: NDArray[np.int64]) -> NDArray[np.int16]:
        """Return the pair of classes of each entry of some rows, flat; one more than there are in empty rows."""
        expected = self._num_rows * self._density + _COLUMN_PRIOR
        of_columns = _class((self._seen + _COLUMN_PRIOR) / expected).astype(np.int16)
        pairs = classes.astype(np.int16)[:, None] * np.int16(_NUM_CLASSES) + of_columns
        pairs[classes == _EMPTY] = len(self._hits)
        return pairs.reshape(-1)

    def _probability(self, pair: int) -> float:
        return float(min(max(self._hits[pair] / self._tries[pair], _LEAST), _MOST))

    def _learn(self, flags: Mask, pairs: NDArray[np.int16]) -> None:
        size = len(self._hits) + 1
        self._tries += np.bincount(pairs, minlength=size)[:-1]
        self._hits += np.bincount(pairs[flags.reshape(-1)], minlength=size)[:-1]
        self._seen += np.count_nonzero(flags, axis=0)
        self._num_rows += len(flags)


def _places(pairs: NDArray[np.int16], num_pairs: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Return the pairs of classes that occur, each with where it does; empty rows have none."""
    order = np.argsort(pairs, kind="stable")
    counts = np.bincount(pairs, minlength=num_pairs + 1)
    ends = np.cumsum(counts)
    for pair in np.flatnonzero(counts[:-1]).tolist():
        yield pair, order[ends[pair] - counts[pair] : ends[pair]]


def _class(relative: NDArray[Any]) -> NDArray[np.int64]:
    return np.searchsorted(_EDGES, relative, side="right").astype(np.int64)


def promise(mask: Mask, columns: int) -> float:
    """Return how many bits a bitmap could save by knowing the density of each row and of each column, at most about.

    Where nonzeros are spread evenly, the densities found differ by chance alone; what that seems to save is taken off.
    """
    matrix = mask.reshape(-1, columns)
    saved = [_saved(np.count_nonzero(matrix, axis=axis), matrix.shape[axis]) for axis in (0, 1)]
    return max(saved[0], 0.0) + max(saved[1], 0.0)


def _saved(counts: NDArray[Any], each: int) -> float:
    total = int(counts.sum())
    apart = counts.astype(np.float64)
    others = each - apart
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.nansum(apart * np.log2(each / apart) + np.where(others > 0, others * np.log2(each / others), 0))
    by_chance = len(counts) * 0.5 / math.log(2)
    return bernoulli_bits(total, each * len(counts)) - float(entropy) - by_chance
