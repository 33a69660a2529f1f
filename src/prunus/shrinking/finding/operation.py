"""One operation of a graph: its arguments by name, and what it gives for other tensors than its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from prunus.graph.calls import CalledOperation, arguments_by_name, hint, results_of, run, shape_of


class Operation(CalledOperation):
    """A call of an ATen operation, whose arguments are nodes, numbers and lists of them."""

    @property
    def fills(self) -> int | float | None:
        """The number that each element of the result is; None where there is none, or it is not known."""
        number = self.get(self.row.fills) if isinstance(self.row.fills, str) else self.row.fills
        return number if isinstance(number, (int, float)) else None

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
        return int(results_of(self.node)[0].ndim)

    def compute(self, tensors: Mapping[fx.Node, Tensor]) -> Any:
        """Return what it gives for these tensors in the place of its own, which it leaves as they are."""

        def swap(argument: Any) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            return tensors[argument] if argument in tensors else hint(argument.meta["val"])

        values = {name: fx.node.map_aggregate(argument, swap) for name, argument in self.arguments.items()}
        return run(self.node.target, values)


def operation_of(node: fx.Node) -> Operation | None:
    """Return a node as an operation; None where it is none of ATen's."""
    is_atens = node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    return Operation(node, arguments_by_name(node)) if is_atens else None


def node_shape(node: fx.Node) -> torch.Size:
    """Return the shape of a node's tensor for the example inputs."""
    return shape_of(node.meta["val"])


def rank_of(node: fx.Node) -> int:
    """Return how many dimensions a node's tensor has."""
    return int(node.meta["val"].ndim)
