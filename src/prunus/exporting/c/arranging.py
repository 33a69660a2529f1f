"""A net made ready for C: how each contraction reads its source where it lies, and copies where it can't."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy

from prunus.compiling.net import (
    Box,
    Contract,
    Indices,
    Join,
    Net,
    Normalize,
    Numbers,
    Operation,
    Pool,
    Reduce,
    View,
    box_of,
    whole,
)


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
    operations = [each for operation in net.operations for each in arranger.prepared(operation)]
    return Arranged(replace(net, operations=tuple(operations), boxes=arranger.boxes), arranger.readings)


class _Arranger:
    def __init__(self, net: Net) -> None:
        self.boxes = dict(net.boxes)
        self.readings: dict[int, Reading] = {}

    def prepared(self, operation: Operation) -> list[Operation]:
        """Return an operation behind the copies that it needs."""
        if isinstance(operation, (Reduce, Normalize)):
            index = operation.source.index
            return (
                [operation] if bool((index - index[:, :1] == index[0] - index[0, 0]).all()) else self._behind(operation)
            )
        if isinstance(operation, Pool):
            return [operation] if _is_even(operation.source.index) else self._behind(operation)
        return self._contract(operation) if isinstance(operation, Contract) else [operation]

    def _contract(self, contract: Contract) -> list[Operation]:
        before: list[Operation] = []
        if contract.residual is not None and steps(contract.residual.index, 1) is None:
            copy = self._copy(contract, contract.residual)
            before.append(copy)
            contract = replace(contract, residual=whole(copy.output, copy.box))
        found = reading(contract)
        if found is None:
            copy = self._copy(contract, contract.source)
            before.append(copy)
            contract = replace(contract, source=whole(copy.output, copy.box))
            found = reading(contract)
        assert found is not None, "a value in its own order can be read"
        self.readings[contract.output] = found
        return [*before, contract]

    def _behind(self, operation: Reduce | Normalize | Pool) -> list[Operation]:
        source = operation.source
        copy = self._copy(operation, View(source.value, source.index.reshape(box_of(source.index.shape))))
        again = View(copy.output, whole(copy.output, copy.box).index.reshape(source.index.shape))
        return [copy, replace(operation, source=again)]

    def _copy(self, operation: Operation, source: View) -> Join:
        box: Box = source.index.shape
        number = max(self.boxes) + 1
        self.boxes[number] = box
        return Join(f"{operation.name}, its source", number, box, ((source, whole(number, box).index),))


def reading(contract: Contract) -> Reading | None:
    """Return how a contraction reads its source where it lies; None where it can't."""
    if contract.grid == (1, 1) and contract.groups == 1 and contract.pool is None:
        return _one_position(contract)
    index = contract.source.index
    order = _channel_order(contract)
    groups, outputs = contract.groups, len(contract.weight)
    sorted_index = index[order.reshape(-1)]
    found = steps(sorted_index, groups)
    if found is None or min(found.row, found.column) < 0:
        return None
    weight = contract.weight.reshape(groups, outputs // groups, -1, *contract.weight.shape[2:])
    arranged = numpy.stack([weight[group][:, order[group] - order[group].min()] for group in range(groups)])
    return Reading(arranged.reshape(outputs, -1), found, one=False)


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


def step_along(index: Indices, dim: int) -> int:
    """Return how far the second is from the first along a dimension; 0 where there is one only."""
    if index.shape[dim] < 2:
        return 0
    return int(index.take(1, dim).flat[0] - index.take(0, dim).flat[0])


def _is_even(index: Indices) -> bool:
    """Tell whether rows and columns of (channels, rows, columns) are equal steps, the same for each channel."""
    _, rows, columns = index.shape
    plane = numpy.arange(rows)[:, None] * step_along(index, 1) + numpy.arange(columns) * step_along(index, 2)
    return bool((index == index[:, :1, :1] + plane).all())
