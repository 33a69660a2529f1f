"""Which batches a model takes: any, or only that of its example, where its code holds the number of samples."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from prunus.compiling.lowering import lower
from prunus.compiling.net import Net
from prunus.errors import CompileError, GraphError
from prunus.graph import ExampleInputs, Graph, call_arguments, trace, trace_own_batch
from prunus.graph.samples import of_size

# A graph of one batch is read with all its samples: more would take too much memory.
_MOST_SAMPLES = 64


def read_net(
    model: nn.Module, example_inputs: ExampleInputs, read: Callable[[Graph], Net] = lower
) -> tuple[Net, Graph]:
    """Return a model's operations, with its batch free if the model lets it, else with the example's own batch.

    Args:
        model: any module.
        example_inputs: of the model.
        read: makes operations of a graph.

    Raises:
        GraphError: the model can't be traced.
        CompileError: an operation can't be lowered, or see `trace_batch`.
    """
    graph = trace_batch(model, example_inputs)
    try:
        return read(graph), graph
    except CompileError as error:
        if graph.batch is not None or _samples(example_inputs) > 1:
            raise
        try:  # code such as x.reshape(1, -1) mixes two samples, but is right for the one of the example
            graph = trace_own_batch(model, example_inputs)
            return read(graph), graph
        except ValueError:
            raise error from None


def trace_batch(model: nn.Module, example_inputs: ExampleInputs) -> Graph:
    """Read a model's graph with its batch free if the model lets it, else with the example's own batch.

    Code such as ``x.view(2, -1)`` makes a graph that is right for two samples only.

    Raises:
        GraphError: the model can't be traced.
        CompileError: the model takes one batch size only, and the example has too many samples.
    """
    own = _samples(example_inputs)
    try:
        graph = trace(model, of_size(example_inputs, min(own, 2)))
        if graph.batch in (None, own):
            return graph
    except GraphError:
        if own <= 2:
            raise
    if own > _MOST_SAMPLES:
        raise CompileError(
            f"the model's code fixes the batch, and the example has {own} samples, more than the {_MOST_SAMPLES} that "
            "such a program may take; take the batch from the input, as in x.reshape(x.shape[0], -1)"
        )
    return trace_own_batch(model, example_inputs)


def _samples(example_inputs: ExampleInputs) -> int:
    args, kwargs = call_arguments(example_inputs, 1)
    return max(len(value) for value in (*args, *kwargs.values()))
