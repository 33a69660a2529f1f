"""From the graph of a model whose weights and values are whole numbers to a net that computes with these."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import fx, nn

from prunus.compiling.lowering.borders import Borders
from prunus.compiling.lowering.fusing import FUSIONS_IN_8_BITS, fuse
from prunus.compiling.lowering.reader import RULES, Activation, Call, Reader
from prunus.compiling.lowering.turning import turned
from prunus.compiling.net import Indices, Net, Numbers, Operation, whole
from prunus.compiling.operations import (
    Contract,
    Dequantize,
    Quantize,
    UnitContract,
)
from prunus.compiling.operations.quantized import words_of
from prunus.errors import ScalesError
from prunus.graph import ExampleInputs, Graph, call_arguments
from prunus.graph.calls import arguments_by_name
from prunus.graph.operations import Family, find
from prunus.quantizing import Scales
from prunus.quantizing.integer_graph import integer_module
from prunus.quantizing.quantizer import rounding_of

_TO_WHOLE, _FROM_WHOLE, _WEIGHT = (
    f"quantized_decomposed.{name}.default"
    for name in ("quantize_per_tensor", "dequantize_per_tensor", "dequantize_per_channel")
)
_LAYERS = (Family.LINEAR, Family.CONVOLUTION)


def rounded(
    model: nn.Module, scales: Scales, example: ExampleInputs, dtype: torch.dtype
) -> tuple[nn.Module, ExampleInputs]:
    """Return a model whose numbers are whole ones where scales say so, and the example inputs as it takes them.

    Raises:
        TypeError: `scales` is something else.
        ValueError: the model is not computed in float32.
        ScalesError: they belong to another model, or its activations are of int8.
    """
    if not isinstance(scales, Scales):
        raise TypeError(f"scales must be what prunus.quantize returned, got {type(scales).__name__}")
    if dtype != torch.float32:
        raise ValueError(f"a program with scales computes in 8 bits and torch.float32, not in {dtype}")
    if scales.activations != "uint8":
        raise ScalesError(
            f"the scales are for activations of {scales.activations}, and programs compute with uint8; quantise the "
            "model with activations='uint8'"
        )
    args, kwargs = call_arguments(example, 1)
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    inputs = dict(bound.arguments) if all(entry.name for entry in scales.inputs) else bound.args
    with torch.no_grad():
        return integer_module(rounding_of(model, scales)), inputs


def lower_quantized(graph: Graph) -> Net:
    """Return the operations of a model that `quantizing.integer_graph.integer_module` made.

    Raises:
        CompileError: an operation can't be lowered.
    """
    return Borders(fuse(turned(_Reader(graph).read()), FUSIONS_IN_8_BITS)).moved()


@dataclass
class _Reader(Reader):
    """Reads pairs to 8 bits and back as operations, and remembers what weights are multiples of."""

    units: dict[fx.Node, Numbers] = field(default_factory=dict)
    weight: fx.Node | None = None  # of the operation that is being read

    @property
    def known(self) -> Collection[str]:
        return (*RULES, _TO_WHOLE, _FROM_WHOLE)

    def _operation(self, node: fx.Node) -> Any:
        name = str(node.target)
        if name == _TO_WHOLE:
            return self._to_whole(node)
        if name == _FROM_WHOLE:
            return self.values[node.args[0]]  # type: ignore[index]
        if name == _WEIGHT:
            self.units[node] = numpy.asarray(self.values[node.args[1]].double().numpy())  # type: ignore[index]
        layer = find(node.target).family in _LAYERS
        self.weight = arguments_by_name(node)["weight"] if layer else None
        return super()._operation(node)

    def make(self, operation: Operation, index: Indices | None = None) -> Activation:
        if type(operation) is Contract and self.weight in self.units:
            operation = UnitContract(**vars(operation), units=self.units[self.weight])
        return super().make(operation, index)

    def _to_whole(self, node: fx.Node) -> Any:
        arguments = arguments_by_name(node)
        value = self.values[arguments["input"]]
        if not isinstance(value, Activation) or _is_added_unrounded(node):
            return value
        scale, zero = float(numpy.float32(arguments["scale"])), int(arguments["zero_point"])
        box, number = self.boxes[value.value], self.next_value()
        words, name = (words_of(box[0]), *box[1:]), self.title(Call(node, arguments))
        self.make(Quantize(name, number, words, whole(value.value, box), scale, zero))
        self.make(Dequantize(name, number + 1, box, whole(number, words), scale, zero))
        return Activation(number + 1, value.index)


def _is_added_unrounded(node: fx.Node) -> bool:
    """Tell whether a layer's outputs are a term of a sum, which is rounded once it is complete.

    Of two such terms that is the later one.
    """
    sum_of = _sum_behind(node)
    if sum_of is None:
        return False
    others = [other.args[0] for other in sum_of.all_input_nodes if other is not next(iter(node.users))]
    nodes = list(node.graph.nodes)
    return not any(
        isinstance(other, fx.Node) and _sum_behind(other) is sum_of and nodes.index(other) > nodes.index(node)
        for other in others
    )


def _sum_behind(node: fx.Node) -> fx.Node | None:
    """Return the sum that alone reads what a layer makes, behind its pair; None where something else does."""
    made = node.args[0]
    if str(node.target) != _TO_WHOLE or not isinstance(made, fx.Node) or len(made.users) != 1:
        return None
    if find(made.target).family not in _LAYERS or len(node.users) != 1:
        return None
    (back,) = node.users
    readers = list(back.users)
    alone = len(readers) == 1 and find(readers[0].target).name == "add" and len(readers[0].all_input_nodes) == 2
    return readers[0] if alone else None
