"""The arguments of an operation in a graph by name, what they are for the example inputs, and how to run it again."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from prunus.graph.operations import AtenOperation, Family, base_name, find


@functools.cache
def _defaults(target: torch._ops.OpOverload) -> dict[str, Any]:
    """Return the default of each argument in the schema's order, None where there is none."""
    return {
        argument.name: argument.default_value if argument.has_default_value() else None
        for argument in target._schema.arguments
    }


def bound_arguments(target: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a call by name, in the schema's order, defaults filled in."""
    defaults = _defaults(target)
    return defaults | dict(zip(defaults, args, strict=False)) | dict(kwargs)


def arguments_by_name(node: fx.Node) -> dict[str, Any]:
    """Return all arguments of a node that calls an operation, in the schema's order, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    return bound_arguments(node.target, node.args, node.kwargs)


def written_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments that are written in a graph, by name."""
    assert isinstance(node.target, torch._ops.OpOverload)
    return dict(zip(_defaults(node.target), node.args, strict=False)) | dict(node.kwargs)


@dataclass(frozen=True, eq=False)
class CalledOperation:
    """A node that calls an operation.

    Attributes:
        node: where it stands in the graph.
        arguments: all arguments by name, in the schema's order; what stands for tensors there differs from use to use.
    """

    node: fx.Node
    arguments: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or a default where the operation has none of that name."""
        return self.arguments.get(name, default)

    @property
    def row(self) -> AtenOperation:
        """What the table of operations says of it."""
        return find(self.node.target)

    @property
    def name(self) -> str:
        """The operation's name, such as ``"relu"``, in place or not."""
        return self.row.name

    @property
    def family(self) -> Family:
        """The operation's family, whose rules hold for it."""
        return self.row.family

    @property
    def shapes(self) -> list[torch.Size]:
        """The shapes of all results, for the example inputs."""
        return [shape_of(result) for result in results_of(self.node)]

    @property
    def shape(self) -> torch.Size:
        """The shape of the result, or of the first of several, for the example inputs."""
        return shape_of(results_of(self.node)[0])


def run(target: Any, arguments: Mapping[str, Any]) -> Any:
    """Run an operation on stand-ins for its tensors, on the CPU; they stay as they are.

    What it views is reshaped, as stand-ins lie otherwise in memory; an in-place form is run as its functional one.

    Args:
        target: the operation.
        arguments: all its arguments by name.
    """
    if str(target) in ("aten.view.default", "aten._unsafe_view.default"):
        return torch.ops.aten.reshape(arguments["self"], arguments["size"])
    positional, named = [], {}
    for parameter in target._schema.arguments:
        value = fx.node.map_aggregate(arguments[parameter.name], _on_cpu)
        if parameter.kwarg_only:
            named[parameter.name] = value
        else:
            positional.append(value)
    if target._schema.is_mutable:
        target = getattr(torch.ops.aten, base_name(target._schema.name.removeprefix("aten::")))
    return target(*positional, **named)


def _on_cpu(argument: Any) -> Any:
    return torch.device("cpu") if isinstance(argument, torch.device) else argument


def hint(value: Any) -> Any:
    """Return the number that a symbolic size has for the example inputs; anything else as it is."""
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value.node.hint if value.node.has_hint() else None
    return value


def shape_of(tensor: Any) -> torch.Size:
    """Return the shape a traced tensor has for the example inputs; that of a number is empty."""
    return torch.Size([int(hint(size)) for size in tensor.shape]) if isinstance(tensor, Tensor) else torch.Size([])


def results_of(node: fx.Node) -> list[Any]:
    """Return what a node gave while tracing: one entry, or one for each of several results."""
    value = node.meta.get("val")
    return list(value) if isinstance(value, (list, tuple)) else [value]


def has_tensor(value: Any) -> bool:
    """Tell whether an operation's output is a tensor, or has one among several."""
    return any(isinstance(entry, Tensor) for entry in (value if isinstance(value, (list, tuple)) else [value]))
