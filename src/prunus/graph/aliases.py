"""Tensors that are written over while something else still reads them: of these nothing is concluded."""

from __future__ import annotations

import operator

import torch
from torch import fx

from prunus.graph.calls import written_arguments
from prunus.graph.operations import Family, Trait, find

_VIEWS = (Family.SAME, Family.MOVE, Family.PARTS, Family.INDEX)


def tangled(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that share memory with one that is written over and read again otherwise than by the result.

    `y = relu_(x)` alone is as good as `relu(x)`; where `x`, or a view of it, is read afterwards too, or lasts longer
    than the call (a buffer, an input), a node no longer has one content.
    """
    nodes = list(graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    memory: dict[fx.Node, set[fx.Node]] = {}
    writes: list[tuple[fx.Node, fx.Node]] = []
    for node in nodes:
        written = written_to(node)
        source = written[0] if written else _viewed(node)
        group = memory[source] if source is not None else set()
        group.add(node)
        memory[node] = group
        writes += [(node, tensor) for tensor in written]
    result: set[fx.Node] = set()
    for node, tensor in writes:
        group = memory[tensor]
        later = _descendants(node, group)
        if any(member.op == "placeholder" for member in group) or any(
            place[user] > place[node] and user not in later for member in group - later for user in member.users
        ):
            result |= group
    return result


def _descendants(node: fx.Node, group: set[fx.Node]) -> set[fx.Node]:
    """Return a node and what is a view of it, or is written into it later."""
    result, pending = {node}, [node]
    while pending:
        for user in pending.pop().users:
            if user in group and user not in result:
                result.add(user)
                pending.append(user)
    return result


def written_to(node: fx.Node) -> list[fx.Node]:
    """Return the tensors an operation writes to."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    by_name = written_arguments(node)
    values = [
        by_name.get(argument.name)
        for argument in node.target._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [value for value in values if isinstance(value, fx.Node)]


def is_view(node: fx.Node) -> bool:
    """Tell whether a result may share memory with the first argument."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    if find(node.target).has(Trait.DROPS):  # its schema does not say that it may hand its input on
        return True
    return any(returned.alias_info is not None for returned in node.target._schema.returns)


def _viewed(node: fx.Node) -> fx.Node | None:
    """Return the tensor whose memory an operation's result may share."""
    first = node.args[0] if node.args else None
    if node.op != "call_function" or not isinstance(first, fx.Node):
        return None
    is_atens = isinstance(node.target, torch._ops.OpOverload)
    return first if not is_atens or is_view(node) or find(node.target).family in _VIEWS else None
