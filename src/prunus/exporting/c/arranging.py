"""A net made ready for C: how each contraction reads its source where it lies, and copies where it can't."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy

from prunus.compiling.arranging import Arranger
from prunus.compiling.net import Indices, Net, Numbers, Operation, View, whole
from prunus.compiling.operations import Contract
from prunus.compiling.taps import step_along


@dataclass(frozen=True)
class Steps:
    """Where in a value the elements of a view lie: the first, and how far it is to the next of each kind.

    In groups, `channel` is from one channel to the next of the same group.
    """

    base: int
    group: int
    channel: int
    row: int
    column: int


@dataclass(frozen=True, eq=False)
class Reading:
    """What a contraction reads: weights as a matrix, and what each of its columns is multiplied with.

    Attributes:
        matrix: (outputs, columns). For one position a column is an element of the source, `base + column * channel`;
            else a channel of the group, a row and a column of the kernel, the last fastest.
        steps: how far apart they lie.
        one: whether there is one position only, so that each weight is used once.
    """

    matrix: Numbers
    steps: Steps
    one: bool


@dataclass(frozen=True, eq=False)
class Arranged:
    """A net whose operations can all be written.

    Attributes:
        net: with copies.
        readings: of each contraction, by the number of its output.
    """

    net: Net
    readings: dict[int, Reading]


def arrange(net: Net) -> Arranged:
    """Put copies before what can't read its source where it lies."""
    arranger = _Arranger(net)
    return Arranged(arranger.arranged(), arranger.readings)


class _Arranger(Arranger):
    """Values lie in their own order, without gaps."""

    def __init__(self, net: Net) -> None:
        super().__init__(net)
        self.readings: dict[int, Reading] = {}

    def rows_are_alike(self, view: View) -> bool:
        index = view.index
        return bool((index - index[:, :1] == index[0] - index[0, 0]).all())

    def is_regular(self, view: View) -> bool:
        return _is_even(view.index)

    def contraction(self, contract: Contract) -> list[Operation]:
        before: list[Operation] = []
        if contract.residual is not None and steps(contract.residual.index, 1) is None:
            copy = self.copy(contract.name, contract.residual)
            before.append(copy)
            contract = replace(contract, residual=whole(copy.output, copy.box))
        how = reading(contract)
        if how is None:
            copy = self.copy(contract.name, contract.source)
            before.append(copy)
            contract = replace(contract, source=whole(copy.output, copy.box))
            how = reading(contract)
        assert how is not None, "a value in its own order can be read"
        self.readings[contract.output] = how
        return [*before, contract]


def reading(contract: Contract) -> Reading | None:
    """Return how a contraction reads its source where it lies; None where it can't."""
    if contract.grid == (1, 1) and contract.groups == 1 and contract.pool is None:
        return _one_position(contract)
    index = contract.source.index
    order = _channel_order(contract)
    groups, outputs = contract.groups, len(contract.weight)
    sorted_index = index[order.reshape(-1)]
    strides = steps(sorted_index, groups)
    if strides is None or min(strides.row, strides.column) < 0:
        return None
    weight = contract.weight.reshape(groups, outputs // groups, -1, *contract.weight.shape[2:])
    arranged = numpy.stack([weight[group][:, order[group] - order[group].min()] for group in range(groups)])
    return Reading(arranged.reshape(outputs, -1), strides, one=False)


def _channel_order(contract: Contract) -> Indices:
    """Return the channels of each group in the order in which they lie in memory: (groups, channels of one)."""
    channels = contract.source.index[:, 0, 0].reshape(contract.groups, -1)
    first = numpy.arange(contract.groups)[:, None] * channels.shape[1]
    order: Indices = numpy.argsort(channels, axis=1, kind="stable") + first
    return order


def _one_position(contract: Contract) -> Reading | None:
    """Read a source whose every element is taken once at most: the columns in the order they lie in memory."""
    elements, weight = _in_reach(contract)
    places, column_of = numpy.unique(elements, return_inverse=True)
    gaps = numpy.diff(places)
    step = int(gaps[0]) if gaps.size else 1
    if bool((gaps != step).any()):
        if 2 * len(places) < int(places[-1] - places[0]):
            return None
        column_of, step = elements - places[0], 1  # so few are not read that a column of zeros for each is the best
    matrix = numpy.zeros((len(weight), int(column_of.max(initial=-1)) + 1))
    numpy.add.at(matrix.T, column_of.reshape(-1), weight.T)
    return Reading(matrix, Steps(int(places[0]), 0, step, 0, 0), one=True)


def _in_reach(contract: Contract) -> tuple[Indices, Numbers]:
    """Return which elements the one position takes, and their weights: (outputs, elements). Padding is left out."""
    index, weight = contract.source.index, contract.weight
    taken = []
    for side, size, gap, pad in zip(
        index.shape[1:], weight.shape[2:], contract.dilation, contract.padding, strict=True
    ):
        places = numpy.arange(size) * gap - pad
        inside = numpy.flatnonzero((places >= 0) & (places < side))
        taken.append((inside, places[inside]))
    (rows, down), (columns, right) = taken
    elements: Indices = index[:, down][:, :, right].reshape(-1)
    return elements, weight[:, :, rows][:, :, :, columns].reshape(len(weight), -1)


def steps(index: Indices, groups: int) -> Steps | None:
    """Return the steps of (channels, rows, columns), the channels in equal groups; None where they are not even."""
    if not _is_even(index):
        return None
    channels = index[:, 0, 0].reshape(groups, -1)
    down, right = step_along(index, 1), step_along(index, 2)
    group, channel = step_along(channels, 0), step_along(channels, 1)
    base = int(index.flat[0])
    even = numpy.arange(groups)[:, None] * group + numpy.arange(channels.shape[1]) * channel + base
    return Steps(base, group, channel, down, right) if bool((channels == even).all()) else None


def _is_even(index: Indices) -> bool:
    """Tell whether rows and columns of (channels, rows, columns) are equal steps, the same for each channel."""
    _, rows, columns = index.shape
    plane = numpy.arange(rows)[:, None] * step_along(index, 1) + numpy.arange(columns) * step_along(index, 2)
    return bool((index == index[:, :1, :1] + plane).all())
