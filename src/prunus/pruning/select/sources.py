"""Sources of scores: tensors that are read in chunks, and more than once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Scores in one chunk. After each operation on a chunk its threads wait for each other, which takes milliseconds on a
# busy machine, so chunks should be large; but from 2**22 on the allocator returns freed memory to the system, and its
# page faults cost a quarter of the time (bench/select_speed.py).
_CPU_CHUNK = 2**21
_DEVICE_CHUNK = 2**26


class NanScoresError(ValueError):
    """A source holds NaN, which has no order; `source` is its index."""

    def __init__(self, source: int) -> None:
        super().__init__(f"the scores of source {source} hold NaN, which can't be ranked; make them finite or infinite")
        self.source = source


class Scores(Protocol):
    """One tensor's scores, which can be read more than once: floating point, no NaN, infinities allowed."""

    @property
    def count(self) -> int:
        """The number of scores."""

    def chunks(self) -> Iterator[Tensor]:
        """Yield the scores in order as flat tensors, the same ones each time."""

    def sample(self, stride: int) -> Tensor:
        """Return every `stride`-th score, beginning with the first, flat."""


@dataclass(frozen=True, eq=False)
class WholeScores(Scores):
    """Scores already in memory, of any shape."""

    tensor: Tensor

    @property
    def count(self) -> int:
        """The number of scores."""
        return self.tensor.numel()

    def chunks(self) -> Iterator[Tensor]:
        """Yield the scores in order as flat tensors."""
        yield from torch.split(self.tensor.detach().flatten(), chunk_length(self.tensor.device))

    def sample(self, stride: int) -> Tensor:
        """Return every `stride`-th score, beginning with the first, flat."""
        return self.tensor.detach().flatten()[::stride]


@dataclass(frozen=True, eq=False)
class ElementwiseScores(Scores):
    """Scores computed from a tensor's elements in chunks, each time they are read.

    >>> from prunus.pruning.select import smallest
    >>> smallest([ElementwiseScores(torch.tensor([3.0, -1.0, -2.0]), torch.abs)], k=1)
    [tensor([False,  True, False])]
    """

    tensor: Tensor
    function: Callable[[Tensor], Tensor]

    @property
    def count(self) -> int:
        """The number of scores."""
        return self.tensor.numel()

    def chunks(self) -> Iterator[Tensor]:
        """Yield the scores in order as flat tensors."""
        return map(self.function, WholeScores(self.tensor).chunks())

    def sample(self, stride: int) -> Tensor:
        """Return every `stride`-th score, beginning with the first, flat."""
        return self.function(WholeScores(self.tensor).sample(stride))


def chunk_length(device: torch.device) -> int:
    """Return how many scores a source should yield at a time; on a GPU each chunk needs a synchronisation."""
    return _CPU_CHUNK if device.type == "cpu" else _DEVICE_CHUNK


def common_dtype(sources: Sequence[Scores]) -> torch.dtype:
    """Return the narrowest dtype that holds every source's scores exactly."""
    dtypes = [source.sample(max(source.count, 1)).dtype for source in sources]
    for index, dtype in enumerate(dtypes):
        if not dtype.is_floating_point:
            raise TypeError(f"scores must be of floating dtype, got {dtype} from source {index}; convert them")
    return functools.reduce(torch.promote_types, dtypes)


def num_true(flags: Tensor) -> Tensor:
    """Return `flags.count_nonzero()`, computed a few times faster for the usual chunk on a CPU."""
    if flags.device.type != "cpu" or flags.numel() % 1024 or flags.storage_offset() % 8:
        return flags.count_nonzero()
    # Words of eight flags are added, each flag in its own byte: at most 128 per byte, so none overflows.
    return flags.view(torch.int64).view(128, -1).sum(0).view(torch.uint8).sum()


def checked_chunks(source: Scores, index: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield a source's chunks in this dtype, and raise NanScoresError at the end if a score is NaN."""
    sums = []
    for chunk in source.chunks():
        sums.append(chunk.sum())
        yield chunk.to(dtype)
    # A sum is quick and is NaN if one of its terms is; it is also NaN for infinity minus infinity.
    if any(math.isnan(total) for total in sums) and any(bool(chunk.isnan().any()) for chunk in source.chunks()):
        raise NanScoresError(index)
