"""Models with random zeros, and whether their outputs agree."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sparse(model: nn.Module, sparsity: float, seed: int = 0) -> nn.Module:
    """Zero a fraction of the weights at random, and return the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) >= sparsity)
    return model.eval()


def close(found: Tensor, expected: Tensor, limit: float = 1e-5) -> None:
    """Assert that outputs agree relative to the largest."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = max(float(expected.detach().abs().max()), 1e-6) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=limit * scale)
