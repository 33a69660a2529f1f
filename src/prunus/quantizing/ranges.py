"""From the numbers a value takes to the range that its 8 bits cover."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from prunus.quantizing.rounding import Activations, value_scale

# (samples of the value, its lowest number, its highest, the kind of whole numbers) -> the range
Ranges = Callable[[Tensor, float, float, Activations], tuple[float, float]]

# The share of the numbers that the percentile leaves out on each side.
_TAIL = 1e-4
# A range is tried with so many shares of each side.
_SHARES = torch.linspace(0.2, 1.0, 33)


def minmax(samples: Tensor, low: float, high: float, kind: Activations) -> tuple[float, float]:
    """Cover all numbers."""
    return low, high


def percentile(samples: Tensor, low: float, high: float, kind: Activations) -> tuple[float, float]:
    """Cover all numbers but the outermost ten-thousandth on each side."""
    bounds = torch.quantile(samples, torch.tensor([_TAIL, 1 - _TAIL], dtype=samples.dtype, device=samples.device))
    return max(low, float(bounds[0])), min(high, float(bounds[1]))


def mse(samples: Tensor, low: float, high: float, kind: Activations) -> tuple[float, float]:
    """Cover what makes the squared error of rounding and cutting off smallest; each side is searched in turn."""
    best = (low, high)
    for _ in range(2):
        for side in (1, 0):
            if best[side] == 0.0:
                continue
            whole = (low, high)[side]
            tried = [(best[0], whole * share) if side else (whole * share, best[1]) for share in _SHARES.tolist()]
            best = min(tried, key=lambda bounds: _error(samples, bounds, kind))
    return best


def _error(samples: Tensor, bounds: tuple[float, float], kind: Activations) -> float:
    return float((value_scale(*bounds, kind).rounded(samples, kind) - samples).square().sum())


RANGES: Mapping[str, Ranges] = {"mse": mse, "minmax": minmax, "percentile": percentile}
