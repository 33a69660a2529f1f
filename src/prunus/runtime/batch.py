"""Which batches a model takes: any, or only that of its example, where its code holds the number of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.forward import undisturbed
from prunus.graph import ExampleInputs, Graph, GraphError, call_arguments, trace
from prunus.runtime.errors import CompileError
from prunus.runtime.lowering import lower
from prunus.runtime.lowering.fusing import FUSIONS, Fusion
from prunus.runtime.net import Net

# A graph of one batch is read with all its samples: more would take too much memory.
_MOST_SAMPLES = 64


@dataclass(frozen=True)
class Traced:
    """A model's graph, and the batch it is of.

    Attributes:
        graph: read with two samples, or with `fixed_batch` of them.
        fixed_batch: the only number of samples that the model takes; None where it takes any.
    """

    graph: Graph
    fixed_batch: int | None


def read_net(
    model: nn.Module, example_inputs: ExampleInputs, fusions: Sequence[Fusion] = FUSIONS
) -> tuple[Net, Traced]:
    """Return a model's operations, with its batch free if the model lets it, else with the example's own batch.

    Raises:
        GraphError: the model can't be traced.
        CompileError: an operation can't be lowered, or see `trace_batch`.
    """
    traced = trace_batch(model, example_inputs)
    try:
        return lower(traced.graph, fusions), traced
    except CompileError as error:
        if traced.fixed_batch is not None or _samples(example_inputs) > 1:
            raise
        try:  # code such as x.reshape(1, -1) mixes two samples, but is right for the one of the example
            traced = _with_own_batch(model, example_inputs, 1)
            return lower(traced.graph, fusions), traced
        except ValueError:
            raise error from None


def trace_batch(model: nn.Module, example_inputs: ExampleInputs) -> Traced:
    """Read a model's graph with its batch free if the model lets it, else with the example's own batch.

    Code such as ``x.view(2, -1)`` makes a graph that is right for two samples only.

    Raises:
        GraphError: the model can't be traced.
        CompileError: the model takes one batch size only, and the example has another, or too many samples.
    """
    own = _samples(example_inputs)
    try:
        graph = trace(model, _of_size(example_inputs, 2))
    except GraphError as error:
        if own == 2 or not _runs(model, example_inputs):
            raise
        return _with_own_batch(model, example_inputs, own, error)
    if _is_free(graph) or all(_runs(model, _of_size(example_inputs, size)) for size in (1, 3)):
        return Traced(graph, None)
    return Traced(graph, 2) if own == 2 else _with_own_batch(model, example_inputs, own)


def _with_own_batch(
    model: nn.Module, example_inputs: ExampleInputs, own: int, reason: GraphError | None = None
) -> Traced:
    """Read the graph with the example's batch.

    Raises:
        GraphError: `reason`, where the model can't be traced so either.
        CompileError: see `trace_batch`.
    """
    if own > _MOST_SAMPLES:
        raise CompileError(
            f"the model's code fixes the batch, and the example has {own} samples, more than the {_MOST_SAMPLES} that "
            "such a program may take; take the batch from the input, as in x.reshape(x.shape[0], -1)"
        )
    if not _runs(model, example_inputs):
        raise CompileError(
            f"the model's code fixes the batch to another size than the example's {own}; give an example with as many "
            "samples as the model takes, or take the batch from the input, as in x.reshape(x.shape[0], -1)"
        )
    try:
        return Traced(trace(model, example_inputs, least=1), own)
    except GraphError as error:
        raise reason or error from error


def _is_free(graph: Graph) -> bool:
    """Tell whether torch.export left the batch of every input free: a fixed one may still look like a symbol."""
    inputs = [node for node in graph.nodes if node.op == "placeholder" and node.name not in graph.tensors]
    tensors = [node.meta["val"] for node in inputs if isinstance(node.meta.get("val"), Tensor)]
    sizes = [value.shape[0] for value in tensors if value.ndim]
    return all(isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None for size in sizes)


def _runs(model: nn.Module, example_inputs: ExampleInputs) -> bool:
    args, kwargs = call_arguments(example_inputs, 1)
    try:
        with undisturbed(model), torch.no_grad():
            model(*args, **kwargs)
    except Exception:
        return False
    return True


def _samples(example_inputs: ExampleInputs) -> int:
    args, kwargs = call_arguments(example_inputs, 1)
    return max(len(value) for value in (*args, *kwargs.values()))


def _of_size(example_inputs: ExampleInputs, size: int) -> ExampleInputs:
    """Return example inputs of so many samples, made by going round those there are."""
    args, kwargs = call_arguments(example_inputs, size)
    return tuple(value[:size] for value in args) if args else {name: value[:size] for name, value in kwargs.items()}
