"""BatchNorm folded into the layer before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prunus.graph.calls import arguments_by_name
from prunus.recovering.layers import Layer


def folded(layer: Layer, tensor: Callable[[str], Tensor], names: dict[str, str]) -> tuple[Tensor, Tensor]:
    """Return what a layer's outputs are multiplied by and what is added to them, with the BatchNorm behind it.

    layer(x) = factor * (weight x) + shift, one factor and one shift for each output channel.

    Args:
        layer: a layer of the graph, its weight's output channels first.
        tensor: name -> parameter or buffer.
        names: placeholder -> name.
    """
    weight = tensor(layer.weight)
    factor = torch.ones(len(weight), dtype=weight.dtype, device=weight.device)
    shift = torch.zeros_like(factor) if layer.bias is None else tensor(layer.bias)
    if layer.norm is None:
        return factor, shift
    call = arguments_by_name(layer.norm)
    mean, variance = (tensor(names[call[name].name]) for name in ("running_mean", "running_var"))
    factor = (variance + call["eps"]).rsqrt()
    if call["weight"] is not None:
        factor = factor * tensor(names[call["weight"].name])
    shift = (shift - mean) * factor
    if call["bias"] is not None:
        shift = shift + tensor(names[call["bias"].name])
    return factor, shift
