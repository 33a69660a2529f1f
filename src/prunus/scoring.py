"""One layer's unit scores, read again and again in pieces: what scopes spread over and selection picks from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Size, Tensor

from prunus.criteria import Criterion
from prunus.patterns import Pattern, Unstructured
from prunus.stats import Stats

# A piece of float32 scores of this many elements is 1 MiB: it stays in a core's cache between the passes over it.
PIECE = 1 << 18


@dataclass
class LayerScores:
    """The unit scores of one weight under a criterion and a pattern.

    Where a score depends on its own weight only, scores are computed piece by piece as they are read, so that
    a layer's never lie in memory together; else they are computed once and kept until `release`.
    """

    name: str
    weight: Tensor
    criterion: Criterion
    pattern: Pattern
    stats: Stats
    mask: Tensor | None  # what is pruned already has score -inf: it goes first
    min_kept: int
    count: int = field(init=False)
    fewest: int = field(init=False)
    _units: Tensor | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self.count = self.pattern.num_units(self.shape)
        self.fewest = 0
        if self.mask is not None:
            gone = torch.where(self.mask, 0.0, -torch.inf)
            self.fewest = int(torch.count_nonzero(self.pattern.pool(gone) == -torch.inf))

    @property
    def shape(self) -> Size:
        """The weight's shape."""
        return self.weight.shape

    @property
    def most(self) -> int:
        """How many units may go."""
        if self.pattern.only_sparsity is not None:
            return round(self.pattern.only_sparsity * self.count)
        return max(self.count - self.min_kept, self.fewest)

    def chunks(self) -> Iterator[Tensor]:
        """Yield the unit scores, flat, in order."""
        if not self._streams:
            units = self._all()
            yield from (units[start : start + PIECE] for start in range(0, self.count, PIECE))
            return
        weight = self.weight.detach().reshape(-1)
        for start in range(0, self.count, PIECE):
            yield self._score(weight, slice(start, start + PIECE))

    def sample(self, stride: int) -> Tensor:
        """Return every `stride`-th unit score, flat."""
        if not self._streams:
            return self._all()[::stride]
        return self._score(self.weight.detach().reshape(-1), slice(None, None, stride))

    def release(self) -> None:
        """Forget scores that were kept."""
        self._units = None

    @property
    def _streams(self) -> bool:
        return self.criterion.elementwise and isinstance(self.pattern, Unstructured)

    def _score(self, weight: Tensor, piece: slice) -> Tensor:
        gradient = self.stats.gradient
        stats = self.stats if gradient is None else replace(self.stats, gradient=gradient.reshape(-1)[piece])
        scores = self.criterion(weight[piece], stats)
        return scores if self.mask is None else scores.masked_fill(~self.mask.reshape(-1)[piece], -torch.inf)

    def _all(self) -> Tensor:
        if self._units is None:
            scores = self.criterion(self.weight.detach(), self.stats)
            if not isinstance(scores, Tensor) or scores.shape != self.shape:
                given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise ValueError(
                    f"criterion {self.criterion.name!r} must return one score for each weight of {self.name!r}, "
                    f"shape {tuple(self.shape)}, but returned {given}"
                )
            self.check_numbers(scores)
            if self.mask is not None:
                scores = scores.masked_fill(~self.mask, -torch.inf)
            self._units = self.pattern.pool(scores)
        return self._units

    def check_numbers(self, scores: Tensor) -> None:
        """Raise ValueError where scores are NaN, and say whether the weight was."""
        if torch.isnan(scores).any():
            raise self.nan_error()

    def nan_error(self) -> ValueError:
        """Build the error for NaN scores of this layer."""
        count = int(torch.isnan(self.weight.detach()).sum())
        what = f"holds {count:,} NaN weights" if count else f"gets NaN scores from criterion {self.criterion.name!r}"
        return ValueError(
            f"{self.name!r} {what}, which can't be ranked; nothing was pruned (did training diverge? "
            "load an earlier checkpoint, or exclude the layer)"
        )
