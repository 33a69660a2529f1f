"""A network with a branch that training runs, or larger batches; and zeros in what lies before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Branching(nn.Module):
    """Two layers, and a function of the channels between that only training runs."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.function = nn.Linear(8, 16), nn.Linear(16, 5), function

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.first(x).relu()
        return (self.last(y), self.function(y)) if self.training else self.last(y)


def without_six(model: Branching) -> Branching:
    with torch.no_grad():
        for tensor in (model.first.weight[:6], model.first.bias[:6], model.last.weight[:, :6]):
            tensor.zero_()
    return model
