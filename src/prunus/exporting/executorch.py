"""A model for ExecuTorch, computed by XNNPACK: with whole numbers of 8 bits where scales say so."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.passes.infra.pass_base import PassResult

from prunus import extras
from prunus.errors import ExportError
from prunus.exporting.comparing import BATCHES, check_runs
from prunus.exporting.onnx import reason, silence, tensors_in
from prunus.exporting.quantized import difference_of, traced
from prunus.graph import ExampleInputs
from prunus.graph.calls import arguments_by_name
from prunus.graph.exported import ExportedModule
from prunus.graph.operations import Family, find
from prunus.quantizing import Scales
from prunus.quantizing.integer_graph import pair_behind
from prunus.quantizing.planning import MAXIMA, source
from prunus.quantizing.rounding import across_rows

PURPOSE = "exporting to ExecuTorch"
# What XNNPACK computes along with the layer in front of it.
_FUSED = ("relu", "relu6", "hardtanh")


def to_executorch(model: nn.Module, example_inputs: ExampleInputs, scales: Scales | None = None) -> tuple[bytes, float]:
    """Return a model as a program of ExecuTorch, and the largest difference of its outputs there to the model's.

    Args:
        model: on the CPU; it is left as it was.
        example_inputs: see `prunus.export`; the program takes as many samples at most, or three.
        scales: likewise.

    Raises:
        GraphError: the model can't be traced.
        ExportError: ExecuTorch can't hold the model, or computes something else.
        MissingExtraError: ExecuTorch is not installed.
    """
    with silence():
        runtime = extras.require("executorch.runtime", PURPOSE)
    graph, inputs = traced(model, scales, example_inputs, for_xnnpack)
    check_runs(model, example_inputs)
    samples = [*graph.args, *graph.kwargs.values()]
    batch = {0: Dim.AUTO(max=max(len(samples[0]), *BATCHES))}
    with silence():
        try:
            program = torch.export.export(
                graph.program.module(), graph.args, graph.kwargs, dynamic_shapes=[batch] * len(samples), strict=False
            )
            names = program.graph_signature.user_inputs
            data: bytes = lowered(program).to_executorch().buffer
            method = runtime.Runtime.get().load_program(data).load_method("forward")
        except Exception as error:
            kind = type(model).__name__
            raise ExportError(f"the model ({kind}) can't be exported to ExecuTorch: {reason(error)}") from error

        def run(*args: Tensor, **kwargs: Tensor) -> list[Tensor]:
            return tensors_in(method.execute([*args, *(kwargs[str(name)] for name in names[len(args) :])]))

        return data, difference_of(model, scales, run, inputs)


def lowered(program: ExportedProgram) -> Any:
    """Return a program of ExecuTorch whose operations XNNPACK computes, those that it knows."""
    exir = extras.require("executorch.exir", PURPOSE)
    xnnpack = extras.require("executorch.backends.xnnpack.partition.xnnpack_partitioner", PURPOSE)
    return exir.to_edge_transform_and_lower(
        program, transform_passes=[_infer_batch], partitioner=[xnnpack.XnnpackPartitioner()]
    )


def _infer_batch(module: fx.GraphModule) -> PassResult:
    """Let views find the batch from the other sizes: XNNPACK takes no size that is computed."""
    for node in module.graph.nodes:
        if getattr(node.target, "__name__", "") == "aten.view_copy.default":
            computed = [size for size in node.args[1] if isinstance(size, fx.Node)]
            if len(computed) == 1 and -1 not in node.args[1]:
                node.args = (node.args[0], [-1 if size in computed else size for size in node.args[1]])
    module.graph.eliminate_dead_code()
    module.recompile()
    return PassResult(module, True)


def for_xnnpack(module: ExportedModule) -> ExportedModule:
    """Move pairs and weights of 8 bits to where ExecuTorch's partitioner for XNNPACK looks for them; return the module.

    It takes int8 only, pairs right in front of a layer and right behind it, each reader with its own, and biases in
    float. A layer whose result has no 8 bits reads values that are rounded once more, to the range that they have, as
    XNNPACK has no other kernel for its weights; grouped and one-dimensional convolutions of that kind get their rounded
    weights in float.
    """
    graph, ops = module.graph, torch.ops.quantized_decomposed
    quantize, dequantize = ops.quantize_per_tensor.default, ops.dequantize_per_tensor.default
    for node in list(graph.nodes):
        if node.target in (quantize, dequantize) and node.args[-1] == torch.uint8:
            node.args = (*node.args[:2], node.args[2] - 128, -128, 127, torch.int8)
        elif (value := source(node)) is not node and value.target is dequantize and _ends(node):
            pair_behind(node, value.args[1:])
    for node in list(graph.nodes):
        if node.target is ops.dequantize_per_channel.default:
            _settle(module, node)
        elif node.target is dequantize:
            for user in list(node.users)[1:]:
                with graph.inserting_before(user):
                    user.replace_input_with(node, graph.node_copy(node, lambda argument: argument))
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _ends(node: fx.Node) -> bool:
    """Say whether moves end at a node, or the largest is taken, which XNNPACK does in 8 bits."""
    return find(node.target).name in MAXIMA or any(source(user) is user for user in node.users)


def _settle(module: ExportedModule, dequantized: fx.Node) -> None:
    """Keep a layer's weight in 8 bits if XNNPACK can; fold biases, and the weights of others, to float."""
    (layer,) = dequantized.users
    if layer.args[1] is dequantized and (_is_rounded(layer) or _round_by_range(layer)):
        return
    name, units = (str(cast(fx.Node, argument).target) for argument in dequantized.args[:2])
    whole = module.get_buffer(name)
    real = whole.double() * across_rows(module.get_buffer(units).double(), whole)
    holder, _, last = f"{name}_real".rpartition(".")
    module.get_submodule(holder).register_buffer(last, real.float())
    with module.graph.inserting_before(dequantized):
        dequantized.replace_all_uses_with(module.graph.get_attr(f"{name}_real"))
        if whole.ndim == 3:  # right behind a pair, ExecuTorch takes a one-dimensional convolution for one in 8 bits
            layer.args = (module.graph.call_function(torch.ops.aten.mul.Tensor, (layer.args[0], 1.0)), *layer.args[1:])


def _is_rounded(node: fx.Node) -> bool:
    """Say whether a result gets 8 bits at once, or behind what XNNPACK computes along with it."""
    (user, *others) = node.users
    if others or user.op != "call_function":
        return False
    quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return _is_rounded(user) if find(user.target).name in _FUSED else user.target is quantize


def _round_by_range(layer: fx.Node) -> bool:
    """Round what a layer reads to its own range, if XNNPACK has a kernel that then takes weights of 8 bits."""
    graph, ops, value = layer.graph, torch.ops.quantized_decomposed, layer.args[0]
    number: tuple[Any, ...] = (-128, 127, torch.int8)
    if find(layer.target).family is Family.LINEAR:
        choose = (ops.choose_qparams_per_token_asymmetric.default, value, torch.int8)
        quantize, dequantize = ops.quantize_per_token.default, ops.dequantize_per_token.default
        back = (*number, torch.float32)
    elif layer.meta["val"].ndim == 4 and arguments_by_name(layer).get("groups", 1) == 1:
        choose = (ops.choose_qparams.tensor, value, *number[:2], torch.finfo(torch.float32).eps, torch.int8)
        quantize, dequantize = ops.quantize_per_tensor.tensor, ops.dequantize_per_tensor.tensor
        back = number
    else:
        return False
    with graph.inserting_before(layer):
        both = graph.call_function(choose[0], choose[1:])
        units = [graph.call_function(operator.getitem, (both, place)) for place in range(2)]
        whole = graph.call_function(quantize, (value, *units, *number))
        layer.args = (graph.call_function(dequantize, (whole, *units, *back)), *layer.args[1:])
    return True
