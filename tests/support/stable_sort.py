"""What the selection is held to: a stable sort of everything joined, and sources cut and sampled at will."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unittest import mock

import torch
from hypothesis import strategies as st
from torch import Tensor

from prunus.pruning.select import Scores, sources, threshold

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Ties of every kind: signed zeros, infinities, subnormals of each dtype, neighbours that only float64 tells apart.
VALUES = (0.0, -0.0, 1.0, -1.0, 2.0, 1 + 2**-7, 1 + 2**-10, 1 + 2**-23, 1 + 2**-52, 0.1, -0.1, math.inf, -math.inf)
SUBNORMAL = (5e-324, 1e-40, -1e-40, 6e-8, 2.0**-126, 65504.0, -65504.0)


def sorted_choice(tensors: Sequence[Tensor], k: int) -> list[Tensor]:
    """Return the k smallest as a stable sort of the joined tensors chooses them; float64 holds every dtype exactly."""
    joined = torch.cat([tensor.flatten().to(torch.float64) for tensor in tensors])
    mask = torch.zeros(len(joined), dtype=torch.bool)
    mask[joined.sort(stable=True).indices[:k]] = True
    return list(mask.split([tensor.numel() for tensor in tensors]))


@dataclass(frozen=True, eq=False)
class Cut(Scores):
    """A flat tensor read in pieces of the given sizes, again and again from the first size; `reads` counts."""

    tensor: Tensor
    sizes: tuple[int, ...]
    claimed: Tensor | None = None  # what `sample` draws from instead

    @property
    def count(self) -> int:
        return self.tensor.numel()

    def chunks(self) -> Iterator[Tensor]:
        start = 0
        for size in itertools.cycle(self.sizes):
            if start >= self.count:
                return
            yield self.tensor[start : start + size]
            start += size

    def sample(self, stride: int) -> Tensor:
        return (self.tensor if self.claimed is None else self.claimed)[::stride]


@contextlib.contextmanager
def scaled_down(chunk: int = 64, sample: int = 16, candidates: int = 64) -> Iterator[None]:
    """Make a few hundred scores go the way that millions go."""
    with (
        mock.patch.object(sources, "_CPU_CHUNK", chunk),
        mock.patch.multiple(threshold, _SAMPLE=sample, _CANDIDATES=candidates, _CANDIDATE_FRACTION=0.0),
    ):
        yield


@st.composite
def tensors(draw: st.DrawFn, max_size: int = 300) -> Tensor:
    """Draw a flat tensor of any dtype and size, of few values with many ties or of random ones."""
    dtype = draw(st.sampled_from(DTYPES))
    size = draw(st.sampled_from((0, 1, 2)) | st.integers(0, max_size))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if draw(st.booleans()):
        pool = draw(st.lists(st.sampled_from(VALUES + SUBNORMAL), min_size=1, max_size=6))
        picked = torch.randint(len(pool), (size,), generator=generator)
        return torch.tensor(pool, dtype=torch.float64)[picked].to(dtype)
    return torch.randn(size, dtype=torch.float64, generator=generator).to(dtype)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Tensor], int]:
    """Draw tensors and how many of their scores to take: any number, and often none or all."""
    drawn = draw(st.lists(tensors(), min_size=1, max_size=4))
    total = sum(tensor.numel() for tensor in drawn)
    return drawn, draw(st.sampled_from((0, total)) | st.integers(0, total))


scales = st.fixed_dictionaries(
    {
        "chunk": st.sampled_from((1, 7, 64, 2**20)),
        "sample": st.sampled_from((1, 3, 16, 2**18)),
        "candidates": st.sampled_from((64, 100, 2**18)),
    }
)
