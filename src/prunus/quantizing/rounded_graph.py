"""The numbers of a plan, and what they make of weights and values when a graph is run with 8 bits in float."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, fx

from prunus.quantizing.folding import folded
from prunus.quantizing.planning import Plan, QuantizedLayer
from prunus.quantizing.rounding import BIAS_LIMIT, Activations, ValueScale, rounded_weight

# Name -> parameter, buffer or constant.
Lookup = Callable[[str], Tensor]


@dataclass
class Rounding:
    """What a plan becomes once it has numbers; keys are those of the plan.

    Attributes:
        plan: what is rounded.
        values: how each value maps to 8 bits.
        weights: the scales of each layer's weight.
        corrections: what is added to each layer's outputs.
        factors: what the channels of a value are multiplied by before it is rounded.
        kind: of the activations.
    """

    plan: Plan
    values: Mapping[str, ValueScale]
    weights: dict[str, Tensor] = field(default_factory=dict)
    corrections: dict[str, Tensor] = field(default_factory=dict)
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    kind: Activations = "uint8"

    def value(self, key: str, value: Tensor) -> Tensor:
        """Return a value as its 8 bits hold it."""
        factors = self.factors.get(key)
        if factors is None:
            return self.values[key].rounded(value, self.kind)
        shaped = across_channels(factors, value)
        return self.values[key].rounded(value * shaped, self.kind) / shaped

    def weight(self, layer: QuantizedLayer, weight: Tensor, lookup: Lookup) -> Tensor:
        """Return a layer's weight as its 8 bits hold it, for a graph whose BatchNorm is not folded."""
        factor, _ = folded(layer.layer, lookup, self.plan.graph.tensors)
        return rounded_weight(weight, factor, self.weights[layer.key].to(weight.device), self.columns(layer, weight))

    def columns(self, layer: QuantizedLayer, weight: Tensor) -> Tensor | None:
        """Return what a layer's input channels are multiplied by, shaped as those of its weight."""
        factors = self.factors.get(self.plan.keys[layer.source])
        if factors is None:
            return None
        inverse = factors.reciprocal().to(weight)
        if weight.ndim == 2:
            return inverse.view(1, -1)
        groups = layer.layer.call["groups"]
        apart = inverse.view(groups, -1).repeat_interleave(len(weight) // groups, 0)
        return apart.view(*apart.shape, *[1] * (weight.ndim - 2))

    def corrected(self, layer: QuantizedLayer, output: Tensor, lookup: Lookup) -> Tensor:
        """Return a layer's output with its correction, and with its bias as 32 bits hold it."""
        _, shift = folded(layer.layer, lookup, self.plan.graph.tensors)
        whole, units = self.bias(layer, shift.detach())
        moved = whole * units - shift.detach().double()
        return output + across(moved.to(output.dtype), layer)

    def bias(self, layer: QuantizedLayer, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's bias in whole units of its products, and these units, in float64.

        Args:
            layer: a layer of the plan.
            shift: its bias with the BatchNorm folded in, before the correction.
        """
        units = self.weights[layer.key].to(shift.device).double() * self.values[self.plan.keys[layer.source]].scale
        bias = shift.double() + self.corrections[layer.key].to(shift.device)
        return (bias / units).round().clamp(-BIAS_LIMIT, BIAS_LIMIT), units


def channel_dim(value: Tensor) -> int:
    """Return the dimension of a value's channels: the second where it has more than a batch and features."""
    return 1 if value.ndim > 2 else value.ndim - 1


def across_channels(factors: Tensor, value: Tensor) -> Tensor:
    """Return one number for each channel, shaped to be combined with a value."""
    return factors.to(value).view(-1, *[1] * (value.ndim - 1 - channel_dim(value)))


def across(channels: Tensor, layer: QuantizedLayer) -> Tensor:
    """Return one number for each output channel, shaped to be combined with a layer's output."""
    return channels.view(-1, *[1] * (_rank(layer) - 2))


def mean_by_channel(output: Tensor, layer: QuantizedLayer) -> Tensor:
    """Return the mean of each output channel of a layer, in float64."""
    return output.detach().double().movedim(output.ndim - 1 - (_rank(layer) - 2), 0).flatten(1).mean(1)


def _rank(layer: QuantizedLayer) -> int:
    weight = layer.layer.call["weight"]
    assert isinstance(weight, fx.Node)
    return int(weight.meta["val"].ndim)
