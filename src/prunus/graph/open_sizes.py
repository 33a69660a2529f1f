"""Graphs for more image sizes and sequence lengths than the example's, where the model takes these too."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping

from torch import SymInt, Tensor, nn

from prunus.errors import GraphError
from prunus.forward import undisturbed
from prunus.graph import (
    ExampleInputs,
    Graph,
    Place,
    call_arguments,
    check_readable,
    trace,
    trace_own_batch,
    trace_sizes,
)
from prunus.graph.free_sizes import HUGE, Trial, outputs, resized
from prunus.graph.tracing import tracing
from prunus.supported import unwrap

_log = logging.getLogger("prunus")
# Inputs with more dimensions than these are taken as they are: each is tried with a forward.
_MOST_PLACES = 8


def trace_open(model: nn.Module, example_inputs: ExampleInputs) -> Graph:
    """Do what `prunus.graph.trace` does, try one sample too, and leave free whatever sizes the model takes.

    A size is left free only where the graph, run at one and a half times and at twice that size, gives what the model
    does, and likewise where the graph depends on a condition of that size: where the model refuses a size, so may the
    graph. Else all sizes but the batch stay those of the example.

    Args:
        model: any module; it is left as it was.
        example_inputs: as of `trace`. On the meta device only the batch is left free.

    Raises:
        TypeError, GraphError: as `trace`.
    """
    check_readable(unwrap(model))
    args, kwargs = call_arguments(example_inputs, 1)
    values = (*args, *kwargs.values())
    free: frozenset[Place] = frozenset()
    if not any(value.is_meta for value in (*values, *unwrap(model).parameters())):
        with tracing(), undisturbed(unwrap(model)):
            free = frozenset(_taken(unwrap(model), args, kwargs))
    if free:
        try:
            graph = trace_sizes(model, example_inputs, free)
            if _is_right(graph, free):
                return graph
        except GraphError as error:
            _log.debug("with free sizes the model can't be traced: %s", error)
    graph = trace(model, example_inputs)
    return graph if graph.batch is not None or _takes_one(graph) else trace_own_batch(model, example_inputs)


def _takes_one(graph: Graph) -> bool:
    """Tell whether a graph computes what the model does for one sample, which torch.export takes to be no size."""
    with tracing(), undisturbed(graph.model):
        trial = Trial.of(graph.program, graph.model, graph.args, graph.kwargs)
        return trial.same_at({str(trial.traced[0][0]): 1})


def _taken(model: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> Iterator[Place]:
    """Yield the dimensions, the batch left out, of which the model takes another size; some only together."""
    values = (*args, *kwargs.values())
    places = [(place, dim) for place, value in enumerate(values) for dim in range(1, value.ndim)]
    places = [(place, dim) for place, dim in places if values[place].shape[dim] > 1]
    if len(places) > _MOST_PLACES:
        return
    refused: dict[int, list[Place]] = {}
    for place, dim in places:
        if _takes(model, args, kwargs, [(place, dim)]):
            yield place, dim
        else:
            refused.setdefault(values[place].shape[dim], []).append((place, dim))
    for together in refused.values():  # such as tokens and their mask, or the sides of a square
        if len(together) > 1 and _takes(model, args, kwargs, together):
            yield from together


def _takes(model: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor], places: list[Place]) -> bool:
    shapes = [list(value.shape) for value in (*args, *kwargs.values())]
    for place, dim in places:
        shapes[place][dim] *= 2
    return outputs(model, *resized(args, kwargs, tuple(map(tuple, shapes)))) is not None


def _is_right(graph: Graph, free: frozenset[Place]) -> bool:
    """Tell whether a graph with free sizes computes what the model does at others than the example's."""
    args, kwargs = graph.args, graph.kwargs
    sizes = {}  # symbol -> the example's size
    with tracing(), undisturbed(graph.model):
        trial = Trial.of(graph.program, graph.model, args, kwargs)
        for place, dim in free:
            symbol = trial.traced[place][dim]
            if isinstance(symbol, SymInt):
                sizes[str(symbol)] = (*args, *kwargs.values())[place].shape[dim]
        if not sizes:
            return False
        batch = {} if graph.batch is not None else {str(trial.traced[0][0]): 1}
        grown = [
            batch | {name: size * (3 + (place + first) % 2) // 2 for place, (name, size) in enumerate(sizes.items())}
            for first in (0, 1)
        ]
        return all(map(trial.same_at, grown)) and trial.agrees(list(_choices(batch, sizes)), list(_huge(sizes)))


def _choices(batch: Mapping[str, int], sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield sizes near the example's, smaller and larger: each by itself, then all together."""
    steps = (1, 2, 3, 5, 7)
    for name, size in sizes.items():
        others = (size + 1, size - 1, *(size + step for step in steps[1:]), size // 2, 2 * size + 1, 3 * size, 4, 2, 1)
        yield from (dict(batch) | {name: other} for other in others if other > 0)
    for step in steps:
        yield dict(batch) | {name: size + step for name, size in sizes.items()}
    for samples in (2, 3, 4, 5):
        yield dict.fromkeys(batch, samples) | {name: size + 1 for name, size in sizes.items()}


def _huge(sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    for name, size in itertools.product(sizes, HUGE):
        yield {name: size}
