"""Train a model with its rounding to 8 bits: fake quantisation that can be taken out again without a trace."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import MethodType, TracebackType
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from prunus.copying import copy_model
from prunus.forward import tensors_by_name
from prunus.graph import trace
from prunus.graph.calls import arguments_by_name, written_arguments
from prunus.graph.exported.parts import Parts
from prunus.graph.exported.source import FLAG, function
from prunus.pruning.masks import Masks
from prunus.quantizing.folding import folded
from prunus.quantizing.graph_copy import copied
from prunus.quantizing.planning import QuantizedLayer
from prunus.quantizing.rounded_graph import Rounding
from prunus.quantizing.rounding import across_rows, rounded_weight, weight_scales
from prunus.quantizing.scales import Scales
from prunus.supported import unwrap


class Quantizer:
    """Lets a model compute as its 8 bits will, so that the user's own loop can train and measure it so.

    From here on the model's forward rounds weights and values as `scales` says: gradients go through the rounding
    ("straight through", where nothing was cut off), so any loop trains it. The parameters stay in float, under their
    names. BatchNorm that is folded into a layer keeps its statistics; dropout and other norms follow `train` and
    `eval`. What a forward decides by ``self.training`` in Python stays as in eval mode. Zeros stay zero.
    `remove`, or the end of a ``with``, gives the model its own forward again; a copy of the model is a plain one.

    Args:
        model: any module; also one in a wrapper of data-parallel training, torch.compile or Fabric.
        scales: what `quantize` returned for it.
        masks: which weights stay; None holds the zeros that the layers' weights have now.

    Raises:
        TypeError: an argument is of the wrong kind.
        ScalesError: the scales belong to another model.
        MaskError: the masks do.
        ValueError: the model has a Quantizer already.
        GraphError: the model can't be traced.

    Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", CVPR 2018, section 3.
    """

    def __init__(self, model: nn.Module, scales: Scales, masks: Mapping[str, Tensor] | None = None) -> None:
        inner = unwrap(model)
        if not isinstance(scales, Scales):
            raise TypeError(f"scales must be what prunus.quantize returned, got {type(scales).__name__}")
        if isinstance(inner.__dict__.get("forward"), _RoundedForward):
            raise ValueError("the model has a Quantizer already; call its remove() first")
        rounding = rounding_of(inner, scales)
        self._model: nn.Module | None = inner
        self._own = inner.__dict__.get("forward")
        self.masks = Masks(_zeros(inner) if masks is None else masks)
        self.masks.pairs(inner)  # a mask that doesn't fit is told before anything changes
        forward = _forward(rounding, self.masks)
        self.masks.apply(inner)
        inner.forward = _RoundedForward(inner, forward, self._own)

    def remove(self) -> None:
        """Give the model its own forward again; pruned weights are set to zero once more."""
        if self._model is None:
            return
        self.masks.apply(self._model)
        del self._model.forward
        if self._own is not None:
            self._model.forward = self._own
        self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


def with_rounded_weights(model: nn.Module, scales: Scales) -> nn.Module:
    """Return a copy of a model whose weights are as 8 bits hold them; all else stays in float.

    The weights of each output channel get a new scale, max |w| / 127, as nothing else has to share it here: of `scales`
    only the choice of layers counts. A weight in front of a BatchNorm is divided by what that multiplies it by.

    Args:
        model: any module; it is not changed.
        scales: what `quantize` returned for it.

    Raises:
        ScalesError: the scales belong to another model.
        GraphError: the model can't be traced.
    """
    copy = copy_model(unwrap(model))
    rounding = rounding_of(copy, scales)
    tensors = tensors_by_name(copy)
    with torch.no_grad():
        for layer in rounding.plan.layers.values():
            weight = tensors[layer.layer.weight]
            factor, _ = folded(layer.layer, tensors.__getitem__, rounding.plan.graph.tensors)
            row_scales = weight_scales(weight * across_rows(factor, weight), torch.zeros_like(factor), 1.0)
            weight.copy_(rounded_weight(weight, factor, row_scales))
    return copy


def rounding_of(model: nn.Module, scales: Scales) -> Rounding:
    """Return what scales say of a model.

    Raises:
        ScalesError: they belong to another model.
        GraphError: the model can't be traced.
    """
    graph = trace(model, scales.example(model))
    scales = scales.for_graph(graph)
    own = scales.plan_for(graph)
    weights = {key: layer.weight for key, layer in scales.layers.items()}
    corrections = {key: layer.correction for key, layer in scales.layers.items()}
    return Rounding(own, scales.values, weights, corrections, scales.factors, scales.activations)


def _zeros(model: nn.Module) -> dict[str, Tensor]:
    """Return masks of the weights that are zero, of the parameters with some."""
    masks = {name: value.detach() != 0 for name, value in model.named_parameters() if value.ndim > 1}
    return {name: mask for name, mask in masks.items() if not bool(mask.all())}


def _forward(rounding: Rounding, masks: Masks) -> Callable[..., Any]:
    """Return a forward that runs the model's graph on its own parameters and buffers, rounded."""
    graph = rounding.plan.graph
    parts, copies = copied(graph)
    _round(parts.graph, copies, rounding)
    _hold_zeros(parts.graph, masks)
    place = [torch.device("cpu")]
    _keep_constants(parts, graph.model, place)
    run, signature = function(parts.graph, graph.model), parts.signature
    called, by_name = inspect.signature(graph.model.forward), bool(graph.kwargs)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        place[0] = next((value.device for value in self.parameters()), place[0])
        bound = called.bind(*args, **kwargs)  # the graph takes all inputs by name, or all by position
        leaves = signature.bind((), dict(bound.arguments)) if by_name else signature.bind(bound.args, bound.kwargs)
        return signature.output.build(iter(run(self, leaves)))

    return forward


class _RoundedForward:
    """In the place of a model's forward; a copy of the model gets its own forward instead."""

    # why the graph of such a model is not read
    unreadable = "the model has a prunus.Quantizer, which rounds its numbers; call its remove() first"

    def __init__(self, model: nn.Module, call: Callable[..., Any], own: Any) -> None:
        self._model, self._call, self._own = model, call, own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._model, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self._own is not None:
            return deepcopy(self._own, memo)
        return MethodType(type(self._model).forward, memo[id(self._model)])

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._model, "forward")  # as a method of the model is pickled


def _round(graph: fx.Graph, nodes: Mapping[fx.Node, fx.Node], rounding: Rounding) -> None:
    """Put roundings into the copy of a graph.

    Args:
        graph: the copy.
        nodes: node of the plan's graph -> its copy.
        rounding: what is rounded.
    """
    plan = rounding.plan
    for layer in plan.layers.values():
        _round_weight(graph, nodes, layer, rounding)
    tails = {layer.tail: layer for layer in plan.layers.values()}
    values = set(plan.values)
    for original in plan.graph.nodes:
        if original in tails:
            corrected, read = _correction(rounding, tails[original], nodes)
            last = _behind(graph, nodes[original], corrected, *read)
        elif original in values:
            last = nodes[original]
        if original in values:
            _behind(graph, last, _value_rounding(rounding, plan.keys[original]))


def _behind(graph: fx.Graph, node: fx.Node, function: Callable[..., Tensor], *others: fx.Node) -> fx.Node:
    """Let all that reads a result read a function of it, and of other nodes."""
    with graph.inserting_after(node):
        new = graph.create_node("call_function", function, (node, *others), name=f"{node.name}_rounded")
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new, lambda user: user is not new)
    return new


def _round_weight(graph: fx.Graph, nodes: Mapping[fx.Node, fx.Node], layer: QuantizedLayer, rounding: Rounding) -> None:
    node = nodes[layer.layer.node]
    weight = nodes[layer.layer.call["weight"]]
    if layer.layer.norm is not None:
        place = list(written_arguments(layer.layer.norm)).index("training")
        nodes[layer.layer.norm].update_arg(place, False)
    names, others = _tensors(rounding, layer, nodes)
    own = (layer.layer.weight, *names)

    def as_rounded(weight: Tensor, *others: Tensor) -> Tensor:
        return rounding.weight(layer, weight, dict(zip(own, (weight, *others), strict=True)).__getitem__)

    with graph.inserting_before(node):
        rounded = graph.create_node("call_function", as_rounded, (weight, *others), name=f"{weight.name}_rounded")
    node.replace_input_with(weight, rounded)


def _hold_zeros(graph: fx.Graph, masks: Masks) -> None:
    """Let a masked weight be multiplied by its mask wherever it is read, so that no gradient reaches its zeros."""
    for node in [node for node in graph.nodes if node.op == "get_attr" and str(node.target) in masks]:
        _behind(graph, node, _masked(masks[str(node.target)]))


def _masked(mask: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight * mask.to(weight.device)


def _tensors(
    rounding: Rounding, layer: QuantizedLayer, nodes: Mapping[fx.Node, fx.Node]
) -> tuple[tuple[str, ...], tuple[fx.Node, ...]]:
    """Return the names of a layer's bias and of its norm's parameters and buffers, and what reads them."""
    read = [layer.layer.call["bias"]]
    if layer.layer.norm is not None:
        call = arguments_by_name(layer.layer.norm)
        read += [call[name] for name in ("running_mean", "running_var", "weight", "bias")]
    held = [original for original in read if original is not None]
    return tuple(rounding.plan.graph.tensors[node.name] for node in held), tuple(nodes[node] for node in held)


def _correction(
    rounding: Rounding, layer: QuantizedLayer, nodes: Mapping[fx.Node, fx.Node]
) -> tuple[Callable[..., Tensor], tuple[fx.Node, ...]]:
    weight = nodes[layer.layer.call["weight"]]
    names, others = _tensors(rounding, layer, nodes)
    own = (layer.layer.weight, *names)

    def corrected(output: Tensor, *tensors: Tensor) -> Tensor:
        return rounding.corrected(layer, output, dict(zip(own, tensors, strict=True)).__getitem__)

    return corrected, (weight, *others)


def _value_rounding(rounding: Rounding, key: str) -> Callable[[Tensor], Tensor]:
    return lambda value: rounding.value(key, value)


def _keep_constants(parts: Parts, model: nn.Module, place: list[torch.device]) -> None:
    """Let constants that the graph holds, but the model does not, be read where the model is.

    Args:
        parts: what a module of the graph would be made of.
        model: the model.
        place: the device it is on at a call.
    """
    held = tensors_by_name(model)
    for node in [node for node in parts.graph.nodes if node.op == "get_attr"]:
        name = str(node.target)
        if name in held or name.rpartition(".")[2] == FLAG:
            continue
        with parts.graph.inserting_before(node):
            constant = _constant(parts.tensors[name], place)
            new = parts.graph.create_node("call_function", constant, name=f"{node.name}_constant")
        node.replace_all_uses_with(new)
        parts.graph.erase_node(node)


def _constant(tensor: Tensor, place: list[torch.device]) -> Callable[[], Tensor]:
    return lambda: tensor.to(place[0])
