"""Tensors that are written over while something else still reads them: of these nothing is concluded."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from prunus.graph.coupling import movement
from prunus.graph.coupling.reader import RULES

# Operations that may hand their input on as it is, though their schema doesn't say so.
_HANDING_ON = ("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout")
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
    arguments = node.target._schema.arguments
    by_name = dict(zip([argument.name for argument in arguments], node.args, strict=False)) | node.kwargs
    values = [
        by_name.get(argument.name)
        for argument in arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [value for value in values if isinstance(value, fx.Node)]


def is_view(node: fx.Node) -> bool:
    """Tell whether a result may share memory with the first argument."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return getattr(node.target, "__name__", "") == "getitem"
    if str(node.target.overloadpacket) in _HANDING_ON:
        return True
    return any(returned.alias_info is not None for returned in node.target._schema.returns)


def _viewed(node: fx.Node) -> fx.Node | None:
    """Return the tensor whose memory an operation's result may share."""
    target: Any = node.target
    first = node.args[0] if node.args else None
    if node.op != "call_function" or not isinstance(first, fx.Node):
        return None
    if not isinstance(target, torch._ops.OpOverload) or is_view(node):
        return first
    name = str(target.overloadpacket)
    return first if RULES.get(name, RULES.get(name.removesuffix("_"))) in _VIEWS else None
