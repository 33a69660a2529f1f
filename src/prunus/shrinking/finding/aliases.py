"""Tensors that are written over while something else still reads them: of these nothing is concluded."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from prunus.coupling import movement
from prunus.coupling.reader import RULES

_VIEWS = (movement.same, movement.move, movement.parts, movement.indexed)


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
        written = _written(node)
        source = written or _viewed(node)
        group = memory[source] if source is not None else set()
        group.add(node)
        memory[node] = group
        if written is not None:
            writes.append((node, written))
    result: set[fx.Node] = set()
    for node, written in writes:
        group = memory[written]
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


def _written(node: fx.Node) -> fx.Node | None:
    """Return the tensor that an operation writes over."""
    target: Any = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return None
    for argument, parameter in zip(node.args, target._schema.arguments, strict=False):
        if parameter.alias_info is not None and parameter.alias_info.is_write and isinstance(argument, fx.Node):
            return argument
    return None


def _viewed(node: fx.Node) -> fx.Node | None:
    """Return the tensor whose memory an operation's result may share."""
    target: Any = node.target
    first = node.args[0] if node.args else None
    if node.op != "call_function" or not isinstance(first, fx.Node):
        return None
    if not isinstance(target, torch._ops.OpOverload):
        return first
    name = str(target.overloadpacket)
    return first if RULES.get(name, RULES.get(name.removesuffix("_"))) in _VIEWS else None
