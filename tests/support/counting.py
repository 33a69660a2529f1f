"""A model that writes to its own buffer and to its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Counting(nn.Module):
    """Counts its calls, and doubles its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        x.mul_(2)
        return self.layer(x) + self.count
