"""The order of channels that blocks keep most with: from swaps, whose gains are computed for all pairs at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prunus.pruning.patterns import Inputs, NofM

# So often all gains are computed anew, with the threshold of the new blocks, and so many rounds of swaps follow each.
_SWEEPS, _ROUNDS = 4, 60

# So much of a channel's magnitude a swap has to gain: less is lost in rounding.
_LEAST_GAIN = 1e-5

# So many weights of a channel are looked at, fewer where channels are many: all pairs of them take minutes otherwise.
_FEWEST_ROWS, _MOST_ROWS, _MOST_WORK = 256, 1024, 1 << 29

# So many of a channel's best swaps are looked at in each round: many channels have the same best partner.
_PARTNERS = 8


@dataclass(eq=False)
class View:
    """One layer's weights as its blocks see them.

    Attributes:
        matrix: magnitudes, (rows, inputs) in their present order.
        places: the input that each channel of a family stands at, int64.
    """

    matrix: Tensor
    places: Tensor

    def sampled(self) -> View:
        """Return a copy with as many rows as gains are computed of, scaled to stand for all."""
        count = min(_MOST_ROWS, max(_FEWEST_ROWS, _MOST_WORK // len(self.places) ** 2))
        rows = torch.randperm(len(self.matrix), generator=torch.Generator().manual_seed(0))[:count]
        return View(self.matrix[rows.to(self.matrix.device)].float() * (len(self.matrix) / len(rows)), self.places)

    def swap(self, first: Tensor, second: Tensor) -> None:
        """Exchange what stands at the places of some channels."""
        here, there = self.places[first], self.places[second]
        both, swapped = torch.cat([here, there]), torch.cat([there, here])
        self.matrix[:, both] = self.matrix[:, swapped]


def best_order(views: Sequence[View], pattern: Inputs | NofM, sparsity: float, until: float) -> Tensor:
    """Return an order of a family's channels with which blocks keep more of the magnitude.

    Args:
        views: the layers that read the channels; they are left as they were.
        pattern: blocks, or n of m.
        sparsity: the fraction of the blocks that is removed in each layer.
        until: when to stop, in `time.monotonic` seconds.

    Returns:
        Which channel stands where, int64: place i gets channel order[i].
    """
    own = [Gains(view.sampled(), pattern, sparsity) for view in views]
    order = torch.arange(len(views[0].places), device=views[0].places.device)
    for _ in range(_SWEEPS):
        for gains in own:
            gains.start()
        improved = False
        for _ in range(_ROUNDS):
            first, second = _disjoint(own)
            if not len(first) or time.monotonic() > until:
                break
            improved = True
            for gains in own:
                gains.swap(first, second)
            order[first], order[second] = order[second], order[first]
        if not improved:
            break
    return order


def _disjoint(own: Sequence[Gains]) -> tuple[Tensor, Tensor]:
    """Return swaps that gain, each in blocks of its own: of all channels' best ones, the best first."""
    total = torch.stack([gains.of_swaps() for gains in own]).sum(0)
    best, partners = (found.flatten() for found in total.topk(min(_PARTNERS, len(total)), dim=1))
    channels = torch.arange(len(total), device=total.device).repeat_interleave(len(best) // len(total))
    least = _LEAST_GAIN * sum(float(gains.view.matrix.sum()) / gains.view.matrix.shape[1] for gains in own)
    blocks = torch.unique(torch.stack([gains.blocks for gains in own]), dim=0).T.tolist()
    used: set[tuple[int, int]] = set()
    chosen: list[tuple[int, int]] = []
    ranked = best.argsort(descending=True, stable=True)
    ranked = ranked[best[ranked] > least]
    for first, second in zip(channels[ranked].tolist(), partners[ranked].tolist(), strict=True):
        touched = set(enumerate(blocks[first])) | set(enumerate(blocks[second]))
        if not touched & used:
            used |= touched
            chosen.append((first, second))
    pairs = torch.tensor(chosen, dtype=torch.int64, device=total.device).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


class Gains:
    """What a layer's blocks would keep with any channel in the place of any other.

    With channel j at place i, a block keeps of each row the best n of its weights, or its sum where that is above the
    threshold: base_i + sum over the rows of max(0, |w_j| - floor_i). The floor is the n-th largest of the others, or
    the threshold less their sum. As max(0, a - b) = (|a - b| + a - b) / 2, distances of all pairs tell all values.
    """

    def __init__(self, view: View, pattern: Inputs | NofM, sparsity: float) -> None:
        self.view, self._pattern, self._sparsity = view, pattern, sparsity
        self._size = pattern.m if isinstance(pattern, NofM) else pattern.size
        self.blocks = view.places // self._size

    def start(self) -> None:
        """Compute all values anew."""
        self.threshold = self._of_blocks()
        self._values = self._with(torch.arange(len(self.blocks), device=self.blocks.device))

    def of_swaps(self) -> Tensor:
        """Return what each swap of two channels would gain, (channels, channels)."""
        now = self._values.diagonal()
        gains = self._values + self._values.T - now.unsqueeze(0) - now.unsqueeze(1)
        return gains.masked_fill(self.blocks.unsqueeze(0) == self.blocks.unsqueeze(1), 0.0)

    def swap(self, first: Tensor, second: Tensor) -> None:
        """Exchange channels, and compute the values of their blocks anew."""
        self.view.swap(first, second)
        both, swapped = torch.cat([first, second]), torch.cat([second, first])
        self._values[:, both] = self._values[:, swapped]
        changed = torch.isin(self.blocks, self.blocks[both]).nonzero().flatten()
        self._values[changed] = self._with(changed)

    def _of_blocks(self) -> float:
        """Return the mean magnitude that a block needs to be kept; of no meaning for n of m."""
        if isinstance(self._pattern, NofM):
            return 0.0
        means = self._pattern.pool(self.view.matrix)
        removed = min(len(means) - 1, max(1, round(self._sparsity * len(means))))
        return float((means.kthvalue(removed).values + means.kthvalue(removed + 1).values) / 2)

    def _with(self, places: Tensor) -> Tensor:
        """Return what the blocks of some places keep with each channel there, (places, channels)."""
        matrix = self.view.matrix
        more = -matrix.shape[1] % self._size
        blocks = F.pad(matrix, (0, more)).view(len(matrix), -1, self._size)
        block, offset = self.blocks[places], self.view.places[places] % self._size
        others = blocks[:, block]  # a copy, (rows, places, size)
        others.scatter_(2, offset.view(1, -1, 1).expand(len(matrix), -1, 1), 0.0)
        if isinstance(self._pattern, NofM):
            largest = others.topk(self._pattern.n, dim=2).values
            base, floor = largest.sum((0, 2)), largest[..., -1]
        else:
            lengths = (matrix.shape[1] - block * self._size).clamp(max=self._size)
            base, floor = torch.zeros(len(places), device=matrix.device), self.threshold * lengths - others.sum(2)
        channels = matrix[:, self.view.places]
        apart = torch.cdist(floor.T.contiguous(), channels.T.contiguous(), p=1.0)
        above = (apart + channels.sum(0).unsqueeze(0) - floor.sum(0).unsqueeze(1)) / 2
        return base.unsqueeze(1) + above
