"""The unit scores of one layer, read in pieces and more than once, by scopes and by selection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Size, Tensor

from prunus.pruning.criteria import Criterion
from prunus.pruning.patterns import Pattern, Unstructured, finite, num_gone
from prunus.pruning.select import NanScoresError, chunk_length
from prunus.pruning.stats import Stats


@dataclass
class LayerScores:
    """The unit scores of one weight under a criterion and a pattern.

    If a score depends only on its own weight, scores are computed in pieces each time they are read, so that those of a
    layer are never in memory together; otherwise they are computed once and kept until `release`.

    Attributes:
        name: the parameter's name.
        weight: its values.
        criterion, pattern, stats: how scores are computed.
        mask: which weights are not pruned yet, None if all; pruned weights have score -inf, so that they rank first.
        min_kept: the least number of units that stay.
        count: the number of units.
        fewest: the number of units that are pruned already.
    """

    name: str
    weight: Tensor
    criterion: Criterion
    pattern: Pattern
    stats: Stats
    mask: Tensor | None
    min_kept: int
    count: int = field(init=False)
    fewest: int = field(init=False)
    _units: Tensor | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self.weight = self.weight.detach()
        self.count = self.pattern.num_units(self.shape)
        self.fewest = 0 if self.mask is None else num_gone(self.pattern, self.mask)

    @property
    def shape(self) -> Size:
        """The weight's shape."""
        return self.weight.shape

    @property
    def most(self) -> int:
        """The largest number of units that may be pruned."""
        if self.pattern.only_sparsity is not None:
            return round(self.pattern.only_sparsity * self.count)
        return max(self.count - self.min_kept, self.fewest)

    def chunks(self) -> Iterator[Tensor]:
        """Yield the unit scores, flat, in order."""
        length = chunk_length(self.weight.device)
        pieces = (slice(start, start + length) for start in range(0, self.count, length))
        if self._streams:
            weight = self.weight.reshape(-1)
            yield from (self._score(weight, piece) for piece in pieces)
        else:
            units = self._all()
            yield from (units[piece] for piece in pieces)

    def sample(self, stride: int) -> Tensor:
        """Return every `stride`-th unit score, flat."""
        if self._streams:
            return self._score(self.weight.reshape(-1), slice(None, None, stride))
        return self._all()[::stride]

    def release(self) -> None:
        """Free the scores that were kept."""
        self._units = None

    def num_nan_weights(self) -> int:
        """Return the number of NaN among the weights that are not pruned."""
        return int(torch.isnan(self._living()).sum())

    def has_nan_scores(self) -> bool:
        """Return whether the score of any weight that is not pruned is NaN."""
        try:
            return any(bool(torch.isnan(piece).any()) for piece in self.chunks())
        except NanScoresError:
            return True

    @property
    def _streams(self) -> bool:
        return self.criterion.elementwise and isinstance(self.pattern, Unstructured)

    def _score(self, weight: Tensor, piece: slice) -> Tensor:
        """Return the scores of a piece of the flat weight."""
        gradient = self.stats.gradient
        stats = self.stats if gradient is None else replace(self.stats, gradient=gradient.reshape(-1)[piece])
        scores = self._checked(self.criterion(weight[piece], stats), weight[piece].shape)
        return scores if self.mask is None else finite(scores).masked_fill(~self.mask.reshape(-1)[piece], -torch.inf)

    def _all(self) -> Tensor:
        """Return the scores of all units, flat."""
        if self._units is None:
            weight = self._living()
            if torch.isnan(weight).any():  # the scores need not be NaN then
                raise NanScoresError(0)
            scores = self._checked(self.criterion(weight, self.stats), self.shape)
            if torch.isnan(scores).any():
                raise NanScoresError(0)
            scores = finite(scores)
            if self.mask is not None:
                scores = scores.masked_fill(~self.mask, -torch.inf)
            self._units = self.pattern.pool(scores)
        return self._units

    def _living(self) -> Tensor:
        """Return the weight with zeros for pruned weights, even if they were not set to zero in the model."""
        return self.weight if self.mask is None else self.weight.masked_fill(~self.mask, 0)

    def _checked(self, scores: object, shape: Size) -> Tensor:
        """Return the scores of a criterion, which may be the user's own, after checking them."""
        if isinstance(scores, Tensor) and scores.shape == shape and scores.is_floating_point():
            return scores
        result = f"{scores.dtype} scores of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else repr(scores)
        raise ValueError(
            f"criterion {self.criterion.name!r} must return one floating-point score for each weight of "
            f"{self.name!r}, shape {tuple(shape)}, but returned {result}"
        )
