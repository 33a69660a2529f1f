"""Batches of unlabelled samples as a graph takes them, some of them held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import GraphError
from prunus.graph import ExampleInputs, Graph, trace
from prunus.graph.samples import inputs_of
from prunus.pruning.stats import Batch

# Every so many-th sample is held out.
_HELD_OUT = 4


@dataclass(frozen=True)
class Samples:
    """Batches as lists of tensors, in the order of the graph's inputs.

    Attributes:
        graph: of the dense model.
        fitted: those that weights are fitted to.
        held_out: those that errors are measured on.
    """

    graph: Graph
    fitted: list[list[Tensor]]
    held_out: list[list[Tensor]]

    def call(self, batch: list[Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return a batch as positional and keyword arguments of the forward, which may write into them."""
        count, copies = len(self.graph.args), [value.clone() for value in batch]
        return tuple(copies[:count]), dict(zip(self.graph.kwargs, copies[count:], strict=True))


def read(dense: nn.Module, batches: Iterable[Batch]) -> Samples:
    """Trace the dense model, and hold every fourth sample out; where the batch is fixed, every fourth batch.

    Args:
        dense: the model before it was pruned.
        batches: inputs as `prune` takes them as data: tensors, pairs of inputs and labels, of which the labels are not
            used, or mappings of keyword arguments.

    Raises:
        TypeError: it is one batch instead of many, or one is not made of tensors.
        ValueError: there are fewer than two samples, or one has other shapes than the first, the batch left out.
        GraphError: the model can't be traced.
    """
    if isinstance(batches, Tensor | Mapping) or not isinstance(batches, Iterable):
        raise TypeError(f"batches must be an iterable of batches, got {type(batches).__name__}; one batch is [batch]")
    inputs = [_inputs(batch) for batch in batches]
    if not inputs:
        raise ValueError(
            "batches held no batch; give batches that can be read again, such as a list or a DataLoader "
            "(a generator is used up after one reading)"
        )
    kinds = {tuple(sorted(batch)) if isinstance(batch, Mapping) else () for batch in inputs}
    if len(kinds) > 1:
        raise ValueError(f"all batches must have the same arguments, got {' and '.join(map(str, sorted(kinds)[:2]))}")
    first = inputs[0]
    example: ExampleInputs = first if isinstance(first, Mapping) else (first,)
    graph = trace(dense, example)
    names = list(first) if isinstance(first, Mapping) else []
    listed = [[batch[name] for name in names] if isinstance(batch, Mapping) else [batch] for batch in inputs]
    _check_alike(listed, graph)
    if graph.batch is not None:
        if len(listed) < 2:
            raise ValueError("the model's code fixes the batch, so some batches are held out whole: give at least two")
        return Samples(graph, *_divided(listed, len(listed)))
    samples = sum(len(batch[0]) for batch in listed)
    if samples < 2:
        raise ValueError(
            "batches must hold at least two samples, since some are held out to measure errors on; got one"
        )
    everything = [torch.cat(values) for values in zip(*listed, strict=True)]
    fitted, held_out = (torch.tensor(places) for places in _divided(list(range(samples)), samples))
    size = max(2, max(len(batch[0]) for batch in listed))
    return Samples(
        graph, *([_cut(everything, part) for part in torch.split(places, size)] for places in (fitted, held_out))
    )


def _inputs(batch: Batch) -> Tensor | Mapping[str, Tensor]:
    inputs = inputs_of(batch)
    tensors = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    if not tensors or not all(isinstance(value, Tensor) and value.ndim and len(value) for value in tensors):
        raise TypeError(
            "a batch must be a tensor whose first dimension is the batch, a pair (inputs, labels), or a mapping of "
            f"keyword arguments to tensors, got {type(batch).__name__}"
        )
    return inputs  # type: ignore[no-any-return]


def _check_alike(batches: list[list[Tensor]], graph: Graph) -> None:
    shapes = [[tuple(value.shape[1:]) for value in batch] for batch in batches]
    different = next((shape for shape in shapes if shape != shapes[0]), None)
    if different is not None:
        raise ValueError(f"all batches must have samples of one shape, got {shapes[0]} and {different}")
    if any(node.op == "get_attr" for node in graph.nodes):
        raise GraphError(
            f"{type(graph.model).__name__} can't be recovered: its forward holds control flow, such as torch.cond"
        )
    sizes = {len(value) for batch in batches for value in batch}
    if graph.batch is not None and sizes != {graph.batch}:
        raise ValueError(
            f"the forward of {type(graph.model).__name__} fixes the batch to {graph.batch}, got batches of "
            f"{', '.join(map(str, sorted(sizes)))} samples"
        )


def _divided(values: list[Any], count: int) -> tuple[list[Any], list[Any]]:
    """Return values without every fourth, and these; of fewer than four the last one is held out."""
    held_out = set(range(_HELD_OUT - 1, count, _HELD_OUT)) or {count - 1}
    return [values[place] for place in range(count) if place not in held_out], [values[place] for place in held_out]


def _cut(tensors: list[Tensor], places: Tensor) -> list[Tensor]:
    return [value[places.to(value.device)] for value in tensors]
