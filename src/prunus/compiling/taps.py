"""What a contraction reads for each of its weights, and whether views are even steps in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from prunus.compiling.layout import Halo, Layout
from prunus.compiling.net import Indices, is_in_order
from prunus.compiling.operations.contract import Contract


@dataclass(frozen=True, eq=False)
class Taps:
    """What a contraction reads for each of its weights.

    Attributes:
        offsets: (channels, kernel height, kernel width): what the output in the corner reads, in numbers from the
            beginning of the source's value.
        steps: numbers from there for the next output below and to the right.
    """

    offsets: Indices
    steps: tuple[int, int]


def plane(height: int, width: int, down: int, right: int) -> Indices:
    """Return a grid that grows by so much from row to row and from column to column."""
    grid: Indices = (numpy.arange(height) * down)[:, None] + numpy.arange(width) * right
    return grid[None]


def step_along(index: Indices, dim: int) -> int:
    """Return by how much indices or addresses grow along a dimension; 0 where it has one element."""
    if index.shape[dim] < 2:
        return 0
    first = (0,) * index.ndim
    second = tuple(int(axis == dim) for axis in range(index.ndim))
    return int(index[second] - index[first])


def steps_fit(index: Indices, rows: int, columns: int) -> bool:
    """Tell whether equal steps of places are equal steps in memory, where rows and channels may have gaps between."""
    if index.shape[1:] == (rows, columns) and is_in_order(index):
        return True
    flat = index.reshape(len(index), -1)
    channel, rest = numpy.divmod(flat, rows * columns)
    row, column = numpy.divmod(rest, columns)
    for part in (channel, row, column):
        grid = part.reshape(index.shape)
        even = plane(index.shape[1], index.shape[2], step_along(grid, 1), step_along(grid, 2))
        if not bool((grid == grid[:, :1, :1] + even).all()):
            return False
    return True


def reach(contract: Contract) -> tuple[int, int]:
    """Return how far down and right of its first the last weight of a kernel reads."""
    height, width = contract.weight.shape[2:]
    return contract.dilation[0] * (height - 1), contract.dilation[1] * (width - 1)


def halo_of(contract: Contract) -> Halo:
    """Return the zeros that a convolution reads around its source."""
    beyond = [
        (outputs - 1) * step + reach - pad - (side - 1)
        for outputs, step, reach, pad, side in zip(
            contract.grid,
            contract.stride,
            reach(contract),
            contract.padding,
            contract.source.index.shape[1:],
            strict=True,
        )
    ]
    return Halo(contract.padding[0], max(beyond[0], 0), contract.padding[1], max(beyond[1], 0))


@dataclass(frozen=True)
class Split:
    """A source whose rows and columns were sorted by their remainders by the strides.

    Attributes:
        stride: down, and to the right.
        rows: the remainders of the rows that weights read, in their order; the others are not there.
        columns: likewise.
    """

    stride: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def _places(contract: Contract) -> tuple[Indices, Indices]:
    """Return the rows, and the columns, that the weights of an output in the corner read."""
    height, width = contract.weight.shape[2:]
    down = numpy.arange(height) * contract.dilation[0] - contract.padding[0]
    return down, numpy.arange(width) * contract.dilation[1] - contract.padding[1]


def remainders(contract: Contract) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the remainders by the strides of the rows, and of the columns, that weights read."""
    rows, columns = (
        tuple(sorted({int(place) % step for place in places}))
        for places, step in zip(_places(contract), contract.stride, strict=True)
    )
    return rows, columns


def split_halo(contract: Contract, sides: tuple[int, int]) -> Halo:
    """Return the zeros that a contraction reads around planes, of so many rows and columns, that were split for it."""
    before = [-(pad // -step) for pad, step in zip(contract.padding, contract.stride, strict=True)]
    last = [
        (reached - pad) // step + outputs - 1
        for reached, pad, step, outputs in zip(
            reach(contract), contract.padding, contract.stride, contract.grid, strict=True
        )
    ]
    after = [max(0, place - side + 1) for place, side in zip(last, sides, strict=True)]
    return Halo(before[0], after[0], before[1], after[1])


def taps_of(contract: Contract, layout: Layout, split: Split | None) -> Taps:
    """Return what a contraction reads, from where its source lies."""
    rows, right = _places(contract)
    down = rows[:, None]
    if split is not None:
        starts = layout.addresses(contract.source.index[:, :, :, 0, 0])  # (row's remainder, column's, channels)
        row = numpy.searchsorted(split.rows, rows % split.stride[0])
        column = numpy.searchsorted(split.columns, right % split.stride[1])
        beyond = (down // split.stride[0]) * layout.pitch + right // split.stride[1]
        offsets = starts[row[:, None], column].transpose(2, 0, 1) + beyond * layout.block
        return Taps(offsets, (layout.pitch * layout.block, layout.block))
    addresses = layout.addresses(contract.source.index[:, :2, :2])
    steps = step_along(addresses, 1), step_along(addresses, 2)
    if halo_of(contract):
        steps = layout.pitch * layout.block, layout.block
    offsets = addresses[:, :1, :1] + down * steps[0] + right * steps[1]
    return Taps(offsets, (contract.stride[0] * steps[0], contract.stride[1] * steps[1]))
