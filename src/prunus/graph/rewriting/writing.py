"""What is written to in place: a selection is a copy, so what is written to it has to be written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import fx

from prunus.graph import where
from prunus.graph.aliases import is_view, written_to
from prunus.graph.rewriting.extents import RewriteError
from prunus.graph.rewriting.moving import Gather

if TYPE_CHECKING:
    from prunus.graph.rewriting.assembling import Assembly


def keep_writes(
    nodes: Sequence[fx.Node], gathers: Mapping[fx.Node, tuple[fx.Node, Gather]], assembly: Assembly
) -> None:
    """Write back what is written to selections that were views in the original graph.

    Args:
        nodes: of the original graph, in order.
        gathers: node that became a selection -> the node it selects from, and what.
        assembly: the graph in which to write back.

    Raises:
        RewriteError: memory is shared in a way that selections can't stand for.
    """
    copies = {node: pair for node, pair in gathers.items() if is_view(node)}
    if not copies:
        return
    base = _bases(nodes)
    place = {node: index for index, node in enumerate(nodes)}
    writes = [(node, target) for node in nodes for target in written_to(node)]
    for node, (source, gather) in copies.items():
        own = _derived(node)
        last = max((place[user] for view in own for user in view.users), default=place[node])
        for write, target in writes:
            if base[target] is not base[node] or place[write] < place[node]:
                continue
            if target not in own:
                if place[write] < last:
                    raise _error(write, "it writes to memory that is read through a view, which would be a copy")
                continue
            if source in copies or _stale(source, own, base, copies, place, write):
                raise _error(write, "it writes to memory that is read through other views, which would be copies")
            _write_back(node, source, gather, write, assembly)


def _stale(
    source: fx.Node,
    own: Sequence[fx.Node],
    base: Mapping[fx.Node, fx.Node],
    copies: Mapping[fx.Node, object],
    place: Mapping[fx.Node, int],
    write: fx.Node,
) -> bool:
    """Tell whether another copy of the same memory, made before a write, is read after it."""
    for other in copies:
        if other in own or base[other] is not base[source] or place[other] > place[write]:
            continue
        if any(place[user] > place[write] for view in _derived(other) for user in view.users):
            return True
    return False


def _write_back(node: fx.Node, source: fx.Node, gather: Gather, write: fx.Node, assembly: Assembly) -> None:
    """After a write to a selection, write all of it to where it was selected from."""
    if gather.by_dim is None or len(gather.by_dim) != 1:
        raise _error(write, "it writes to a view that is a selection along several dimensions")
    ((dim, index),) = gather.by_dim.items()
    held = assembly.index(index)
    after = assembly.new(write)
    places = [*[None] * dim, held]
    with assembly.graph.inserting_after(after):
        assembly.graph.call_function(
            torch.ops.aten.index_put_.default, (assembly.new(source), places, assembly.new(node))
        )


def _error(node: fx.Node, reason: str) -> RewriteError:
    return RewriteError(f"{node.target} can't be done on what is kept: {reason}; in {where(node)}")


def _bases(nodes: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Return for each node the one whose memory it shares."""
    base: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        first = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        base[node] = base[first] if first is not None and is_view(node) else node
    return base


def _derived(node: fx.Node) -> list[fx.Node]:
    """Return a node and all views of it."""
    views = [node]
    for view in views:
        views += [user for user in view.users if is_view(user) and user.args[0] is view and user not in views]
    return views
