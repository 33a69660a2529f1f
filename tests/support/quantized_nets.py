"""Small nets to quantise, and their samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """A stem with BatchNorm, a residual block, a depthwise layer with SiLU, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.first, self.deep = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 2, 8, 8) to (n, 5)."""
        x = F.relu_(self.norm(self.stem(x)))
        x = F.relu(x + self.first(x))
        return self.last(F.silu(self.deep(x)).mean((2, 3)))


def images(count: int = 96, seed: int = 0) -> Tensor:
    """Return random images."""
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def residual(seed: int = 0) -> Residual:
    """Return a residual net whose BatchNorm has seen data."""
    torch.manual_seed(seed)
    model = Residual()
    for step in range(10):
        model(images(seed=step))
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 1.5)
        model.norm.bias.uniform_(-0.5, 0.5)
    return model.eval()


def apart(outputs: Tensor, wanted: Tensor) -> float:
    """Return the squared difference, relative to the variance of what is wanted."""
    return float((outputs - wanted).double().square().mean() / wanted.double().var(unbiased=False))
