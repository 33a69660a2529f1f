"""Operations that a graph holds as several others, since PyTorch's kernels for them trust their arguments.

With hostile arguments `embedding_bag` and `_weight_norm` read memory that is not theirs, so no document may hold them;
what they are made of here checks its arguments.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from prunus.graph.calls import arguments_by_name

_aten = torch.ops.aten


def decompose(graph: fx.Graph, node: fx.Node, copies: Mapping[fx.Node, Any]) -> Any:
    """Add an operation's parts to a graph, and return its result, or a tuple of several.

    Args:
        graph: where they go, at its end.
        node: the operation in the graph it comes from; it calls one of `DECOMPOSED`.
        copies: what stands for the nodes before it.
    """
    return DECOMPOSED[node.target](graph, dict(fx.map_arg(arguments_by_name(node), copies.__getitem__)), node)


def _weight_norm(graph: fx.Graph, values: dict[str, Any], node: fx.Node) -> fx.Node:
    """Return ``v * (g / norm of v over all dimensions but one)``."""
    ndim = node.args[0].meta["val"].ndim  # type: ignore[union-attr]
    kept = values["dim"] % ndim if values["dim"] != -1 else None  # -1 is the norm of all of it
    dims = [dim for dim in range(ndim) if dim != kept]
    norm = graph.call_function(_aten.linalg_vector_norm.default, (values["v"], 2, dims, True)) if dims else None
    norm = norm or graph.call_function(_aten.abs.default, (values["v"],))
    return graph.call_function(
        _aten.mul.Tensor, (values["v"], graph.call_function(_aten.div.Tensor, (values["g"], norm)))
    )


def _embedding_bag(graph: fx.Graph, values: dict[str, Any], node: fx.Node) -> tuple[fx.Node]:
    """Return the sum, the mean or the largest of the table's rows that each bag names; zero for an empty bag."""
    call = functools.partial(_call, graph)
    indices, offsets, padding = values["indices"], values["offsets"], values.get("padding_idx")
    num_bags = call("sym_size.int", offsets, 0)
    if values.get("include_last_offset"):
        num_bags = graph.call_function(operator.sub, (num_bags, 1))
        offsets = call("slice.Tensor", offsets, 0, 0, -1)
    num_rows = node.args[0].meta["val"].shape[0]  # type: ignore[union-attr]
    left_out = None
    if padding is not None and -num_rows <= padding < num_rows:
        left_out = call("unsqueeze", call("eq.Scalar", indices, padding % num_rows), 1)
    taken = call("embedding", values["weight"], indices)
    if values.get("per_sample_weights") is not None:
        taken = call("mul.Tensor", taken, call("unsqueeze", values["per_sample_weights"], 1))
    count = call("sub.Scalar", call("cumsum", call("ones_like", indices), 0), 1)  # 0, 1, 2, ... on its device
    bags = call("sub.Tensor", call("searchsorted.Tensor", offsets, count, right=True), 1)
    reduce = _largest_of_bags if values["mode"] == _MAX else _sums_of_bags
    result = reduce(graph, taken, bags, num_bags, left_out)
    if values["mode"] == _MEAN:
        ones = call("ones_like", call("narrow", taken, 1, 0, 1))
        sizes = _sums_of_bags(graph, ones, bags, num_bags, left_out)
        result = call("div.Tensor", result, call("clamp_min", sizes, 1))
    return (result,)


def _call(graph: fx.Graph, name: str, *args: Any, **kwargs: Any) -> fx.Node:
    packet, _, overload = name.partition(".")
    return graph.call_function(getattr(getattr(_aten, packet), overload or "default"), args, kwargs)


def _sums_of_bags(
    graph: fx.Graph, rows: fx.Node, bags: fx.Node, num_bags: fx.Node, left_out: fx.Node | None
) -> fx.Node:
    width = _call(graph, "sym_size.int", rows, 1)
    zeros = _call(graph, "new_zeros", rows, [num_bags, width])
    rows = rows if left_out is None else _call(graph, "masked_fill.Scalar", rows, left_out, 0.0)
    return _call(graph, "index_add", zeros, 0, bags, rows)


def _largest_of_bags(
    graph: fx.Graph, rows: fx.Node, bags: fx.Node, num_bags: fx.Node, left_out: fx.Node | None
) -> fx.Node:
    width = _call(graph, "sym_size.int", rows, 1)
    lowest = _call(graph, "new_full", rows, [num_bags, width], float("-inf"))
    rows = rows if left_out is None else _call(graph, "masked_fill.Scalar", rows, left_out, float("-inf"))
    places = _call(graph, "expand", _call(graph, "unsqueeze", bags, 1), [-1, width])
    largest = _call(graph, "scatter_reduce.two", lowest, 0, places, rows, "amax")
    empty = _call(graph, "eq.Scalar", largest, float("-inf"))
    return _call(graph, "masked_fill.Scalar", largest, empty, 0.0)


_MEAN, _MAX = 1, 2  # the numbers of EmbeddingBag's modes; 0 is the sum
DECOMPOSED: dict[Any, Callable[[fx.Graph, dict[str, Any], fx.Node], Any]] = {
    _aten._weight_norm.default: _weight_norm,
    _aten.embedding_bag.default: _embedding_bag,
    _aten.embedding_bag.padding_idx: _embedding_bag,
}
