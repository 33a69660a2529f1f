"""Where scores come from: tensors read in chunks, again and again."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Scores in one chunk. Each operation on a chunk ends with its threads waiting for each other, which takes milliseconds
# on a machine busy with other things, so chunks should be large; from 2**22 on the allocator gives what is freed back
# to the system, and faulting the pages in again costs a quarter of the time (bench/select_speed.py).
_CPU_CHUNK = 2**21
_DEVICE_CHUNK = 2**26


class NanScoresError(ValueError):
    """A source holds NaN, which has no order; `source` is its index."""

    def __init__(self, source: int) -> None:
        super().__init__(f"the scores of source {source} hold NaN, which can't be ranked; make them finite or infinite")
        self.source = source


class Scores(Protocol):
    """One tensor's scores, readable again and again: floating point, never NaN, infinities allowed."""

    @property
    def count(self) -> int:
        """The number of scores."""

    def chunks(self) -> Iterator[Tensor]:
        """Yield the scores in order as flat tensors, the same each time."""

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
    """Scores computed from a tensor's elements, chunk by chunk, each time they are read.

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
    """Return how many scores a source should yield at a time; on a GPU each chunk costs a synchronisation."""
    return _CPU_CHUNK if device.type == "cpu" else _DEVICE_CHUNK


def common_dtype(sources: Sequence[Scores]) -> torch.dtype:
    """Return the narrowest dtype that holds every source's scores exactly."""
    dtypes = [source.sample(max(source.count, 1)).dtype for source in sources]
    for index, dtype in enumerate(dtypes):
        if not dtype.is_floating_point:
            raise TypeError(f"scores must be of floating dtype, got {dtype} from source {index}; convert them")
    return functools.reduce(torch.promote_types, dtypes)


def num_true(flags: Tensor) -> Tensor:
    """Return what `flags.count_nonzero` does, a few times faster for the usual chunk on a CPU."""
    if flags.device.type != "cpu" or flags.numel() % 1024 or flags.storage_offset() % 8:
        return flags.count_nonzero()
    # Eight flags add up in one word, each in its own byte: 128 at most, so that none runs over into the next.
    return flags.view(torch.int64).view(128, -1).sum(0).view(torch.uint8).sum()


def checked_chunks(source: Scores, index: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield a source's chunks in the given dtype, and raise NanScoresError at the end if there was NaN."""
    sums = []
    for chunk in source.chunks():
        sums.append(chunk.sum())
        yield chunk.to(dtype)
    # A sum is NaN wherever one of its terms is, and needs one quick reading; but so is infinity minus infinity.
    if any(math.isnan(total) for total in sums) and any(bool(chunk.isnan().any()) for chunk in source.chunks()):
        raise NanScoresError(index)
