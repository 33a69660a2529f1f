"""From a model's graph to a net: what only moves elements becomes views, the rest becomes operations.

What depends on parameters alone is computed once, here, by PyTorch itself. Each operation on activations has a rule
in one of the modules here; one that has none is an error that names it: nothing is left to be run elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from prunus.compiling.lowering import (  # noqa: F401 - each enters its rules
    elementwise,
    embeddings,
    moves,
    norms,
    products,
    resampling,
    transposed,
)
from prunus.compiling.lowering.fusing import FUSIONS, Fusion, fuse
from prunus.compiling.lowering.reader import Reader
from prunus.compiling.lowering.turning import turned
from prunus.compiling.net import Net
from prunus.graph import Graph

__all__ = ["lower"]


def lower(graph: Graph, fusions: Sequence[Fusion] = FUSIONS) -> Net:
    """Return a graph's operations, fused.

    Args:
        graph: what was traced.
        fusions: what may go into a contraction before it.

    Raises:
        CompileError: an operation can't be lowered; the message names it and where it is in the model.
    """
    return fuse(turned(Reader(graph).read()), fusions)
