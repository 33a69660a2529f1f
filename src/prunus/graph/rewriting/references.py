"""What hands a size or an index on, and what uses it: a literal may change in one place where all users agree."""

from __future__ import annotations

import operator

from torch import fx

from prunus.graph.operations import Family, Trait, find


def factor(size: fx.Node) -> tuple[int, int] | None:
    """Return where in a product of a size and a number the number is, and the number."""
    if size.target is not operator.mul:
        return None
    for place, argument in enumerate(size.args):
        if isinstance(argument, int):
            return place, argument
    return None


def _hands_on(node: fx.Node) -> bool:
    """Tell whether an operation hands an index on as it is."""
    operation = find(node.target)
    return operation.family is Family.SAME and not operation.traits & (Trait.CASTS | Trait.DROPS)


def chain(argument: fx.Node) -> list[fx.Node]:
    """Return a node and those before it that hand the same tensor on, back to the first."""
    nodes = [argument]
    while _hands_on(nodes[-1]) and isinstance(nodes[-1].args[0], fx.Node):
        nodes.append(nodes[-1].args[0])
    return nodes


def holders_and_users(root: fx.Node) -> tuple[list[fx.Node], set[fx.Node]]:
    """Return all nodes that hold the tensor of a node, and all that use it for anything."""
    holders, users = [root], set()
    for holder in holders:
        for user in holder.users:
            if _hands_on(user):
                holders.append(user)
            else:
                users.add(user)
    return holders, users
