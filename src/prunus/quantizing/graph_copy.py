"""A graph copied for a module, and which node became which."""

from __future__ import annotations

from torch import fx

from prunus.graph import Graph
from prunus.graph.exported import program as programs
from prunus.graph.exported.parts import Parts

_ORIGINAL = "copied from"


def copied(graph: Graph) -> tuple[Parts, dict[fx.Node, fx.Node]]:
    """Return what makes a module of a graph, and node of the graph -> its copy.

    Raises:
        ValueError: the graph holds what a flat one can't.
    """
    for node in graph.nodes:
        node.meta[_ORIGINAL] = node  # copies take the notes along
    try:
        parts = programs.parts(graph.program)
    finally:
        for node in graph.nodes:
            node.meta.pop(_ORIGINAL, None)  # reading may have added nodes
    copies = {original: node for node in parts.graph.nodes if (original := node.meta.pop(_ORIGINAL, None)) is not None}
    return parts, copies
