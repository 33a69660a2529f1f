"""One operation of a graph with its arguments, and how it is computed on other tensors than its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from prunus.errors import GraphError
from prunus.graph import where
from prunus.graph.coupling.values import Value


@dataclass(frozen=True)
class Call:
    """One operation with its arguments: tensors as Values, symbolic sizes as the example's numbers."""

    node: fx.Node
    name: str
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or a default where the operation has none of that name."""
        return self.arguments.get(name, default)

    @property
    def values(self) -> list[Value]:
        """All tensor arguments, those in lists included, in order."""
        found: list[Value] = []
        for argument in self.arguments.values():
            listed = argument if isinstance(argument, (list, tuple)) else [argument]
            found += [value for value in listed if isinstance(value, Value)]
        return found

    @property
    def shape(self) -> torch.Size:
        """The shape of the output, or of the first of several."""
        return self.shapes[0]

    @property
    def shapes(self) -> list[torch.Size]:
        """The shapes of all outputs."""
        found = self.node.meta["val"]
        return [shape_of(value) for value in (found if isinstance(found, (list, tuple)) else [found])]


FACTORIES = frozenset(
    f"aten.{name}" for name in ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
)

# Constants up to this many elements are computed, so that indexing with them is understood.
_KNOWN = 1 << 20

# Zeros and ones up to this many elements, such as a recurrent layer's first state, are cut like what they meet.
MOST_MADE = 1 << 20


def computed(call: Call) -> Tensor | None:
    """Return the content of a constant that is made of whole numbers known already."""
    found = call.node.meta["val"]
    if not isinstance(found, Tensor) or found.is_floating_point() or found.is_complex() or found.numel() > _KNOWN:
        return None
    if any(value.known is None for value in call.values) or call.name in FACTORIES:
        return None
    try:
        computed = call_with(call, {id(value): value.known for value in call.values})
        return computed if isinstance(computed, Tensor) else None
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None


def call_with(call: Call, tensors: Mapping[int, Tensor | None]) -> Any:
    """Compute an operation on other tensors than its own: `tensors` maps the id of each Value to what stands for it."""
    return run_on(call.node.target, call.arguments, tensors)


def run_on(target: Any, arguments: Mapping[str, Any], tensors: Mapping[int, Tensor | None]) -> Any:
    """Compute an operation on stand-ins for its tensors.

    Args:
        target: the operation.
        arguments: all its arguments by name, each tensor as a Value.
        tensors: id of each Value -> the tensor that stands for it.
    """

    def swap(argument: Any) -> Any:
        if isinstance(argument, (list, tuple)):
            return [swap(each) for each in argument]
        if isinstance(argument, torch.device):
            return torch.device("cpu")
        return tensors[id(argument)] if isinstance(argument, Value) else argument

    if str(target) in ("aten.view.default", "aten._unsafe_view.default"):  # stand-ins lie otherwise in memory
        return torch.ops.aten.reshape(swap(arguments["self"]), swap(arguments["size"]))
    positional, named = [], {}
    for parameter in target._schema.arguments:
        value = swap(arguments[parameter.name])
        if parameter.kwarg_only:
            named[parameter.name] = value
        else:
            positional.append(value)
    return target(*positional, **named)


def bound(target: torch._ops.OpOverload, node: fx.Node, values: Mapping[fx.Node, Any]) -> dict[str, Any]:
    """Return all arguments by name, defaults filled in."""
    arguments = {}
    for index, parameter in enumerate(target._schema.arguments):
        if index < len(node.args):
            given: Any = node.args[index]
        else:
            given = node.kwargs.get(parameter.name, parameter.default_value if parameter.has_default_value() else None)
        arguments[parameter.name] = fx.node.map_aggregate(given, lambda found: _concrete(found, values))
    return arguments


def _concrete(given: Any, values: Mapping[fx.Node, Any]) -> Any:
    if not isinstance(given, fx.Node):
        return given
    known = values.get(given)
    if isinstance(known, (Value, list)):
        return known
    return hint(given.meta.get("val"))


def hint(value: Any) -> Any:
    """Return the number that a symbolic size has for the example inputs; anything else as it is."""
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value.node.hint if value.node.has_hint() else None
    return value


def shape_of(tensor: Any) -> torch.Size:
    """Return the shape a traced tensor has for the example inputs; that of a number is empty."""
    return torch.Size([int(hint(size)) for size in tensor.shape]) if isinstance(tensor, Tensor) else torch.Size([])


def check_sizes(nodes: Iterable[fx.Node]) -> None:
    """Refuse a graph with tensors whose sizes depend on the values of others, as ``x[mask]`` has.

    Raises:
        GraphError: there is one; the message names the operation, its module and its line.
    """
    for node in nodes:
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor) and (tensor.layout != torch.strided or tensor.is_nested):
                raise GraphError(f"operation {node.target} gives a tensor that is not dense: in {where(node)}")
            if isinstance(tensor, Tensor) and any(hint(size) is None for size in tensor.shape):
                raise GraphError(
                    f"operation {node.target} gives as many elements as the values of its inputs say, so prunus can't "
                    f"tell which channels it couples: in {where(node)}; give what it selects as an input of its own"
                )


def has_tensor(value: Any) -> bool:
    """Tell whether an operation's output is a tensor, or has one among several."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(each, Tensor) for each in listed)
