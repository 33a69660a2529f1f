"""One operation of a graph: its arguments by name, and what it gives for other tensors than its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from prunus.graph.coupling.calls import hint, shape_of
from prunus.graph.coupling.reader import RULES


@dataclass(frozen=True, eq=False)
class Operation:
    """A call of an ATen operation.

    Attributes:
        node: where it stands in the graph; its arguments are nodes, numbers and lists of them.
    """

    node: fx.Node

    @cached_property
    def name(self) -> str:
        """The operation's name without its namespace, overload and the mark of in-place variants."""
        packet: Any = self.node.target
        name = str(packet.overloadpacket).removeprefix("aten.")
        return name if name.startswith("__") else name.removesuffix("_")

    @property
    def rule(self) -> Any:
        """The rule by which coupling reads it; None where there is none."""
        return RULES.get(f"aten.{self.name}")

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """All arguments by name, defaults filled in."""
        target: Any = self.node.target
        by_place = {
            parameter.name: self.node.args[place] if place < len(self.node.args) else parameter.default_value
            for place, parameter in enumerate(target._schema.arguments)
        }
        return by_place | dict(self.node.kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or a default where the operation has none of that name."""
        return self.arguments.get(name, default)

    @cached_property
    def tensors(self) -> list[fx.Node]:
        """The arguments that are tensors, in order."""
        return [argument for argument in self.node.all_input_nodes if isinstance(argument.meta.get("val"), Tensor)]

    @cached_property
    def hangs_on_sizes(self) -> bool:
        """Whether a size of the inputs is among the arguments."""
        return any(not isinstance(argument.meta.get("val"), (Tensor, list, tuple)) for argument in self._sizes())

    def _sizes(self) -> list[fx.Node]:
        return [argument for argument in self.node.all_input_nodes if argument not in self.tensors]

    @property
    def is_random(self) -> bool:
        """Whether it draws random numbers."""
        target: Any = self.node.target
        return torch.Tag.nondeterministic_seeded in target.tags or "empty" in self.name

    @cached_property
    def num_dims(self) -> int:
        """How many dimensions the output has, or the first of several."""
        value = self.node.meta["val"]
        return int((value[0] if isinstance(value, (list, tuple)) else value).ndim)

    @cached_property
    def shape(self) -> torch.Size:
        """The shape of the output, or of the first of several, for the example inputs."""
        value = self.node.meta["val"]
        return shape_of(value[0] if isinstance(value, (list, tuple)) else value)

    def compute(self, tensors: Mapping[fx.Node, Tensor]) -> Any:
        """Return what it gives for these tensors in the place of its own, which it leaves as they are."""

        def swap(argument: Any) -> Any:
            if isinstance(argument, fx.Node):
                return tensors[argument] if argument in tensors else hint(argument.meta["val"])
            if isinstance(argument, (list, tuple)):
                return [swap(item) for item in argument]
            return torch.device("cpu") if isinstance(argument, torch.device) else argument

        args = [swap(argument) for argument in self.node.args]
        kwargs = {name: swap(argument) for name, argument in self.node.kwargs.items()}
        target: Any = self.node.target
        if self.name == "view" and len(args) == 2 and isinstance(args[1], list):
            target = torch.ops.aten.reshape.default  # contents lie otherwise in memory than what they stand for
        elif target._schema.is_mutable:
            target = getattr(torch.ops.aten, self.name)
        return target(*args, **kwargs)


def operation_of(node: fx.Node) -> Operation | None:
    """Return a node as an operation; None where it is none of ATen's."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    return Operation(node)


def node_shape(node: fx.Node) -> torch.Size:
    """Return the shape of a node's tensor for the example inputs."""
    return shape_of(node.meta["val"])


def rank_of(node: fx.Node) -> int:
    """Return how many dimensions a node's tensor has."""
    return int(node.meta["val"].ndim)
