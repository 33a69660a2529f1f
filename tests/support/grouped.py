"""A network around a grouped convolution, and its images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zero_cases import random_numbers

IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def make(groups: int, inputs: int, outputs_: int, transposed: bool) -> nn.Sequential:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    grouped = kind(inputs, outputs_, 3, groups=groups)
    layers = [nn.Conv2d(3, inputs, 1), nn.Tanh(), grouped, nn.BatchNorm2d(outputs_), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs_, 5))
    filled = random_numbers(model)
    assert isinstance(filled, nn.Sequential)
    return filled


def by_row(weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """Return a grouped weight as (groups, outputs of a group, inputs of a group, kernel), a view of it."""
    split = weight.view(groups, -1, *weight.shape[1:])
    return split.transpose(1, 2) if transposed else split
