"""One operation of a graph as coupling reads it: labels and sources in the place of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from prunus.errors import GraphError
from prunus.graph import where
from prunus.graph.calls import CalledOperation, arguments_by_name, hint, results_of, run
from prunus.graph.coupling.values import Value
from prunus.graph.operations import Family


class Call(CalledOperation):
    """One operation with its arguments: tensors as Values, symbolic sizes as the example's numbers."""

    @classmethod
    def of(cls, node: fx.Node, values: Mapping[fx.Node, Any]) -> Call:
        """Return a node's call; `values` holds the Value of each node before."""

        def argument_value(argument: Any) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            value = values.get(argument)
            return value if isinstance(value, (Value, list)) else hint(argument.meta.get("val"))

        return cls(node, fx.node.map_aggregate(arguments_by_name(node), argument_value))

    @property
    def values(self) -> list[Value]:
        """All tensor arguments, those in lists included, in order."""
        values: list[Value] = []
        for argument in self.arguments.values():
            listed = argument if isinstance(argument, (list, tuple)) else [argument]
            values += [value for value in listed if isinstance(value, Value)]
        return values

    @property
    def is_touched(self) -> bool:
        """Whether any tensor holds channels, comes from parameters, or is made to measure."""
        return any(value.sources or value.is_filled or value.labelled for value in self.values)

    @property
    def has_several(self) -> bool:
        """Whether it gives several results, even if it is a list of one."""
        return isinstance(self.node.meta["val"], (list, tuple))


# Constants up to this many elements are computed, so that indexing with them is understood.
_KNOWN = 1 << 20

# Zeros and ones up to this many elements, such as a recurrent layer's first state, are cut like what they meet.
MOST_MADE = 1 << 20


def computed(call: Call) -> Tensor | None:
    """Return the content of a constant computed from whole numbers that are constants."""
    result = call.node.meta["val"]
    if not isinstance(result, Tensor) or result.is_floating_point() or result.is_complex() or result.numel() > _KNOWN:
        return None
    if any(value.contents is None for value in call.values) or call.family is Family.FILL:
        return None
    try:
        content = call_with(call, {id(value): value.contents for value in call.values})
        return content if isinstance(content, Tensor) else None
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None


def call_with(call: Call, tensors: Mapping[int, Tensor | None]) -> Any:
    """Run an operation on other tensors than its own: `tensors` maps the id of each Value to what stands for it."""
    return run_on(call.node.target, call.arguments, tensors)


def run_on(target: Any, arguments: Mapping[str, Any], tensors: Mapping[int, Tensor | None]) -> Any:
    """Run an operation on stand-ins for its tensors.

    Args:
        target: the operation.
        arguments: all its arguments by name, each tensor as a Value.
        tensors: id of each Value -> the tensor that stands for it.
    """

    def stand_in(argument: Any) -> Any:
        return tensors[id(argument)] if isinstance(argument, Value) else argument

    return run(target, {name: fx.node.map_aggregate(argument, stand_in) for name, argument in arguments.items()})


def check_sizes(nodes: Iterable[fx.Node]) -> None:
    """Refuse a graph with tensors whose sizes depend on the values of others, as ``x[mask]`` has.

    Raises:
        GraphError: there is one; the message names the operation, its module and its line.
    """
    for node in nodes:
        for result in results_of(node):
            if not isinstance(result, Tensor):
                continue
            if result.layout != torch.strided or result.is_nested:
                raise GraphError(f"operation {node.target} gives a tensor that is not dense: in {where(node)}")
            if any(hint(size) is None for size in result.shape):
                raise GraphError(
                    f"operation {node.target} gives as many elements as the values of its inputs say, so prunus can't "
                    f"tell which channels it couples: in {where(node)}; give what it selects as an input of its own"
                )
