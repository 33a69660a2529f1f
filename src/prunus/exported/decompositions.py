"""Operations that a graph holds as several others, since PyTorch's kernels for them trust their arguments.

With hostile arguments `embedding_bag` and `_weight_norm` read memory that is not theirs, so no document may hold them;
what they are made of here checks its arguments.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten


def decompose(graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], node: fx.Node) -> Any:
    """Add an operation's parts to a graph, and return its result, or a tuple of several.

    Args:
        graph: where they go, at its end.
        target: one of `DECOMPOSED`.
        args: its arguments by position, nodes of that graph among them.
        kwargs: likewise by name.
        node: the operation in the graph it comes from, for the types of its arguments.
    """
    arguments = dict(kwargs)
    for argument, value in zip(target._schema.arguments, args, strict=False):
        arguments[argument.name] = value
    for argument in target._schema.arguments:
        if argument.has_default_value():
            arguments.setdefault(argument.name, argument.default_value)
    return DECOMPOSED[target](graph, arguments, node)


def _weight_norm(graph: fx.Graph, given: dict[str, Any], node: fx.Node) -> fx.Node:
    """Return ``v * (g / norm of v over all dimensions but one)``."""
    ndim = node.args[0].meta["val"].ndim  # type: ignore[union-attr]
    kept = given["dim"] % ndim if given["dim"] != -1 else None  # -1 is the norm of all of it
    dims = [dim for dim in range(ndim) if dim != kept]
    norm = graph.call_function(_aten.linalg_vector_norm.default, (given["v"], 2, dims, True)) if dims else None
    norm = norm or graph.call_function(_aten.abs.default, (given["v"],))
    return graph.call_function(
        _aten.mul.Tensor, (given["v"], graph.call_function(_aten.div.Tensor, (given["g"], norm)))
    )


def _embedding_bag(graph: fx.Graph, given: dict[str, Any], node: fx.Node) -> tuple[fx.Node]:
    """Return the sum, the mean or the largest of the table's rows that each bag names; nought for an empty bag."""

    def call(name: str, *args: Any, **kwargs: Any) -> fx.Node:
        packet, _, overload = name.partition(".")
        return graph.call_function(getattr(getattr(_aten, packet), overload or "default"), args, kwargs)

    indices, offsets, mode, padding = given["indices"], given["offsets"], given["mode"], given.get("padding_idx")
    weight: Any = node.args[0]
    rows, width = weight.meta["val"].shape
    device, dtype = weight.meta["val"].device, weight.meta["val"].dtype
    count = call("sym_size.int", indices, 0)
    num_bags = call("sym_size.int", offsets, 0)
    if given.get("include_last_offset"):
        num_bags = graph.call_function(operator.sub, (num_bags, 1))
        offsets = call("slice.Tensor", offsets, 0, 0, -1)
    positions = call("arange", count, device=device, dtype=torch.int64)
    bags = call("sub.Tensor", call("searchsorted.Tensor", offsets, positions, right=True), 1)
    taken = call("embedding", given["weight"], indices)
    if given.get("per_sample_weights") is not None:
        taken = call("mul.Tensor", taken, call("unsqueeze", given["per_sample_weights"], 1))
    left_out = None
    if padding is not None and -rows <= padding < rows:
        left_out = call("unsqueeze", call("eq.Scalar", indices, padding % rows), 1)
    empty = call("zeros", [num_bags, width], dtype=dtype, device=device)
    if mode == _MAX:
        taken = taken if left_out is None else call("masked_fill.Scalar", taken, left_out, float("-inf"))
        places = call("expand", call("unsqueeze", bags, 1), [-1, width])
        lowest = call("scatter_reduce.two", call("sub.Scalar", empty, float("inf")), 0, places, taken, "amax")
        return (call("masked_fill.Scalar", lowest, call("eq.Scalar", lowest, float("-inf")), 0.0),)
    taken = taken if left_out is None else call("masked_fill.Scalar", taken, left_out, 0.0)
    total = call("index_add", empty, 0, bags, taken)
    if mode == _MEAN:
        ones = call("ones", [count, 1], dtype=dtype, device=device)
        ones = ones if left_out is None else call("masked_fill.Scalar", ones, left_out, 0.0)
        sizes = call("index_add", call("zeros", [num_bags, 1], dtype=dtype, device=device), 0, bags, ones)
        total = call("div.Tensor", total, call("clamp_min", sizes, 1))
    return (total,)


_MEAN, _MAX = 1, 2  # the numbers of EmbeddingBag's modes; 0 is the sum
DECOMPOSED: dict[Any, Callable[[fx.Graph, dict[str, Any], fx.Node], Any]] = {
    _aten._weight_norm.default: _weight_norm,
    _aten.embedding_bag.default: _embedding_bag,
    _aten.embedding_bag.padding_idx: _embedding_bag,
}
