"""Numbers rounded to 8 bits as runtimes do it, and the scales that say how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Activations: TypeAlias = Literal["uint8", "int8"]
# The whole numbers that a value of 8 bits may be; a weight is never -128, so that its negative is one too.
LIMITS: dict[str, tuple[int, int]] = {"uint8": (0, 255), "int8": (-128, 127)}
WEIGHT_LIMIT = 127
BIAS_LIMIT = 2**31 - 1
# A sum of products has 32 bits, and a bias must leave room for them.
_LARGEST_BIAS = 2**30


@dataclass(frozen=True)
class ValueScale:
    """How a value maps to 8 bits: real = (whole - zero_point) * scale.

    Attributes:
        scale: a positive number that float32 holds.
        zero_point: the whole number that stands for zero.
    """

    scale: float
    zero_point: int

    def rounded(self, value: Tensor, kind: Activations) -> Tensor:
        """Return a value as its 8 bits hold it; gradients go through where it is not cut off."""
        low, high = LIMITS[kind]
        rounded = torch.fake_quantize_per_tensor_affine(value, self.scale, self.zero_point, low, high)
        return torch.where(value.isnan(), value, rounded)  # NaN would become a number, and hide that training diverged


def value_scale(low: float, high: float, kind: Activations, scale: float = 0.0) -> ValueScale:
    """Return how numbers of a range map to 8 bits, zero exactly.

    Args:
        low: the lowest number.
        high: the highest.
        kind: int8 has its zero point at 0.
        scale: the least scale.

    >>> value_scale(0.0, 25.5, "uint8")
    ValueScale(scale=0.10000000149011612, zero_point=0)
    >>> value_scale(-1.27, 0.5, "int8").zero_point
    0
    """
    low, high = min(low, 0.0), max(high, 0.0)
    width = max(-low, high) / 127 if kind == "int8" else (high - low) / 255
    exact = float(torch.tensor(max(width, scale, 1e-12), dtype=torch.float32))
    if kind == "int8":
        return ValueScale(exact, 0)
    return ValueScale(exact, min(255, max(0, round(-low / exact))))


def rounded_weight(weight: Tensor, factor: Tensor, scales: Tensor, columns: Tensor | None = None) -> Tensor:
    """Return a weight as it is after rounding to whole multiples of its scales in [-127, 127]; zeros stay zeros.

    What is rounded is the weight times a factor for each output channel, and for each input channel: a BatchNorm folded
    in, and what equalisation moves between layers. The result is divided by both again. Gradients go through where it
    is not cut off.

    Args:
        weight: output channels first.
        factor: one number for each output channel.
        scales: one positive number for each output channel, in float32.
        columns: of the weight's dtype, what the weight is multiplied by, shaped to broadcast; None for ones.
    """
    rows = across_rows(factor.detach(), weight).to(weight.dtype)
    across = rows if columns is None else rows * columns.to(weight.dtype)
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=weight.device)
    folded = torch.fake_quantize_per_channel_affine(weight * across, scales, zeros, 0, -WEIGHT_LIMIT, WEIGHT_LIMIT)
    rounded = torch.where(across == 0, 0.0, folded / torch.where(across == 0, 1.0, across)).to(weight.dtype)
    return torch.where(weight.isnan(), weight, rounded)  # NaN stays NaN


def weight_scales(weight: Tensor, bias: Tensor, input_scale: float) -> Tensor:
    """Return a scale for each output channel of a folded weight, in float32: its largest number is 127.

    Args:
        weight: output channels first.
        bias: the folded bias, which has to fit into 32 bits as a multiple of the products' unit.
        input_scale: of the layer's input.
    """
    largest = weight.detach().flatten(1).abs().amax(1).double() if weight.numel() else weight.new_zeros(len(weight))
    least = bias.detach().abs().double() / (input_scale * _LARGEST_BIAS)
    scales = torch.maximum(largest / WEIGHT_LIMIT, least).float()
    return torch.where(scales > torch.finfo(torch.float32).tiny, scales, torch.ones_like(scales))


def across_rows(factor: Tensor, weight: Tensor) -> Tensor:
    """Return one number for each output channel, shaped to be combined with a weight."""
    return factor.view(-1, *[1] * (weight.ndim - 1))
