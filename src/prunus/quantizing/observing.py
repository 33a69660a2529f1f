"""The numbers that the values of a graph take on calibration batches."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from prunus.graph.operations import Family, find
from prunus.quantizing.planning import Plan
from prunus.quantizing.rounded_graph import across_channels, channel_dim

# Samples kept of each value, drawn at random from all batches: enough for the tail of a ten-thousandth.
_KEPT = 1 << 16


class Observer(fx.Interpreter):
    """Runs a graph in float and keeps samples of some of its values, and their extremes.

    Args:
        plan: whose values are looked at.
        tensors: parameters and buffers by name.
        by_channel: the values of which the largest number of each channel is kept, and nothing else.
        factors: key of a value -> what its channels are multiplied by before they are looked at.

    Attributes:
        samples: of each value, flat.
        lowest, highest: of each value.
        largest: of each value in `by_channel`, the largest absolute number of each channel.
    """

    def __init__(
        self,
        plan: Plan,
        tensors: Mapping[str, Tensor],
        *,
        by_channel: Collection[fx.Node] = (),
        factors: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        super().__init__(plan.graph.program.graph_module)
        self._graph, self._tensors, self._keys = plan.graph, tensors, plan.keys
        self._values, self._factors, self._by_channel = set(by_channel or plan.values), factors, bool(by_channel)
        self._generator = torch.Generator().manual_seed(0)
        self._seen: dict[fx.Node, int] = {}
        self.samples: dict[fx.Node, Tensor] = {}
        self.lowest: dict[fx.Node, float] = {}
        self.highest: dict[fx.Node, float] = {}
        self.largest: dict[fx.Node, Tensor] = {}

    @torch.no_grad()
    def observe(self, batches: Iterable[list[Tensor]]) -> None:
        """Run all batches."""
        for batch in batches:
            inputs = iter([value.clone() for value in batch])
            self.run(
                *(
                    self._tensors[name] if (name := self._graph.tensors.get(node.name)) else next(inputs)
                    for node in self._graph.nodes
                    if node.op == "placeholder"
                )
            )

    def run_node(self, n: fx.Node) -> Any:
        """Run an operation and look at its result."""
        result = self._result(n)
        if n in self._values:
            self._look(n, result)
        return result

    def _result(self, node: fx.Node) -> Any:
        if node.op == "call_function" and find(node.target).family is Family.CHECK:
            return None
        if str(node.target) in ("aten.view.default", "aten._unsafe_view.default"):
            args, _ = self.fetch_args_kwargs_from_env(node)
            return args[0].reshape(args[1])
        return super().run_node(node)

    def _look(self, node: fx.Node, value: Tensor) -> None:
        factors = self._factors.get(self._keys[node])
        if factors is not None:
            value = value * across_channels(factors, value)
        flat = value.detach().float().flatten()
        if not flat.numel():
            return
        if self._by_channel:
            largest = value.detach().abs().movedim(channel_dim(value), 0).flatten(1).amax(1).double()
            before = self.largest.get(node)
            self.largest[node] = largest if before is None else torch.maximum(before, largest)
            return
        low, high = map(float, torch.aminmax(flat))  # of what holds NaN both are NaN, which min and max would lose
        self.lowest[node] = min(self.lowest.get(node, 0.0), low if math.isfinite(low) else -math.inf)
        self.highest[node] = max(self.highest.get(node, 0.0), high if math.isfinite(high) else math.inf)
        self._keep(node, flat)

    def _keep(self, node: fx.Node, flat: Tensor) -> None:
        """Keep a random part of what was seen so far, each number with the same chance."""
        seen = self._seen.get(node, 0) + flat.numel()
        self._seen[node] = seen
        own = max(1, round(_KEPT * flat.numel() / seen))
        drawn = torch.randint(flat.numel(), (min(own, _KEPT),), generator=self._generator).to(flat.device)
        before = self.samples.get(node)
        if before is None:
            self.samples[node] = flat[drawn]
            return
        stays = torch.randperm(len(before), generator=self._generator)[: max(0, _KEPT - len(drawn))]
        self.samples[node] = torch.cat([before[stays.to(before.device)], flat[drawn]])

    def extremes(self, group: Collection[fx.Node]) -> tuple[float, float]:
        """Return the lowest and the highest number of some values.

        Raises:
            ValueError: they are not finite.
        """
        low = min(self.lowest.get(node, 0.0) for node in group)
        high = max(self.highest.get(node, 0.0) for node in group)
        if not (math.isfinite(low) and math.isfinite(high)):
            names = ", ".join(self._keys[node] for node in group)
            raise ValueError(f"{names} is not finite on these batches; are the weights and the inputs finite?")
        return low, high

    def numbers(self, group: Iterable[fx.Node]) -> Tensor:
        """Return samples of some values."""
        return torch.cat([self.samples[node] for node in group if node in self.samples] or [torch.zeros(1)])
