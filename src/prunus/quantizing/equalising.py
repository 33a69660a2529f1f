"""Scales moved between layers, so that the channels of a value use their 8 bits evenly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from prunus.graph.operations import Family, Trait, find
from prunus.quantizing.folding import folded
from prunus.quantizing.planning import AVERAGES, MAXIMA, Plan, QuantizedLayer, root, source
from prunus.quantizing.rounded_graph import Lookup, channel_dim
from prunus.quantizing.rounding import across_rows

_AVERAGES = tuple(name for name in AVERAGES if name != "mean")  # a mean may be over channels
# No channel is multiplied by more than this, so that no column of a weight loses its bits.
_MOST = 16.0


@dataclass(frozen=True, eq=False)
class Group:
    """Values whose channels may be multiplied by factors, as all that reads them can be divided by these.

    Attributes:
        values: all of one number of channels; operations between them, as sums and ReLU, let factors through.
        readers: the layers that read them.
    """

    values: tuple[fx.Node, ...]
    readers: tuple[QuantizedLayer, ...]


def groups(plan: Plan) -> Iterator[Group]:
    """Yield the groups of a plan's values whose factors may be chosen.

    All that makes or reads a value of a group is a layer, whose rows or columns take the factors, or an operation that
    lets them through to another value of the group.
    """
    terms = {value: _terms(value, plan) for value in plan.values}
    layers = {layer.layer.node: layer for layer in plan.layers.values()}
    parents: dict[fx.Node, fx.Node] = {}
    read: dict[fx.Node, list[QuantizedLayer]] = {}
    fixed = {value for value in plan.values if terms[value] is None or plan.joined[value] is not value}
    for value in plan.values:
        for term in terms[value] or ():
            parents[root(parents, term)] = root(parents, value)
        for reader in _readers(value):
            layer, reached = layers.get(reader), _value_reached(reader, plan)
            if layer is not None and _reads_channels(layer, value):
                read.setdefault(value, []).append(layer)
            elif reached is None or value not in (terms[reached] or ()):
                fixed.add(value)
    members: dict[fx.Node, list[fx.Node]] = {}
    for value in plan.values:
        members.setdefault(root(parents, value), []).append(value)
    for values in members.values():
        readers = tuple(layer for value in values for layer in read.get(value, ()))
        alike = len({_count(value) for value in values}) == 1
        if readers and alike and not fixed & set(values):
            yield Group(tuple(values), readers)


def _terms(value: fx.Node, plan: Plan) -> list[fx.Node] | None:
    """Return the values that a value is computed from by what lets factors through: none for what a layer gives.

    None where something else computes it.
    """
    tails = {layer.tail: layer for layer in plan.layers.values()}
    node = value
    while node not in tails:
        if node.op != "call_function":
            return None
        row = find(node.target)
        if row.name == "relu" and isinstance(node.args[0], fx.Node) and len(node.args[0].users) == 1:
            node = node.args[0]
            continue
        operands = [entry for entry in node.args if isinstance(entry, fx.Node)]
        if (row.name == "add" and len(operands) == 2) or row.name in _AVERAGES:
            sources = [source(operand) for operand in operands]
            return sources if all(term in plan.joined for term in sources) else None
        return None
    # a layer of matrices gives its channels last, and they are a value's channels only beside a batch
    weight = tails[node].layer.call["weight"].meta["val"]
    return [] if weight.ndim == node.meta["val"].ndim else None


def _readers(value: fx.Node) -> Iterator[fx.Node]:
    """Yield what reads a value, behind what passes it on as it is."""
    for user in value.users:
        if _passes(user):
            yield from _readers(user)
        else:
            yield user


def _passes(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    row = find(node.target)
    return row.name in MAXIMA or row.has(Trait.KEEPS_ORDER) or (row.family is Family.SAME and not row.has(Trait.CASTS))


def _value_reached(node: fx.Node, plan: Plan) -> fx.Node | None:
    """Return the value that an operation lets factors through to; None where it is none that does."""
    while node.op == "call_function" and find(node.target).name in ("add", "relu", *_AVERAGES):
        if node in plan.joined:
            return node
        if len(node.users) != 1:
            return None
        node = next(iter(node.users))
    return None


def _reads_channels(layer: QuantizedLayer, value: fx.Node) -> bool:
    """Tell whether a layer's input channels are the channels of a value."""
    weight, given = layer.layer.call["weight"].meta["val"], layer.layer.call["input"].meta["val"]
    groups = int(layer.layer.call["groups"]) if weight.ndim > 2 else 1
    same_batch = given.shape[0] == value.meta["val"].shape[0]  # else a view has put channels elsewhere
    return bool(same_batch and weight.ndim == given.ndim and int(weight.shape[1]) * groups == _count(value))


def _count(value: fx.Node) -> int:
    shaped = value.meta["val"]
    return int(shaped.shape[channel_dim(shaped)])


def factors(group: Group, largest: Mapping[fx.Node, Tensor], lookup: Lookup, plan: Plan) -> Tensor:
    """Return what the channels of a group are multiplied by, in float32.

    A channel is raised as far as its numbers are smaller than those of the largest channel, and lowered as far as its
    weights are: by the square root of either, so that neither pays for all.

    Source: Xiao et al., "SmoothQuant: accurate and efficient post-training quantization for large language models"
    (arXiv:2211.10438), eq. 4 with alpha = 0.5, for the values of convolutions too, as in Nagel et al., "Data-free
    quantization through weight equalization and bias correction" (arXiv:1906.04721).

    Args:
        group: the values and their readers.
        largest: value -> the largest absolute number of each channel.
        lookup: name -> parameter or buffer.
        plan: the graph's.
    """
    numbers = torch.stack([largest[value] / largest[value].max().clamp_min(1e-12) for value in group.values]).amax(0)
    weights = torch.stack([_columns(layer, lookup, plan) for layer in group.readers]).amax(0).to(numbers)
    chosen = (weights.clamp_min(1e-3) / numbers.clamp_min(1e-3)).sqrt()
    return (chosen / chosen.min()).clamp_max(_MOST).float()


def _columns(layer: QuantizedLayer, lookup: Lookup, plan: Plan) -> Tensor:
    """Return how large the weights of each input channel are, at most, relative to the largest of their output."""
    weight = lookup(layer.layer.weight).detach()
    factor, _ = folded(layer.layer, lookup, plan.graph.tensors)
    whole = (weight * across_rows(factor, weight)).abs().double()
    rows = whole.flatten(1).amax(1).clamp_min(1e-30)
    relative = (whole / across_rows(rows, whole)).flatten(2).amax(2) if weight.ndim > 2 else whole / rows[:, None]
    groups = layer.layer.call["groups"] if weight.ndim > 2 else 1
    return relative.view(groups, -1, relative.shape[1]).amax(1).flatten()
