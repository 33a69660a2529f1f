"""Where the elements of a value lie in memory, and loops over them.

In *blocks*, an element is as many numbers as there are samples in the block, beside each other: whatever the shape of
an operation, a vector holds the same element of neighbouring samples. *Singly*, an element is one number and a vector
holds neighbours along a row, and runs on into the next row where the plane is computed as one long row. Either way
zeros may lie around the rows: what a convolution pads with is read like everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from prunus.compiling.net import Box, Indices


@dataclass(frozen=True)
class Mode:
    """How samples lie in memory.

    Attributes:
        vector: numbers in a vector register.
        block: samples computed together, a multiple of `vector`; 1: singly.
    """

    vector: int
    block: int

    @property
    def single(self) -> bool:
        """Whether samples are computed one by one."""
        return self.block == 1

    @property
    def name(self) -> str:
        """What functions for this mode are called."""
        return "single" if self.single else "block"


@dataclass(frozen=True)
class Halo:
    """Rows and columns of zeros around each channel."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def with_(self, other: Halo) -> Halo:
        """Return what has room for both."""
        return Halo(
            max(self.top, other.top),
            max(self.bottom, other.bottom),
            max(self.left, other.left),
            max(self.right, other.right),
        )

    def __bool__(self) -> bool:
        return any((self.top, self.bottom, self.left, self.right))


@dataclass(frozen=True)
class Layout:
    """Where a value's elements lie, counted in numbers from its beginning.

    Attributes:
        box: (channels, height, width).
        halo: zeros around.
        pitch: elements from one row to the next.
        plane: elements from one channel to the next.
        block: numbers of one element.
    """

    box: Box
    halo: Halo
    pitch: int
    plane: int
    block: int

    @property
    def origin(self) -> int:
        """Elements before the first."""
        return self.halo.top * self.pitch + self.halo.left

    @property
    def size(self) -> int:
        """Numbers in all."""
        rows_below = self.halo.bottom * self.pitch + self.halo.right  # the last row's right halo lies in the next one
        return (self.box[0] * self.plane + self.halo.left + rows_below) * self.block

    @property
    def beyond(self) -> int:
        """Numbers that vectors may read beyond the value's end."""
        return (self.halo.bottom * self.pitch + self.halo.left + self.halo.right + self.plane) * self.block

    def addresses(self, index: Indices) -> Indices:
        """Return where elements lie."""
        _, height, width = self.box
        channel, rest = numpy.divmod(index, height * width)
        row, column = numpy.divmod(rest, width)
        addresses: Indices = (self.origin + channel * self.plane + row * self.pitch + column) * self.block
        return addresses


def narrowest(box: Box, halo: Halo) -> int:
    """Return the least pitch of a value: the zeros right of a row are those left of the next."""
    return box[2] + max(halo.left, halo.right)


def layout(box: Box, halo: Halo, mode: Mode, pitch: int | None = None) -> Layout:
    """Lay a value out.

    Singly, vectors run on over the ends of rows. What one leaves beyond the end of a row is written over with the next
    row; where a plane is one long row it stays, masked where zeros have to lie. Behind the last row there is room.

    Args:
        box: what the value holds.
        halo: zeros around it.
        mode: how samples lie in memory.
        pitch: elements from one row to the next; None for as few as possible.
    """
    _, height, width = box
    pitch = pitch or narrowest(box, halo)
    plane = (halo.top + height + halo.bottom) * pitch
    if mode.single and width > 1:
        room = (height - 1) * pitch + _vectors(width, mode.vector) * mode.vector
        if height > 1:
            room = most_along(length_of(height, width, pitch), mode.vector) * mode.vector
        plane = max(plane, halo.top * pitch + halo.left + room)
    return Layout(box, halo, pitch, plane, mode.block)


def length_of(height: int, width: int, pitch: int) -> int:
    """Return how many numbers lie from the first element of a plane to its last."""
    return (height - 1) * pitch + width


def most_along(length: int, vector: int) -> int:
    """Return how many vectors a plane that is computed as one row has room for: a few more than it needs."""
    needed = _vectors(length, vector)
    return needed + max(1, needed // 16)


def _vectors(length: int, vector: int) -> int:
    return -(-length // vector)


@dataclass(frozen=True, eq=False)
class Nest:
    """Nested loops over addresses in several buffers at once.

    The address in buffer b is ``bases[b] + sum(counter * strides[b])``, or where there are tables
    ``tables[b][outermost] + the sum over the inner loops``.

    Attributes:
        counts: how often each loop runs, from the outermost.
        strides: for each buffer, what a step of each loop adds.
        bases: for each buffer, where it begins.
        tables: for each buffer, addresses for each step of the outermost loop; None where strides tell.
    """

    counts: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    bases: tuple[int, ...]
    tables: tuple[Indices, ...] | None


def nest(addresses: Sequence[Indices]) -> Nest:
    """Find loops for arrays of addresses of one shape: as few as possible, with tables only where strides don't do.

    >>> nest([numpy.arange(12).reshape(3, 4), 5 * numpy.arange(12).reshape(3, 4)]).counts
    (12,)
    """
    shape = addresses[0].shape
    for outer in range(len(shape) + 1):
        inner = shape[outer:]
        flat = [array.reshape(-1, *inner) for array in addresses]
        strides = [_strides(array[0]) for array in flat]
        grids = [_grid(inner, stride) for stride in strides]
        if all(
            bool((array == array.reshape(len(array), -1)[:, :1].reshape(-1, *(1 for _ in inner)) + grid).all())
            for array, grid in zip(flat, grids, strict=True)
        ):
            starts = tuple(array.reshape(len(array), -1)[:, 0] for array in flat)
            return _nest(inner, strides, starts, outer)
    raise AssertionError("with tables over all dimensions nothing is left to differ")


def _nest(inner: tuple[int, ...], strides: list[list[int]], starts: tuple[Indices, ...], outer: int) -> Nest:
    counts, steps = _merged(list(inner), strides)
    if outer == 0:
        return Nest(tuple(counts), tuple(map(tuple, steps)), tuple(int(start[0]) for start in starts), None)
    steps = [[0, *step] for step in steps]
    return Nest((len(starts[0]), *counts), tuple(map(tuple, steps)), tuple(0 for _ in starts), starts)


def _strides(array: Indices) -> list[int]:
    strides = []
    for dim, size in enumerate(array.shape):
        first = array[tuple(0 for _ in array.shape)]
        second = array[tuple(1 if axis == dim else 0 for axis in range(array.ndim))] if size > 1 else first
        strides.append(int(second - first))
    return strides


def _grid(shape: tuple[int, ...], strides: list[int]) -> Indices:
    grid = numpy.zeros(shape, dtype=numpy.int64)
    for dim, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        view = [1] * len(shape)
        view[dim] = size
        grid = grid + (numpy.arange(size, dtype=numpy.int64) * stride).reshape(view)
    return grid


def _merged(counts: list[int], strides: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Leave loops of one step out, and make two loops one where the outer goes on where the inner ends."""
    keep = [dim for dim, count in enumerate(counts) if count > 1]
    new_counts: list[int] = []
    new_strides: list[list[int]] = [[] for _ in strides]
    for dim in keep:
        step = [stride[dim] for stride in strides]
        if new_counts and all(stride[-1] == s * counts[dim] for stride, s in zip(new_strides, step, strict=True)):
            new_counts[-1] *= counts[dim]
            for stride, s in zip(new_strides, step, strict=True):
                stride[-1] = s
        else:
            new_counts.append(counts[dim])
            for stride, s in zip(new_strides, step, strict=True):
                stride.append(s)
    return new_counts or [1], [stride or [0] for stride in new_strides]


def shaped(addresses: Sequence[Indices]) -> list[Indices]:
    """Return arrays of one shape as others of one shape, in which loops are easier to find: equal runs are split off.

    >>> [each.tolist() for each in shaped([numpy.array([0, 1, 4, 5, 8, 9])])]
    [[[[0, 1], [4, 5], [8, 9]]]]
    """
    flat = numpy.stack([array.reshape(-1) for array in addresses])
    inner_shape: list[int] = []
    starts = flat
    while starts.shape[1] > 1:
        run = _run(starts)
        if run == 1:
            break
        inner_shape.insert(0, run)
        starts = starts[:, ::run]
    return [array.reshape(-1, *inner_shape) if inner_shape else array.reshape(-1) for array in flat]


def _run(rows: Indices) -> int:
    """Return the length of equal runs of even steps that rows fall into; 1 where they fall into none."""
    change = numpy.diff(rows, axis=1)
    other = numpy.flatnonzero((change != change[:, :1]).any(axis=0))
    count = rows.shape[1]
    run = int(other[0]) + 1 if other.size else count
    if count % run:
        return 1
    within = numpy.arange(count - 1) % run != run - 1
    return run if bool((change[:, within] == change[:, :1]).all()) else 1
