"""From batches to scales: ranges of values, scales of weights, and biases corrected layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from prunus.proving.verification import relative_error, tensors
from prunus.quantizing import equalising
from prunus.quantizing.folding import folded
from prunus.quantizing.observing import Observer
from prunus.quantizing.planning import Plan, QuantizedLayer, root
from prunus.quantizing.ranges import Ranges
from prunus.quantizing.rounded_graph import Rounding, mean_by_channel
from prunus.quantizing.rounding import Activations, ValueScale, across_rows, value_scale, weight_scales
from prunus.recovering.batches import Samples
from prunus.recovering.lockstep import Lockstep

# Name -> parameter or buffer.
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Options:
    """How scales are found.

    Attributes:
        ranges: the range that a value's 8 bits cover.
        kind: of the whole numbers.
        equalise: whether scales may move between layers.
        correct: whether biases are corrected.
    """

    ranges: Ranges
    kind: Activations = "uint8"
    equalise: bool = True
    correct: bool = True


def calibrate(plan: Plan, own: Tensors, samples: Samples, options: Options) -> tuple[Rounding, dict[str, float], float]:
    """Return the numbers of a plan, the layers' errors, and that of the outputs.

    Raises:
        ValueError: a value was infinite or not a number.
    """
    moved: dict[str, Tensor] = {}
    if options.equalise:
        moved = _factors(plan, own, samples)
    observer = Observer(plan, own, factors=moved)
    observer.observe(samples.fitted)
    scales = value_scales(plan, observer, options.ranges, options.kind)
    rounding = Rounding(plan, scales, factors=moved, kind=options.kind)
    set_weight_scales(rounding, own)
    return rounding, *correct(rounding, own, samples, options.correct)


def _factors(plan: Plan, own: Tensors, samples: Samples) -> dict[str, Tensor]:
    groups = list(equalising.groups(plan))
    if not groups:
        return {}
    observer = Observer(plan, own, by_channel=[value for group in groups for value in group.values])
    observer.observe(samples.fitted)
    result: dict[str, Tensor] = {}
    for group in groups:
        factors = equalising.factors(group, observer.largest, own.__getitem__, plan)
        result |= {plan.keys[value]: factors for value in group.values}
    return result


def value_scales(plan: Plan, observer: Observer, ranges: Ranges, kind: Activations) -> dict[str, ValueScale]:
    """Return how each value maps to 8 bits.

    Args:
        plan: what shares a scale, or scale and zero point.
        observer: what the values were.
        ranges: how the range is found.
        kind: of the whole numbers.

    Raises:
        ValueError: a value was infinite or not a number.
    """
    members: dict[fx.Node, list[fx.Node]] = {}
    for node in plan.values:
        members.setdefault(plan.joined[node], []).append(node)
    bounds: dict[fx.Node, tuple[float, float]] = {}
    for stands, group in members.items():
        low, high = observer.extremes(group)
        bounds[stands] = ranges(observer.numbers(group), low, high, kind)
    one_scale: dict[fx.Node, fx.Node] = {}  # what meets in sums, also by way of what it is joined with
    for summed in plan.sums:
        first, *others = (plan.joined[node] for node in summed)
        for other in others:
            one_scale[root(one_scale, other)] = root(one_scale, first)
    least: dict[fx.Node, float] = {}
    for stands in members:
        widest = value_scale(*bounds[stands], kind).scale
        least[root(one_scale, stands)] = max(least.get(root(one_scale, stands), 0.0), widest)
    scales = {stands: value_scale(*bounds[stands], kind, least[root(one_scale, stands)]) for stands in members}
    return {plan.keys[node]: scales[plan.joined[node]] for node in plan.values}


def set_weight_scales(rounding: Rounding, own: Tensors) -> None:
    """Set the scales of all weights, so that the largest number of each channel is 127."""
    plan = rounding.plan
    for key, layer in plan.layers.items():
        weight = own[layer.layer.weight]
        factor, shift = folded(layer.layer, own.__getitem__, plan.graph.tensors)
        columns = rounding.columns(layer, weight)
        whole = weight * across_rows(factor, weight) * (1 if columns is None else columns)
        rounding.weights[key] = weight_scales(whole, shift, rounding.values[plan.keys[layer.source]].scale)


def correct(
    rounding: Rounding, own: Tensors, samples: Samples, correcting: bool = True
) -> tuple[dict[str, float], float]:
    """Correct the means of all layers, one after the other, each with those before it rounded and corrected.

    Args:
        rounding: gets corrections.
        own: parameters and buffers by name.
        samples: means are taken over those to fit to, errors over those held out.
        correcting: whether to; else corrections are zero.

    Returns:
        The layers' errors, and that of the outputs: squared, relative to the variance in float.
    """
    plan, graph = rounding.plan, rounding.plan.graph
    tails = {layer.tail: layer for layer in plan.layers.values()}
    rounded = dict(own)
    for layer in plan.layers.values():
        rounded[layer.layer.weight] = rounding.weight(layer, own[layer.layer.weight], own.__getitem__)
    lockstep = Lockstep(graph, own, rounded, [*samples.fitted, *samples.held_out])
    values, num_fitted = set(plan.values), len(samples.fitted)
    errors: dict[str, float] = {}
    for node in graph.nodes:
        lockstep.reach(node, lambda node: None)
        if node in tails:
            layer = tails[node]
            shift = _shift([(run[node], dense[node]) for dense, run in lockstep.values[:num_fitted]], layer)
            rounding.corrections[layer.key] = shift if correcting else torch.zeros_like(shift)
            for _, run in lockstep.values:
                run[node] = rounding.corrected(layer, run[node], own.__getitem__)
            errors[layer.key] = relative_error((run[node], dense[node]) for dense, run in lockstep.values[num_fitted:])
        if node in values:
            for _, run in lockstep.values:
                run[node] = rounding.value(plan.keys[node], run[node])
    return errors, output_error(lockstep, num_fitted)


def _shift(pairs: list[tuple[Tensor, Tensor]], layer: QuantizedLayer) -> Tensor:
    """Return how far the means of a layer's channels are below those in float."""
    counts = torch.tensor([len(dense) for _, dense in pairs], dtype=torch.float64)
    shifts = [mean_by_channel(dense, layer) - mean_by_channel(run, layer) for run, dense in pairs]
    weighted = torch.stack(shifts) * (counts / counts.sum()).to(shifts[0].device)[:, None]
    return weighted.sum(0).float()


def output_error(lockstep: Lockstep, num_fitted: int) -> float:
    """Return the squared error of the outputs of the batches from a number on, relative to the variance in float."""
    (output,) = (node for node in lockstep.graph.nodes if node.op == "output")
    pairs = []
    for batch in range(num_fitted, len(lockstep.values)):
        dense, run = ([lockstep.read(batch, node)[side] for node in output.all_input_nodes] for side in (0, 1))
        pairs += [pair for pair in zip(tensors(run), tensors(dense), strict=True) if pair[1].is_floating_point()]
    return relative_error(pairs) if pairs else math.nan
