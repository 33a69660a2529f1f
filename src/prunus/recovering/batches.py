"""Batches of unlabelled samples as a graph takes them, some of them held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.graph import ExampleInputs, Graph, trace
from prunus.pruning.stats import Batch

# The share of the samples that is held out.
_HELD_OUT = 0.25


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
    """Trace the dense model, and divide the batches; a single one is divided by its samples.

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
    if len(listed) == 1:
        listed = _halves(listed[0], graph)
    count = max(1, round(len(listed) * _HELD_OUT))
    return Samples(graph, listed[:-count], listed[-count:])


def _inputs(batch: Batch) -> Tensor | Mapping[str, Tensor]:
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    tensors = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    if not tensors or not all(isinstance(value, Tensor) and value.ndim for value in tensors):
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
    sizes = {len(value) for batch in batches for value in batch}
    if graph.batch is not None and sizes != {graph.batch}:
        raise ValueError(
            f"the forward of {type(graph.model).__name__} fixes the batch to {graph.batch}, got batches of "
            f"{', '.join(map(str, sorted(sizes)))} samples"
        )


def _halves(batch: list[Tensor], graph: Graph) -> list[list[Tensor]]:
    """Divide a single batch into four or, of few samples, fewer."""
    samples = len(batch[0])
    if samples < 2 or graph.batch is not None:
        raise ValueError(
            "batches must hold at least two samples, since some are held out to measure errors on; got one batch of "
            f"{samples}" + ("" if graph.batch is None else ", which the model's code fixes: give several such batches")
        )
    pieces = [torch.arange(samples)[start :: min(4, samples)] for start in range(min(4, samples))]
    return [[value[piece.to(value.device)] for value in batch] for piece in pieces]
