"""Inputs that a model is tried on: normal numbers of several scales, integers over the range that the graph tells."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from prunus.graph import Graph
from prunus.graph.operations import Family, find
from prunus.proving.verification import normal

# Operations that hand integers on as they are, on their way to the table that they are looked up in.
_HAND_ON = (Family.SAME, Family.MOVE, Family.PARTS)


@dataclass(frozen=True)
class Inputs:
    """Inputs of a call: by position, and by name."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]

    @property
    def all(self) -> tuple[Tensor, ...]:
        """All tensors in order."""
        return (*self.args, *self.kwargs.values())

    def replaced(self, values: Sequence[Tensor]) -> Inputs:
        """Return the same call with other tensors, in the order of `all`."""
        count = len(self.args)
        return Inputs(tuple(values[:count]), dict(zip(self.kwargs, values[count:], strict=True)))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The tensors' shapes without the batch."""
        return tuple(tuple(value.shape[1:]) for value in self.all)

    @property
    def batch(self) -> int:
        """The number of samples."""
        return self.all[0].shape[0]


@dataclass(frozen=True)
class Draw:
    """How inputs are drawn: the seed, and the scale of the floating point ones; `uniform` numbers lie in [0, scale)."""

    seed: int
    scale: float = 1.0
    uniform: bool = False


def draw(like: Inputs, batch: int, how: Draw, ranges: Sequence[tuple[int, int] | None]) -> Inputs:
    """Return inputs of another number of samples like some inputs.

    Args:
        like: the example's inputs; what can't be drawn is taken from them, sample after sample.
        batch: how many samples.
        how: seed and scale.
        ranges: per input the smallest and the largest integer to draw; None takes the example's own values.
    """
    generator = torch.Generator().manual_seed(how.seed)

    def drawn(value: Tensor, limits: tuple[int, int] | None) -> Tensor:
        shape = (batch, *value.shape[1:])
        if value.is_floating_point() or value.is_complex():
            if how.uniform and not value.is_complex():
                uniform = torch.rand(shape, generator=generator, dtype=torch.float64) * how.scale
                return uniform.to(value.device, value.dtype)
            return normal(shape, generator, value) * how.scale
        if limits is None:
            return value[torch.arange(batch, device=value.device) % len(value)]
        low, high = limits
        return torch.randint(low, high + 1, shape, generator=generator).to(value.device, value.dtype)

    return like.replaced([drawn(value, limits) for value, limits in zip(like.all, ranges, strict=True)])


def integer_ranges(graph: Graph) -> list[tuple[int, int] | None]:
    """Return for each input the integers that it may hold: the rows of the table that it is looked up in, 0 and 1, or
    those between the example's own; None for floating point, and where the example holds one number only.
    """
    placeholders = [node for node in graph.nodes if node.op == "placeholder" and node.name not in graph.tensors]
    inputs = Inputs(graph.args, graph.kwargs).all
    if len(placeholders) != len(inputs):
        return [None] * len(inputs)
    return [_range(value, node, graph) for value, node in zip(inputs, placeholders, strict=True)]


def _range(value: Tensor, node: fx.Node, graph: Graph) -> tuple[int, int] | None:
    if value.is_floating_point() or value.is_complex() or value.is_meta:
        return None
    if value.dtype == torch.bool:
        return 0, 1
    rows = _rows(node, graph)
    low, high = int(value.min()), int(value.max())
    if rows and low >= 0 and high < min(rows):
        return 0, min(rows) - 1
    return (low, high) if low < high else None


def _rows(start: fx.Node, graph: Graph) -> list[int]:
    """Return the number of rows of each table that an input is looked up in, unchanged."""
    rows: list[int] = []
    pending, seen = [start], {start}
    while pending:
        node = pending.pop()
        for user in node.users:
            if user in seen or user.op != "call_function":
                continue
            operation = find(user.target)
            table = user.args[0] if user.args else None
            if operation.name in ("embedding", "embedding_bag") and user.args[1] is node:
                weight = graph.tensors.get(getattr(table, "name", ""))
                rows += [graph.tensor(weight).shape[0]] if weight is not None else []
            elif operation.family in _HAND_ON or user.target is operator.getitem:
                seen.add(user)
                pending.append(user)
    return rows
