"""Which values and which weights of a graph get 8 bits, and which of them share a scale."""

from __future__ import annotations

import hashlib
import json
import operator
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from prunus.graph import Graph, module_path
from prunus.graph.aliases import tangled
from prunus.graph.calls import CalledOperation, arguments_by_name
from prunus.graph.operations import Family, Trait, find
from prunus.recovering.layers import Layer, layers

_LAYERS = (Family.LINEAR, Family.CONVOLUTION)
# Of the operations that take the largest or an average of some elements, those that 8-bit runtimes know.
MAXIMA = ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d")
AVERAGES = ("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean")
_CUTS_OFF = ("relu", "relu6", "hardtanh", "clamp", "clamp_min")


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """A layer with a weight of 8 bits.

    Attributes:
        key: of the operation.
        layer: the operation, its parameters and the BatchNorm behind it.
        source: the operation or input whose result, of 8 bits, it reads; between them elements are moved only.
    """

    key: str
    layer: Layer
    source: fx.Node

    @property
    def tail(self) -> fx.Node:
        """The last operation that is folded into the layer: the BatchNorm, else the layer's own."""
        return self.layer.norm or self.layer.node


@dataclass(frozen=True, eq=False)
class Plan:
    """What of a graph is computed in 8 bits.

    Attributes:
        graph: the model's.
        keys: of all operations and inputs: module path, operation and use, such as ``layer1.0/add#0``.
        layers: those with weights of 8 bits, by key.
        values: the operations and inputs whose results get 8 bits, in the graph's order.
        joined: value -> the one whose scale and zero point it has too, as it is concatenated with it; itself for most.
        sums: sets of values that have one scale, as they meet in sums.
        in_float: the key of a layer that stays in float -> why.
        ends: the key of a layer -> the value that its outputs become, behind the operations that cut off negative
            numbers; its last operation where they become none.
    """

    graph: Graph
    keys: Mapping[fx.Node, str]
    layers: Mapping[str, QuantizedLayer]
    values: tuple[fx.Node, ...]
    joined: Mapping[fx.Node, fx.Node]
    sums: tuple[frozenset[fx.Node], ...]
    in_float: Mapping[str, str]
    ends: Mapping[str, fx.Node]


def plan(graph: Graph, in_float: Mapping[str, str]) -> Plan:
    """Decide what of a graph is computed in 8 bits.

    The inputs of layers get 8 bits, so do the terms of a sum whose result gets them, what is concatenated, and what is
    averaged. Where elements are only moved, or the largest taken, the 8 bits go through.

    Args:
        graph: the model's.
        in_float: the key of a layer that is to stay in float -> why.
    """
    keys = dict(_keys(graph))
    reasons = dict(in_float)
    chosen: dict[str, QuantizedLayer] = {}
    own = {layer.node: layer for layer in layers(graph)}
    overwritten = tangled(graph.program.graph)
    for node in graph.nodes:
        if node.op != "call_function" or find(node.target).family not in _LAYERS or keys[node] in reasons:
            continue
        reason = _reason(node, own, overwritten)
        if reason:
            reasons[keys[node]] = reason
        else:
            layer = own[node]
            chosen[keys[node]] = QuantizedLayer(keys[node], layer, source(layer.call["input"]))
    demand = _Demand(overwritten, graph)
    for quantized in chosen.values():
        demand.add(quantized.source)
    values = tuple(node for node in graph.nodes if node in demand.values)
    ends = {key: _end(layer.tail, demand.values) for key, layer in chosen.items()}
    return Plan(graph, keys, chosen, values, demand.joined(), demand.sums(), reasons, ends)


def _end(tail: fx.Node, values: Collection[fx.Node]) -> fx.Node:
    node = tail
    while node not in values:
        users = list(node.users)
        if len(users) != 1 or users[0].op != "call_function" or find(users[0].target).name not in _CUTS_OFF:
            return tail
        node = users[0]
    return node


def _keys(graph: Graph) -> Iterator[tuple[fx.Node, str]]:
    counts: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "placeholder" and node.name not in graph.tensors:
            yield node, f"/{node.name}"
        elif node.op == "call_function":
            name = f"{module_path(node)}/{find(node.target).name}"
            yield node, f"{name}#{counts[name]}"
            counts[name] += 1


def _reason(node: fx.Node, own: Mapping[fx.Node, Layer], overwritten: Collection[fx.Node]) -> str:
    """Say why a layer can't get 8 bits; nothing where it can."""
    call = CalledOperation(node, arguments_by_name(node))
    if node not in own:
        return "its weight or bias is shared, or no parameter"
    if call.get("transposed") or "transpose" in call.name:
        return "transposed convolutions stay in float"
    if not isinstance(call["input"], fx.Node) or not _is_real(call["input"]) or not _is_real(node):
        return "it does not compute with real numbers"
    if {node, call["input"], source(call["input"])} & set(overwritten):
        return "its input or output is written over in place while it is read elsewhere"
    return ""


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def source(node: fx.Node) -> fx.Node:
    """Return the operation that computes the elements of a result, behind those that only move them."""
    while (before := _moved(node)) is not None:
        node = before
    return node


def _moved(node: fx.Node) -> fx.Node | None:
    """Return what an operation moves the elements of, or takes the largest of; None where it computes others."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.target is operator.getitem:
        parts = node.args[0]
        is_parts = parts.op == "call_function" and find(parts.target).family is Family.PARTS
        return parts.args[0] if is_parts and isinstance(parts.args[0], fx.Node) else None
    row = find(node.target)
    if row.family is Family.MOVE or row.name in MAXIMA:
        return node.args[0]
    if row.family is Family.SAME and not row.has(Trait.CASTS):
        return node.args[0]
    if row.family is Family.PAD:
        call = arguments_by_name(node)
        is_zero = call.get("mode", "constant") == "constant" and not call.get("value")
        return node.args[0] if is_zero else None
    return None


class _Demand:
    """The values that get 8 bits, and who shares scales; values are added from the readers to the sources."""

    def __init__(self, overwritten: Collection[fx.Node], graph: Graph) -> None:
        self.values: set[fx.Node] = set()
        self._overwritten, self._graph = set(overwritten), graph
        self._joined: dict[fx.Node, fx.Node] = {}
        self._summed: dict[fx.Node, fx.Node] = {}

    def add(self, value: fx.Node) -> None:
        """Give a value 8 bits, and what it is summed, joined or averaged from."""
        pending = [value]
        while pending:
            node = pending.pop()
            if node in self.values or not self._is_free(node):
                continue
            self.values.add(node)
            pending += self._terms(node)

    def _is_free(self, node: fx.Node) -> bool:
        is_tensor = node.op == "placeholder" and node.name in self._graph.tensors
        return not is_tensor and node not in self._overwritten and _is_real(node)

    def _terms(self, node: fx.Node) -> list[fx.Node]:
        """Return what a value is made of that gets 8 bits too."""
        inner = node
        while inner.op == "call_function" and find(inner.target).name in _CUTS_OFF:
            first = inner.args[0]
            if not isinstance(first, fx.Node) or len(first.users) > 1:
                return []
            inner = first
        if inner.op != "call_function":
            return []
        row = find(inner.target)
        if row.name in AVERAGES and isinstance(inner.args[0], fx.Node):
            return [source(inner.args[0])]
        if row.family is Family.JOIN and isinstance(inner.args[0], (list, tuple)):
            terms = [source(term) for term in inner.args[0] if isinstance(term, fx.Node)]
            return self._together(self._joined, node, terms)
        if row.name == "add":
            call = arguments_by_name(inner)
            terms = [term for term in (call.get("self"), call.get("other")) if isinstance(term, fx.Node)]
            if call.get("alpha", 1) == 1 and len(terms) == 2 and _alike(terms):
                return self._together(self._summed, node, [source(term) for term in terms])
        return []

    def _together(self, parents: dict[fx.Node, fx.Node], node: fx.Node, terms: list[fx.Node]) -> list[fx.Node]:
        if not all(self._is_free(term) for term in terms):
            return []
        for term in terms:
            parents[root(parents, term)] = root(parents, node)
        return terms

    def joined(self) -> dict[fx.Node, fx.Node]:
        """Return for each value the one that stands for all that it is concatenated with."""
        return {node: root(self._joined, node) for node in self.values}

    def sums(self) -> tuple[frozenset[fx.Node], ...]:
        """Return the sets of values that meet in sums."""
        groups: dict[fx.Node, set[fx.Node]] = {}
        for node in {*self._summed, *self._summed.values()}:
            groups.setdefault(root(self._summed, node), set()).add(node)
        return tuple(frozenset(group) for group in groups.values())


def root(parents: Mapping[fx.Node, fx.Node], node: fx.Node) -> fx.Node:
    """Return what stands for a node in a forest of parents."""
    while parents.get(node, node) is not node:
        node = parents[node]
    return node


def _alike(terms: list[fx.Node]) -> bool:
    shapes = [value.shape for term in terms if isinstance(value := term.meta.get("val"), Tensor)]
    return len(shapes) == len(terms) and all(shape == shapes[0] for shape in shapes)


def graph_hash(graph: Graph) -> str:
    """Return what tells graphs of other models or sizes apart: a hash of the operations, their numbers and shapes."""
    places = {node: place for place, node in enumerate(graph.nodes)}

    def plain(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return f"%{places[value]}"
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value]
        if isinstance(value, dict):
            return {str(key): plain(entry) for key, entry in sorted(value.items())}
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool, torch.dtype, torch.device)):
            return type(value).__name__  # neither the batch nor the precision makes it another model
        return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)

    lines = []
    for node in graph.nodes:
        value = node.meta.get("val")
        shape = (
            [str(size) for size in value.shape[1:]] if isinstance(value, Tensor) and node.op == "placeholder" else []
        )
        lines.append([node.op, str(node.target) if node.op == "call_function" else "", plain(node.args), shape])
        lines.append(plain(node.kwargs))
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]
