"""Quantise: weights and activations in 8 bits, by scales from unlabelled batches that lie beside the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor, nn

from prunus.forward import tensors_by_name, undisturbed
from prunus.graph import Graph
from prunus.graph.tracing import fused_attention_off
from prunus.pruning.stats import Batch
from prunus.pruning.targets import Selector, matched
from prunus.quantizing.calibrating import Options, calibrate
from prunus.quantizing.planning import Plan, graph_hash, plan
from prunus.quantizing.quantizer import Quantizer, with_rounded_weights
from prunus.quantizing.ranges import RANGES
from prunus.quantizing.rounded_graph import Rounding
from prunus.quantizing.rounding import LIMITS, Activations
from prunus.quantizing.scales import Input, LayerScales, Scales
from prunus.quantizing.sensitivity import costs
from prunus.recovering.batches import Samples, read
from prunus.recovering.comparing import buffers_restored
from prunus.registry import unknown_name
from prunus.supported import check_values, unwrap

__all__ = ["Quantizer", "Scales", "quantize", "with_rounded_weights"]

Progress = Callable[[str, float], None]

# The error of the outputs above which layers go back to float: ten times what networks of images have here.
_MOST_ERROR = 0.01


def quantize(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    ranges: str = "mse",
    activations: Activations = "uint8",
    in_float: Sequence[Selector] = (),
    max_error: float = _MOST_ERROR,
    progress: Progress | None = None,
) -> Scales:
    """Find how a model's weights and activations map to 8 bits. No labels; the model is not changed.

    Linear layers and convolutions get weights of int8, one scale for each output channel, with the BatchNorm behind
    them folded in, and biases of int32. Their inputs get 8 bits, so do the terms of sums and what is concatenated or
    averaged; the terms of a sum have one scale. Scales move between layers where the operations between allow it
    ("equalisation"), and biases are corrected, layer by layer, so that each channel keeps its mean. Zeros stay zeros.

    Args:
        model: any module; a pruned one is rounded as it is.
        batches: a few hundred samples like those the model will see, in several batches: tensors, pairs of inputs and
            labels, of which the labels are not used, or mappings of keyword arguments. A quarter is held out.
        ranges: the range of an activation that 8 bits cover: ``"mse"``, that of the least squared error; ``"minmax"``,
            all that was seen; ``"percentile"``, all but a ten-thousandth on each side.
        activations: ``"uint8"`` with zero points, which CPUs compute fastest, or ``"int8"`` without, and biases
            in float, as TensorRT takes them.
        in_float: layers that stay in float: names, patterns or classes, as `prune` takes them.
        max_error: where the squared error of the outputs on held-out samples, relative to their variance in float, is
            larger, the layers that cost most go back to float until it is not.
        progress: called with what is being done and the share of it that is done.

    Returns:
        The scales, for `Quantizer`, `prunus.export` and `Scales.save`; printed, a table of the layers' errors.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of range, a selector matches nothing, no layer can get 8 bits, or other samples
            are needed.
        GraphError: the model can't be traced.

    Sources: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", CVPR 2018 (the arithmetic); Nagel et al., "Data-free quantization through weight equalization and bias
    correction" (arXiv:1906.04721), of which the correction is the empirical one.
    """
    inner = unwrap(model)
    if ranges not in RANGES:
        raise unknown_name("ranges", ranges, RANGES)
    if activations not in LIMITS:
        raise unknown_name("kind of activations", activations, LIMITS)
    if isinstance(max_error, bool) or not isinstance(max_error, Real) or not max_error > 0:
        raise ValueError(f"max_error must be a number above 0, such as 0.01; got {max_error!r}")
    for name, parameter in inner.named_parameters():
        check_values(name, parameter)
    by_hand = matched(inner, in_float, "in_float")
    return find_scales(inner, batches, Options(RANGES[ranges], activations), by_hand, float(max_error), progress)


def find_scales(
    model: nn.Module,
    batches: Iterable[Batch],
    options: Options,
    by_hand: Collection[str] = (),
    max_error: float = math.inf,
    progress: Progress | None = None,
) -> Scales:
    """Find scales as `quantize` does, with other options.

    Args:
        model: out of its wrappers.
        batches: as of `quantize`.
        options: how scales are found.
        by_hand: the names of weights that stay in float.
        max_error: as of `quantize`.
        progress: likewise.

    Raises:
        TypeError, ValueError, GraphError: as `quantize`.
    """
    report = progress or (lambda what, share: None)
    with torch.inference_mode(False), undisturbed(model), buffers_restored(model), torch.no_grad():
        report("reading the model's graph", 0.0)
        work = _Calibration(read(model, batches), model, options, report)
        with fused_attention_off():
            return work.scales(by_hand, max_error)


@dataclass(frozen=True)
class _Calibration:
    """What is quantised, and how."""

    samples: Samples
    model: nn.Module
    options: Options
    progress: Progress

    def scales(self, by_hand: Collection[str], max_error: float) -> Scales:
        graph, tensors = self.samples.graph, self._tensors()
        everything = plan(graph, {})
        reasons = {key: "as asked" for key, layer in everything.layers.items() if layer.layer.weight in by_hand}
        current = plan(graph, reasons)
        if not current.layers:
            raise ValueError(_why_no_layer(current, self.model))
        self.progress("calibrating", 0.1)
        rounding, errors, error = calibrate(current, tensors, self.samples, self.options)
        if not math.isfinite(error):
            raise ValueError(
                "the model's outputs on these batches are not all finite, or none is a floating-point number, so no "
                "errors can be measured; are the weights and the inputs finite?"
            )
        if error > max_error:
            each_cost = costs(
                rounding, tensors, self.samples, lambda key, share: self.progress(f"measuring {key}", share)
            )
            while error > max_error and each_cost:
                for key, cost in _most_costly(each_cost, error - max_error):
                    del each_cost[key]
                    reasons[key] = f"it alone costs an error of {cost:.2%} of the outputs' variance"
                current = plan(graph, reasons)
                if not current.layers:
                    raise ValueError(
                        f"no layer can have 8 bits with max_error={max_error:g}: the last ones make an error of "
                        f"{error:.2%} of the outputs' variance; give a higher max_error"
                    )
                rounding, errors, error = calibrate(current, tensors, self.samples, self.options)
        return _scales_of(rounding, errors, error)

    def _tensors(self) -> dict[str, Tensor]:
        held, graph = tensors_by_name(self.model), self.samples.graph
        return {name: held[name].detach() if name in held else graph.tensor(name) for name in graph.tensors.values()}


def _most_costly(cost_of: Mapping[str, float], excess: float) -> list[tuple[str, float]]:
    """Return the layers that cost most, as many as are taken to make up an excess; at least one."""
    ordered = sorted(cost_of.items(), key=lambda entry: -entry[1])
    count, total = 1, ordered[0][1]
    while total < excess and count < len(ordered):
        total += ordered[count][1]
        count += 1
    return ordered[:count]


def _why_no_layer(current: Plan, model: nn.Module) -> str:
    listed = "; ".join(f"{key}: {reason}" for key, reason in list(current.in_float.items())[:4])
    return (
        f"no layer of {type(model).__name__} can get 8 bits ({listed or 'it has no linear layer and no convolution'})"
    )


def _scales_of(rounding: Rounding, errors: Mapping[str, float], error: float) -> Scales:
    current = rounding.plan
    layers = {
        key: LayerScales(rounding.weights[key].cpu(), rounding.corrections[key].cpu(), errors[key])
        for key in current.layers
    }
    factors = {key: value.cpu() for key, value in rounding.factors.items()}
    inputs = _inputs(current.graph)
    return Scales(
        rounding.values,
        layers,
        current.in_float,
        rounding.kind,
        inputs,
        current.graph.num_samples if current.graph.batch is not None else None,
        graph_hash(current.graph),
        error,
        factors,
    )


def _inputs(graph: Graph) -> tuple[Input, ...]:
    named = [*(("", value) for value in graph.args), *graph.kwargs.items()]
    return tuple(Input(name, tuple(value.shape[1:]), str(value.dtype).removeprefix("torch.")) for name, value in named)
