"""Which operations of a graph have no rule: all are told at once, before any work."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from prunus.errors import CompileError
from prunus.graph import Graph, where
from prunus.graph.calls import has_tensor
from prunus.graph.operations import find


def refuse_unknown(graph: Graph, names: Collection[str]) -> None:
    """Refuse a graph in which operations on what depends on the inputs have no rule, and name them all.

    Args:
        graph: of the model.
        names: of operations that have a rule.

    Raises:
        CompileError: there are some that have none, or that compute with complex numbers.
    """
    depends: set[fx.Node] = set()
    unknown: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and node.name not in graph.tensors:
            depends.add(node)
        computes = node.op == "call_function" and has_tensor(node.meta.get("val"))
        if not computes or depends.isdisjoint(node.all_input_nodes):
            continue
        depends.add(node)
        if _is_complex(node):
            what = f"{find(node.target).name} at {where(node)}"
            raise CompileError(f"{what}: it computes with complex numbers, which a program can't hold")
        if isinstance(node.target, torch._ops.OpOverload) and (name := find(node.target).name) not in names:
            unknown.setdefault(name, []).append(node)
    if not unknown:
        return
    told = [f"{name} at {where(nodes[0])}{_more(len(nodes) - 1)}" for name, nodes in unknown.items()]
    what = f"{told[0]}: prunus.compile doesn't know this operation"
    if len(told) > 1:
        what = f"prunus.compile doesn't know {len(told)} operations: {'; '.join(told)}"
    raise CompileError(
        f"{what}; prunus.compile with fallback=True leaves {'it' if len(told) == 1 else 'them'} to PyTorch, and ONNX, "
        "which prunus.export writes, knows more"
    )


def _is_complex(node: fx.Node) -> bool:
    """Tell whether an operation makes complex numbers, or takes some: a program would lose their imaginary parts."""
    read = [source.meta.get("val") for source in node.all_input_nodes]
    leaves = pytree.tree_leaves([node.meta.get("val"), read, node.args, node.kwargs])
    return any(isinstance(leaf, complex) or (isinstance(leaf, Tensor) and leaf.is_complex()) for leaf in leaves)


def _more(count: int) -> str:
    return f" (and {count} more)" if count else ""
