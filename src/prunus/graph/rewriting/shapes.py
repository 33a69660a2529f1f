"""Runs the graph of what is kept on the meta device: every result must have the shape that is demanded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from prunus.graph import where
from prunus.graph.coupling import Value
from prunus.graph.rewriting.extents import RewriteError

if TYPE_CHECKING:
    from prunus.graph.rewriting.assembling import Assembly


def check(assembly: Assembly) -> None:
    """Run the graph on the meta device; what comes out must have the shapes that are demanded."""
    graph = assembly.kept.coupling.graph
    inputs = iter([*graph.args, *graph.kwargs.values()])
    results: dict[fx.Node, Any] = {}
    for new in assembly.graph.nodes:
        origin = assembly.origin.get(new)
        if new.op == "placeholder":
            results[new] = _meta(assembly, new, origin, inputs)
        elif new.op == "call_function":
            wanted = _wanted(assembly, origin)
            results[new] = _computed(new, results, wanted)
            _check_shape(assembly, new, origin, results[new], wanted)


def _meta(assembly: Assembly, new: fx.Node, origin: fx.Node | None, inputs: Any) -> Any:
    value = assembly.values.get(origin) if origin is not None else None
    if new.name not in assembly.names:
        example = next(inputs)
        return example.to("meta") if isinstance(example, Tensor) else example
    name = assembly.names[new.name]
    content = assembly.contents.get(name, assembly.added.get(name))
    if content is not None or not isinstance(value, Value):
        shape = new.meta["val"].shape if content is None else content.shape
        dtype = new.meta["val"].dtype
    else:
        shape, dtype = torch.Size(assembly.extents.shape(value)), new.meta["val"].dtype
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    new.meta["val"] = tensor
    return tensor


def _wanted(assembly: Assembly, origin: fx.Node | None) -> list[list[int]] | None:
    value = assembly.values.get(origin) if origin is not None else None
    if isinstance(value, Value):
        return [assembly.extents.shape(value)]
    return [assembly.extents.shape(piece) for piece in value] if isinstance(value, list) else None


def _check_shape(
    assembly: Assembly, new: fx.Node, origin: fx.Node | None, result: Any, wanted: list[list[int]] | None
) -> None:
    listed = list(result) if isinstance(result, (list, tuple)) else [result]
    if not all(isinstance(tensor, Tensor) for tensor in listed):
        return
    shapes = [list(tensor.shape) for tensor in listed]
    if wanted is not None and origin is not None and new not in assembly.renumbered and shapes != wanted:
        raise RewriteError(
            f"{origin.target} would give {shapes[0]} where {wanted[0]} is what is kept; in {where(origin)}"
        )
    new.meta["val"] = result


def _computed(new: fx.Node, results: Mapping[fx.Node, Any], wanted: list[list[int]] | None) -> Any:
    """Compute a node on the meta device; what has no kernel there gets the shape that is wanted."""

    def argument(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return results[value]
        return torch.device("meta") if isinstance(value, torch.device) else value

    args = fx.node.map_aggregate(new.args, argument)
    kwargs = fx.node.map_aggregate(new.kwargs, argument)
    target: Any = new.target
    try:
        return target(*args, **kwargs)
    except NotImplementedError:
        if wanted is None or len(wanted) != 1:
            raise
        return torch.empty(wanted[0], dtype=new.meta["val"].dtype, device="meta")
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RewriteError(f"{target} can't be computed on what is kept: {reason}; in {where(new)}") from error
