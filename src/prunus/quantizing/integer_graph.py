"""A model whose weights are whole numbers of 8 bits: the graph that files for other runtimes are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from prunus.graph.exported import ExportedModule
from prunus.graph.exported.parts import Parts
from prunus.quantizing.folding import folded
from prunus.quantizing.graph_copy import copied
from prunus.quantizing.planning import QuantizedLayer
from prunus.quantizing.rounded_graph import Rounding
from prunus.quantizing.rounding import BIAS_LIMIT, LIMITS, WEIGHT_LIMIT, across_rows

_DTYPES = {"uint8": torch.uint8, "int8": torch.int8}


def integer_module(rounding: Rounding) -> ExportedModule:
    """Return a model that computes what a rounded one does, from whole numbers.

    Weights are int8 with a scale for each output channel, BatchNorm is folded into them, biases are int32 in units of
    the products. Each value goes through a pair of operations, to 8 bits and back ("QDQ"), which runtimes know and
    compute in between with whole numbers.

    Args:
        rounding: what `prunus.quantizing.quantizer.rounding_of` returned.
    """
    # PyTorch enters its operations quantized_decomposed when this is imported
    import torch.ao.quantization.fx  # noqa: F401

    parts, copies = copied(rounding.plan.graph)
    writer = _Writer(rounding, parts, copies)
    writer.write()
    used = {str(node.target) for node in parts.graph.nodes if node.op == "get_attr"}
    tensors = {name: tensor for name, tensor in {**parts.tensors, **writer.added}.items() if name in used}
    return ExportedModule(replace(parts, tensors=tensors), "its weights are whole numbers")


def pair_behind(node: fx.Node, options: tuple[Any, ...]) -> None:
    """Let what reads a node read it through 8 bits.

    Args:
        node: of a graph.
        options: scale, zero point, lowest and highest whole number, and dtype.
    """
    graph, ops = node.graph, torch.ops.quantized_decomposed
    with graph.inserting_after(node):
        whole = graph.call_function(ops.quantize_per_tensor.default, (node, *options))
    with graph.inserting_after(whole):
        real = graph.call_function(ops.dequantize_per_tensor.default, (whole, *options))
    real.meta = dict(node.meta)
    node.replace_all_uses_with(real, lambda user: user is not whole)


@dataclass
class _Layer:
    """A layer's numbers: those of 8 bits and of 32, and their units."""

    weight: Tensor
    scales: Tensor
    bias: Tensor
    bias_scales: Tensor


class _Writer:
    def __init__(self, rounding: Rounding, parts: Parts, copies: Mapping[fx.Node, fx.Node]) -> None:
        self._rounding, self._graph, self._tensors = rounding, parts.graph, parts.tensors
        self.added: dict[str, Tensor] = {}
        self._nodes = dict(copies)

    def write(self) -> None:
        """Replace weights, leave out norms, and put pairs behind values."""
        plan = self._rounding.plan
        for layer in plan.layers.values():
            self._replace(layer)
        for value in plan.values:
            self._pair(self._nodes[value], plan.keys[value])
        self._graph.eliminate_dead_code()

    def _replace(self, layer: QuantizedLayer) -> None:
        node, numbers = self._nodes[layer.layer.node], self._numbers(layer)
        name = layer.layer.weight
        with self._graph.inserting_before(node):
            weight = self._dequantized(f"{name}_int8", numbers.weight, numbers.scales)
            bias = self._bias(name, numbers)
        node.args = (node.args[0], weight, bias, *node.args[3:])
        if layer.layer.norm is not None:
            norm = self._nodes[layer.layer.norm]
            norm.replace_all_uses_with(node)
            self._graph.erase_node(norm)
            self._nodes[layer.layer.norm] = node

    def _numbers(self, layer: QuantizedLayer) -> _Layer:
        rounding, plan = self._rounding, self._rounding.plan
        weight = self._tensors[layer.layer.weight].detach()
        factor, shift = folded(layer.layer, lambda name: self._tensors[name].detach(), plan.graph.tensors)
        columns = rounding.columns(layer, weight)
        whole = weight * across_rows(factor, weight) * (1 if columns is None else columns)
        scales = rounding.weights[layer.key].to(weight.device)
        rounded = (whole.double() / across_rows(scales, weight)).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        bias, units = rounding.bias(layer, shift)
        rows = rounding.factors.get(plan.keys[plan.ends[layer.key]])
        moved = torch.ones_like(scales) if rows is None else rows.to(scales)
        return _Layer(rounded.to(torch.int8), scales * moved, bias.to(torch.int32), (units * moved).float())

    def _bias(self, name: str, numbers: _Layer) -> fx.Node:
        """Return what reads a bias: of 32 bits, in units of the products; or in float, as TensorRT refuses these."""
        if self._rounding.kind == "uint8":
            return self._dequantized(f"{name}_bias_int32", numbers.bias, numbers.bias_scales)
        self.added[f"{name}_bias"] = (numbers.bias.double() * numbers.bias_scales.double()).float()
        return self._graph.get_attr(f"{name}_bias")

    def _dequantized(self, name: str, tensor: Tensor, scales: Tensor) -> fx.Node:
        self.added |= {name: tensor, f"{name}_scales": scales}
        whole = self._graph.get_attr(name)
        units = self._graph.get_attr(f"{name}_scales")
        zeros, limit = None, BIAS_LIMIT
        if tensor.dtype == torch.int8:  # ONNX Runtime asks for zero points where it makes weights unsigned
            self.added[f"{name}_zero_points"] = torch.zeros_like(scales, dtype=torch.int8)
            zeros, limit = self._graph.get_attr(f"{name}_zero_points"), WEIGHT_LIMIT
        return self._graph.call_function(
            torch.ops.quantized_decomposed.dequantize_per_channel.default,
            (whole, units, zeros, 0, -limit, limit, tensor.dtype),
        )

    def _pair(self, node: fx.Node, key: str) -> None:
        scale, kind = self._rounding.values[key], self._rounding.kind
        pair_behind(node, (scale.scale, scale.zero_point, *LIMITS[kind], _DTYPES[kind]))
