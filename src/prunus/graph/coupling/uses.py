"""What coupling notes of a graph beside its labels: weights in use, products, grouped convolutions, needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, fx

from prunus.graph.coupling.values import Source

# The parameter, and the dimensions of it, that a run of atoms stands for: one dimension mostly, several where their
# indices only mean something together.
Axis: TypeAlias = tuple[str, tuple[int, ...]]

Groups: TypeAlias = Literal["alike", "counted"]


@dataclass(frozen=True, eq=False)
class Use:
    """A parameter that multiplies an activation: its columns consume channels, its rows make them.

    Attributes:
        node: the operation.
        weight: the parameter as it is used: matrices of (outputs, inputs, everything else), see `matrix`.
        order: how the dimensions of the used weight have to be permuted to be that.
        inputs: the atom of each input, None where the inputs are no channels.
        outputs: the atom of each output, None where they are no channels.
        groups: of a convolution: outputs meet the inputs of their own group only.
        macs: its multiply-adds for one sample.
        bias: the bias beside it.
        recurrent: whether its outputs depend on what they were before.
    """

    node: fx.Node
    weight: Source
    order: tuple[int, int]
    inputs: Tensor | None
    outputs: Tensor | None
    groups: int = 1
    macs: float = 0.0
    bias: Source | None = None
    recurrent: bool = False


@dataclass(frozen=True, eq=False)
class Grouping:
    """A grouped convolution whose groups may lose different channels, as long as all that stay keep equally many.

    Attributes:
        weight: the parameter; its rows are cut by whole groups and places, its columns row by row.
        groups: how many there are.
        inputs: the atom of each input, those of a group beside each other.
        outputs: the atom of each output, likewise.
        transposed: whether the weight's rows are the inputs and its columns the outputs of a group.
    """

    weight: str
    groups: int
    inputs: Tensor
    outputs: Tensor
    transposed: bool


@dataclass(frozen=True, eq=False)
class Product:
    """A product of two activations.

    Attributes:
        node: the operation.
        labels: of its result.
        macs: its multiply-adds for one sample.
    """

    node: fx.Node
    labels: Tensor
    macs: float


@dataclass(frozen=True, eq=False)
class Need:
    """Labels that have to stay where they differ along some dimensions of a tensor."""

    labels: Tensor
    dims: tuple[int, ...]
    reason: str
    node: fx.Node
