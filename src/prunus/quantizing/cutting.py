"""Scales of a smaller model: those of the larger one, cut along with its channels."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from torch import Tensor, fx, nn

from prunus.errors import ScalesError
from prunus.graph import Graph, trace
from prunus.graph.coupling import Value
from prunus.graph.kept import Kept
from prunus.quantizing.planning import Plan, graph_hash, plan
from prunus.quantizing.rounded_graph import channel_dim

if TYPE_CHECKING:
    from prunus.quantizing.scales import LayerScales, Scales


def cut(scales: Scales, kept: Kept, smaller: nn.Module) -> Scales:
    """Return what is left of scales when channels go.

    Layers and values are paired with the smaller model's in the graph's order, since their keys may be others: the
    operations of an `ExportedModule` are in no submodule.

    Args:
        scales: of the model whose graph `kept` is about.
        kept: which channels stay.
        smaller: the model without the others.

    Raises:
        ScalesError: the scales belong to another model, or other operations get 8 bits in the smaller model.
        GraphError: the smaller model can't be traced.
    """
    before, graph = scales.plan_for(kept.coupling.graph), trace(smaller, scales.example(smaller))
    every_layer = _paired(_all_layers(kept.coupling.graph), _all_layers(graph), smaller)
    in_float = {new: before.in_float[key] for key, new in every_layer.items() if key in before.in_float}
    after = plan(graph, in_float)
    keys = _paired(_with_8_bits(before), _with_8_bits(after), smaller)
    nodes = {before.keys[node]: node for node in before.values}
    result = replace(
        scales,
        values={keys[key]: value for key, value in scales.values.items()},
        layers={
            keys[key]: _cut_layer(scales.layers[key], kept.indices.get(layer.layer.weight, {}).get(0))
            for key, layer in before.layers.items()
        },
        in_float=after.in_float,
        factors={keys[key]: _cut_factors(factors, kept, nodes[key]) for key, factors in scales.factors.items()},
        graph=graph_hash(graph),
    )
    result.plan_for(graph)
    return result


def renamed(scales: Scales, graph: Graph) -> Scales:
    """Return scales under the keys of a graph that is the same but for its module paths, as that of a packed file.

    Raises:
        ScalesError: other operations get 8 bits, or layers in float can't be told apart.
    """
    own = plan(graph, {})
    before, after = [*scales.layers, *scales.values], _with_8_bits(own)
    if scales.in_float or [*map(_operation, before)] != [*map(_operation, after)]:
        raise ScalesError(
            f"these scales have the keys of another form of this {type(graph.model).__name__}, or of another version "
            "of prunus; call prunus.quantize for the model as it is now"
        )
    keys = dict(zip(before, after, strict=True))
    return replace(
        scales,
        values={keys[key]: value for key, value in scales.values.items()},
        layers={keys[key]: layer for key, layer in scales.layers.items()},
        factors={keys[key]: factors for key, factors in scales.factors.items()},
    )


def _cut_layer(layer: LayerScales, rows: Tensor | None) -> LayerScales:
    return layer if rows is None else replace(layer, weight=layer.weight[rows], correction=layer.correction[rows])


def _cut_factors(factors: Tensor, kept: Kept, node: fx.Node) -> Tensor:
    value = kept.coupling.values[node]
    assert isinstance(value, Value)  # one tensor: only such have factors
    return factors[kept.along(value, channel_dim(value.labels))]


def _all_layers(graph: Graph) -> list[str]:
    """Return the keys of all layers, also of those that can't get 8 bits, in the graph's order."""
    own = plan(graph, {})
    return [key for key in own.keys.values() if key in own.layers or key in own.in_float]


def _with_8_bits(own: Plan) -> list[str]:
    return [*own.layers, *(own.keys[node] for node in own.values)]


def _paired(before: list[str], after: list[str], smaller: nn.Module) -> dict[str, str]:
    """Return key of the larger model -> key of the smaller one.

    Raises:
        ScalesError: they are not of the same operations.
    """
    for one, other in zip_longest(before, after, fillvalue=""):
        if _operation(one) != _operation(other):
            raise ScalesError(
                f"the scales can't be cut along: in the smaller {type(smaller).__name__} other operations get 8 bits, "
                f"such as {other or one}; shrink without scales and call prunus.quantize for the smaller model"
            )
    return dict(zip(before, after, strict=True))


def _operation(key: str) -> str:
    """Return what a key says beside the module path and the count."""
    return key.rpartition("/")[2].partition("#")[0]
