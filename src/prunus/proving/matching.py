"""Whether the graph of a rebuilt model is the one that its labels demand: operation by operation, number by number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from prunus.graph import Graph, where
from prunus.graph.calls import arguments_by_name, has_tensor, hint, results_of, shape_of
from prunus.graph.rewriting import Demanded


class MismatchError(ValueError):
    """A rebuilt model that does not compute what its labels demand; the message says what and where."""


def match(demanded: Demanded, rebuilt: Graph) -> None:
    """Make sure that a rebuilt model's graph is the demanded one.

    The same operations follow each other, each reads what it is to read, and each number, size and index written in it
    is the demanded one; parameters, buffers and constants hold what they are to hold. So the two compute the same,
    whatever the input.

    Args:
        demanded: the larger model's graph, rewritten for what is kept.
        rebuilt: the graph that was read off the rebuilt model, at the same sizes of inputs.

    Raises:
        MismatchError: something differs.
    """
    if rebuilt.batch != demanded.kept.coupling.graph.batch:
        raise MismatchError(f"it takes batches of {rebuilt.batch} only")
    graphs = (demanded.graph, rebuilt.program.graph)
    pairs = _Pairs(_placeholders(demanded, rebuilt), _HANDING_ON if not any(map(_writes, graphs)) else frozenset())
    wanted, present = ([node for node in graph.nodes if pairs.is_operation(node)] for graph in graphs)
    for node, other in zip(wanted, present, strict=False):
        _match_operation(node, other, pairs)
        pairs.partner[node] = other
    if len(wanted) != len(present):
        raise MismatchError(f"it has {len(present)} operations and must have {len(wanted)}")
    last, other = (next(iter(reversed(graph.nodes))) for graph in graphs)
    if not pairs.same(last.args, other.args):
        raise MismatchError("its outputs come from other operations")


_ANOTHER_BATCH = 10_007

# Operations that hand a tensor on; a trace may leave them out, as where there is one head and nothing to rearrange.
_HANDING_ON = frozenset({torch.ops.aten.contiguous.default})


def _writes(graph: fx.Graph) -> bool:
    """Tell whether anything is written to in place, so that a copy is not the tensor itself."""
    targets = [node.target for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    return any(target._schema.is_mutable for target in targets)


def _placeholders(demanded: Demanded, rebuilt: Graph) -> dict[fx.Node, fx.Node]:
    """Pair inputs in their order, and tensors by name; what they hold has to be equal."""
    others = [node for node in rebuilt.nodes if node.op == "placeholder"]
    by_name = {rebuilt.tensors[node.name]: node for node in others if node.name in rebuilt.tensors}
    inputs = iter([node for node in others if node.name not in rebuilt.tensors])
    pairs: dict[fx.Node, fx.Node] = {}
    for node in demanded.graph.nodes:
        if node.op not in ("placeholder", "get_attr"):
            continue
        name = demanded.names.get(node.name)
        other = next(inputs, None) if name is None else by_name.get(name)
        if other is None:
            raise MismatchError(f"it does not use {name!r}" if name else "it takes fewer inputs")
        if name is not None and not _equal(demanded.tensors[name], rebuilt.tensor(name)):
            raise MismatchError(f"it holds another {name!r}")
        pairs[node] = other
    return pairs


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


@dataclass(frozen=True)
class _Pairs:
    """Which node of the rebuilt graph stands for which of the demanded one.

    Attributes:
        partner: demanded node -> node of the rebuilt graph.
        handing_on: operations that are passed over.
    """

    partner: dict[fx.Node, fx.Node]
    handing_on: frozenset[Any]

    def is_operation(self, node: fx.Node) -> bool:
        """Tell whether a node computes a tensor: what is computed on sizes is compared by its result."""
        computes = node.op == "call_function" and has_tensor(node.meta.get("val"))
        return computes and node.target not in self.handing_on

    def same(self, one: Any, other: Any) -> bool:
        """Tell whether an argument of the rebuilt graph is the one that is demanded."""
        if isinstance(one, (list, tuple)):
            listed = isinstance(other, (list, tuple)) and len(one) == len(other)
            return listed and all(map(self.same, one, other))
        if isinstance(one, dict):
            named = isinstance(other, dict) and one.keys() == other.keys()
            return named and all(self.same(value, other[key]) for key, value in one.items())
        if isinstance(one, fx.Node) and has_tensor(one.meta.get("val")):
            return isinstance(other, fx.Node) and self.partner.get(self._source(one)) is self._source(other)
        if _at_another_batch(one) != _at_another_batch(other) and None not in map(_at_another_batch, (one, other)):
            return False
        first, second = _number(one), _number(other)
        if isinstance(first, float) and isinstance(second, float) and math.isnan(first):
            return math.isnan(second)
        return type(first) is type(second) and bool(first == second)

    def _source(self, node: fx.Node) -> fx.Node:
        while node.op == "call_function" and node.target in self.handing_on:
            node = node.all_input_nodes[0]
        return node


def _match_operation(node: fx.Node, other: fx.Node, pairs: _Pairs) -> None:
    place = where(node if node.meta.get("nn_module_stack") else other)  # the first graph knows lines
    if node.target is not other.target:
        raise MismatchError(f"{_name(other)} stands where {_name(node)} must, in {place}")
    wanted, present = _arguments(node), _arguments(other)
    for name, argument in wanted.items():
        if not pairs.same(argument, present.get(name)):
            raise MismatchError(
                f"{_name(node)} has {name} {_shown(present.get(name))} and must have {_shown(argument)}, in {place}"
            )
    if _shapes(node) != _shapes(other):
        raise MismatchError(
            f"{_name(node)} gives the shapes {_shapes(other)} and must give {_shapes(node)}, in {place}"
        )


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "overloadpacket", getattr(node.target, "__name__", node.target)))


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Return all arguments by name, with defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(place): argument for place, argument in enumerate(node.args)} | dict(node.kwargs)
    return arguments_by_name(node)


def _number(value: Any) -> Any:
    """Return what an argument is for the example inputs."""
    return hint(value.meta.get("val")) if isinstance(value, fx.Node) else value


def _at_another_batch(value: Any) -> int | None:
    """Return what a size that hangs on the batch is for another batch than the example's; None for all else."""
    size = value.meta.get("val") if isinstance(value, fx.Node) else value
    if not isinstance(size, torch.SymInt):
        return None
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, _ANOTHER_BATCH)))


def _shown(value: Any) -> str:
    if isinstance(value, fx.Node):
        return "the result of " + _name(value) if value.op == "call_function" else repr(value.name)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return str(value)


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    return [tuple(shape_of(result)) for result in results_of(node)]
