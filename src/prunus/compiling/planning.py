"""A net laid out in memory for one mode: where each value lies, and copies where an operation needs another layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy

from prunus.compiling.arranging import Arranger
from prunus.compiling.kernels.contraction import POOL_SIDE, kernel_activation
from prunus.compiling.layout import Halo, Layout, Mode, layout, length_of, narrowest
from prunus.compiling.net import Indices, Net, Operation, Pair, View, Windows, whole
from prunus.compiling.operations.contract import Contract
from prunus.compiling.operations.elementwise import Elementwise, pointwise
from prunus.compiling.operations.join import Join
from prunus.compiling.operations.pool import Pool
from prunus.compiling.slots import placed
from prunus.compiling.taps import Split, Taps, halo_of, plane, remainders, split_halo, step_along, steps_fit, taps_of
from prunus.errors import CompileError

# Addresses have 32 bits: in tables, and where an offset becomes numbers.
_MOST_NUMBERS = 1 << 31
# An output of fewer weights, as of a depthwise convolution, takes less time than what gaps between rows cost elsewhere.
_FEW_WEIGHTS = 24


@dataclass(frozen=True, eq=False)
class Plan:
    """What is computed in one mode, and where it lies.

    Attributes:
        net: the operations, copies included.
        layouts: of each value.
        places: where in the workspace each value begins, in numbers.
        size: numbers of the workspace up to its end.
        taps: of each contraction, by the number of its output.
        along: outputs of contractions whose planes are computed as one long row each.
        fillings: what lies around the rows of each value.
    """

    mode: Mode
    net: Net
    layouts: dict[int, Layout]
    places: dict[int, int]
    size: int
    taps: dict[int, Taps]
    along: frozenset[int] = frozenset()
    fillings: Mapping[int, float] = field(default_factory=dict)

    def step_along(self, view: View, dim: int) -> int:
        """Return how many numbers lie from one element of a view to the next along a dimension."""
        corner = view.index[tuple(slice(1 + (axis == dim)) for axis in range(view.index.ndim))]
        return step_along(self.addresses(View(view.value, corner)), dim)

    def first_address(self, view: View) -> int:
        """Return where in the workspace a view's first element lies."""
        return int(self.addresses(View(view.value, view.index.reshape(-1)[:1])).item())

    def addresses(self, view: View) -> Indices:
        """Return where in the workspace the elements of a view lie."""
        return self.places[view.value] + self.layouts[view.value].addresses(view.index)


def plan(net: Net, mode: Mode, number_bytes: int, start: int = 0) -> Plan:
    """Lay a net out.

    Args:
        net: the operations.
        mode: how samples lie in memory.
        number_bytes: size of a number.
        start: numbers of the workspace that belong to another plan: what one leaves behind is no zeros for the other.

    Raises:
        CompileError: the workspace is too large to be addressed.
    """
    planner = _Planner(net, mode)
    arranged = planner.arranged()
    pitches = planner.pitches(arranged.operations)
    layouts = {
        number: layout(box, planner.halos.get(number, Halo()), mode, pitches.get(number))
        for number, box in planner.boxes.items()
    }
    places, size = placed(arranged, layouts, mode, number_bytes, start, planner.fillings)
    if size >= _MOST_NUMBERS:
        raise CompileError(
            f"what the model computes takes {size:,} numbers for {mode.block} samples, more than the {_MOST_NUMBERS:,} "
            "that a program can address; compile it for smaller inputs, or in parts"
        )
    taps = {
        operation.output: taps_of(operation, layouts[operation.source.value], planner.splits.get(operation.output))
        for operation in arranged.operations
        if isinstance(operation, Contract)
    }
    return Plan(mode, arranged, layouts, places, size, taps, frozenset(planner.along), planner.fillings)


def is_dot(contract: Contract, mode: Mode) -> bool:
    """Tell whether a contraction is computed output by output: singly, where a row is no vector."""
    height, width = contract.grid
    return mode.single and (width == 1 or (contract.kind == "linear" and height * width < mode.vector // 2))


def row_width(grid: Pair, mode: Mode, vector: int) -> int:
    """Return how many numbers a vector has: as many as can be; for short rows the fewest of as many vectors."""
    width = vector
    while mode.single and width > 4 and -(-grid[1] // (width // 2)) <= -(-grid[1] // width):
        width //= 2
    return width


def _made_equal(pitches: dict[int, int], groups: list[list[int]]) -> dict[int, int]:
    """Return pitches raised until those of each group are equal."""
    before: dict[int, int] = {}
    after = dict(pitches)
    while before != after:
        before = dict(after)
        for numbers in groups:
            after |= dict.fromkeys(numbers, max(after[number] for number in numbers))
    return after


class _Planner(Arranger):
    def __init__(self, net: Net, mode: Mode) -> None:
        super().__init__(net)
        self.mode = mode
        self.halos: dict[int, Halo] = {}
        self.splits: dict[int, Split] = {}
        self.dense: set[int] = set()  # values whose rows have one element, and are read as if they were one row
        self.along: dict[int, list[int]] = {}  # outputs of planes that are one long row, and the values of their pitch
        self.weights: dict[int, float] = {}  # how many weights an output of those has

    def contraction(self, contract: Contract) -> list[Operation]:
        """Return a contraction behind the copies that it needs, and what its kernel can't do behind it."""
        if contract.pool is not None and not self._pools(contract):
            contract, pool = self._unpooled(contract)
            return [*self.contraction(contract), *pool.arranged(self)]
        if contract.activation is not None and not kernel_activation(contract.activation)[0]:
            contract, mapped = self._unactivated(contract)
            return [*self.contraction(contract), mapped]
        before: list[Operation] = []
        if self.mode.single and contract.stride[1] > 1 and not is_dot(contract, self.mode):
            copy, contract = self._split(contract)
            before.append(copy)
        elif not self._fits(contract):
            copy = self.copy(contract.name, contract.source)
            before.append(copy)
            contract = replace(contract, source=whole(copy.output, copy.box))
        if contract.output not in self.splits:
            self._demand(contract.source.value, halo_of(contract))
            self._keep_dense(contract.source, contract)
        if contract.residual is not None and not self._rows(contract.residual, contract):
            copy = self.copy(contract.name, contract.residual)
            before.append(copy)
            contract = replace(contract, residual=whole(copy.output, copy.box))
        if contract.residual is not None:
            self._keep_dense(contract.residual, contract)
        split = contract.output in self.splits
        views = [*([] if split else [contract.source]), *([] if contract.residual is None else [contract.residual])]
        if self._runs_along(contract) and all(map(self._is_planes, views)):
            self.along[contract.output] = [contract.output, contract.source.value, *(view.value for view in views)]
            self.weights[contract.output] = contract.nonzero / len(contract.weight)
        return [*before, contract]

    def _runs_along(self, contract: Contract) -> bool:
        """Tell whether a plane of the output may be one long row: each step right and down is one in the source."""
        plain = contract.pool is None and (contract.stride == (1, 1) or contract.output in self.splits)
        return plain and self._in_vectors(contract) and min(contract.grid) > 1

    def _is_planes(self, view: View) -> bool:
        """Tell whether a view is whole planes of its value, each in its order."""
        (_, height, width), (_, rows, columns) = view.index.shape, self.boxes[view.value]
        starts = view.index[:, :1, :1]
        in_order = bool((starts % (rows * columns) == 0).all()) and (height, width) == (rows, columns)
        return in_order and bool((view.index == starts + plane(height, width, columns, 1)).all())

    def pitches(self, operations: Sequence[Operation]) -> dict[int, int]:
        """Return the pitch of each value: the same for what a contraction of one long row reads and makes.

        Gaps between rows slow down operations that are no contractions: few weights don't pay for those.
        """
        others = [operation for operation in operations if not isinstance(operation, Contract)]
        slowed = {view.value for operation in others for view in operation.views} | {other.output for other in others}
        pitches = {number: narrowest(self.boxes[number], self.halos.get(number, Halo())) for number in self.boxes}
        self.along = {
            output: numbers
            for output, numbers in self.along.items()
            if self._saves_vectors(output, max(pitches[number] for number in numbers))
        }
        light = [output for output in self.along if self.weights[output] < _FEW_WEIGHTS]
        groups = [numbers for output, numbers in self.along.items() if output not in light]
        pitches = _made_equal(pitches, groups)
        for output in light:
            wider = _made_equal(pitches, [*groups, self.along[output]])
            if any(wider[number] > pitches[number] for number in slowed):
                del self.along[output]
            else:
                pitches = wider
                groups.append(self.along[output])
        by_rows = pitches.keys() - slowed - {number for numbers in self.along.values() for number in numbers}
        return pitches | {number: self._whole(number, pitches[number]) for number in by_rows}

    def _saves_vectors(self, output: int, pitch: int) -> bool:
        """Tell whether one long row takes no more vectors than the rows by themselves."""
        _, height, width = self.boxes[output]
        vectors = -(-length_of(height, width, pitch) // self.mode.vector)
        return vectors <= height * -(-width // self.mode.vector)

    def _whole(self, number: int, pitch: int) -> int:
        """Return a pitch of whole vectors, for a value that is read row by row: its rows begin alike then."""
        width = self.boxes[number][2]
        whole = -(-width // self.mode.vector) * self.mode.vector
        left = self.halos.get(number, Halo()).left
        return max(pitch, whole + left) if self.mode.single and width > 1 else pitch

    def _fits(self, contract: Contract) -> bool:
        """Tell whether a contraction can read its source where it lies."""
        index = contract.source.index
        _, height, width = index.shape
        value = contract.source.value
        _, rows, columns = self.boxes[value]
        grid = index[:, :1, :1] + plane(height, width, step_along(index, 1), step_along(index, 2))
        if not bool((grid == index).all()):
            return False
        aligned = height == rows and width == columns and bool((index[:, 0, 0] % (rows * columns) == 0).all())
        inside = steps_fit(index, rows, columns)
        if halo_of(contract):
            own = (width == 1 or step_along(index, 2) == 1) and (height == 1 or step_along(index, 1) == columns)
            return aligned and own and value not in self.dense
        return inside and (not self._in_vectors(contract) or self._neighbours(contract.source))

    def _in_vectors(self, contract: Contract) -> bool:
        """Tell whether vectors hold neighbours of a row, and are read whole."""
        return self.mode.single and not is_dot(contract, self.mode)

    def _neighbours(self, view: View) -> bool:
        """Tell whether what lies beside each other in a view's rows does so in memory."""
        width, columns = view.index.shape[2], self.boxes[view.value][2]
        if width == 1:
            return True
        beside = step_along(view.index, 2) == 1
        if columns == 1:
            return beside and view.value not in self.halos
        return beside and step_along(view.index % columns, 2) == 1

    def _keep_dense(self, view: View, contract: Contract) -> None:
        """Remember where rows of one element each are read as one row: then there must be no zeros between them."""
        if self._in_vectors(contract) and view.index.shape[2] > 1 and self.boxes[view.value][2] == 1:
            self.dense.add(view.value)

    def _rows(self, residual: View, contract: Contract) -> bool:
        """Tell whether a residual can be read beside the output: in blocks anything regular, singly whole rows."""
        channels, height, width = residual.index.shape
        _, rows, columns = self.boxes[residual.value]
        index = residual.index
        grid = index[:, :1, :1] + plane(height, width, step_along(index, 1), step_along(index, 2))
        step = step_along(index, 0)
        even = bool((index[:, 0, 0] == index[0, 0, 0] + step * numpy.arange(channels)).all())
        regular = bool((grid == index).all()) and even and steps_fit(index, rows, columns)
        regular = regular and (channels == 1 or step % (rows * columns) == 0)
        return regular and (not self._in_vectors(contract) or self._neighbours(residual))

    def is_regular(self, view: View) -> bool:
        """Tell whether rows and columns of a view are equal steps in memory."""
        index, (_, rows, columns) = view.index, self.boxes[view.value]
        return steps_fit(index, rows, columns)

    def rows_are_alike(self, view: View) -> bool:
        """Tell whether the elements of each row of (rows, elements) lie alike, counted from the row's first."""
        _, height, width = self.boxes[view.value]
        channel, rest = numpy.divmod(view.index, height * width)
        row, column = numpy.divmod(rest, width)
        return all(bool((part - part[:, :1] == part[:1] - part[0, 0]).all()) for part in (channel, row, column))

    def _pools(self, contract: Contract) -> bool:
        """Tell whether a contraction's kernel can pool what it computes, and apply its activation before."""
        assert contract.pool is not None
        activation = contract.activation
        in_kernel = activation is None or bool(kernel_activation(activation)[0])
        inside = min(contract.grid) >= POOL_SIDE and self.mode.block <= self.mode.vector
        step = contract.stride[1] * step_along(contract.source.index, 2)  # of several outputs beside each other
        beside = self.mode.single or step in (1, 2)
        sides = contract.pool[1:] == (POOL_SIDE, POOL_SIDE)
        return sides and in_kernel and inside and beside and not is_dot(contract, self.mode)

    def _unactivated(self, contract: Contract) -> tuple[Contract, Elementwise]:
        assert contract.activation is not None
        number = self.new(contract.box)
        mapped = pointwise(
            f"{contract.name} ({contract.activation.function})",
            contract.output,
            whole(number, contract.box),
            contract.activation,
        )
        return replace(contract, output=number, activation=None), mapped

    def _unpooled(self, contract: Contract) -> tuple[Contract, Pool]:
        assert contract.pool is not None
        function, height, width = contract.pool
        box = (len(contract.weight), *contract.grid)
        number = self.new(box)
        rows, columns = (
            Windows(tuple(range(0, size * count, size)), tuple(range(size, size * count + 1, size)), 1, (size,) * count)
            for size, count in ((height, contract.box[1]), (width, contract.box[2]))
        )
        pool = Pool(
            f"{contract.name} (pool)", contract.output, contract.box, function, whole(number, box), rows, columns
        )
        return replace(contract, output=number, box=box, pool=None), pool

    def _demand(self, value: int, halo: Halo) -> None:
        if halo:
            self.halos[value] = self.halos.get(value, Halo()).with_(halo)

    def _split(self, contract: Contract) -> tuple[Join, Contract]:
        """Put rows and columns of each remainder by the strides together: what is read for a row are neighbours then.

        What no weight reads is left out.
        """
        split = Split(contract.stride, *remainders(contract))
        index = contract.source.index
        channels, *sides = index.shape
        rows, columns = (-(-side // step) for side, step in zip(sides, contract.stride, strict=True))
        planes = len(split.rows), len(split.columns), channels, rows, columns
        target = numpy.arange(math.prod(planes), dtype=numpy.int64).reshape(planes)
        pieces: list[tuple[View | numpy.ndarray, Indices]] = []
        around = numpy.ones(planes, dtype=bool)
        for row, first in enumerate(split.rows):
            for column, left in enumerate(split.columns):
                part = index[:, first :: contract.stride[0], left :: contract.stride[1]]
                inside = row, column, slice(None), slice(part.shape[1]), slice(part.shape[2])
                around[inside] = False
                if part.size:
                    pieces.append((View(contract.source.value, part), target[inside]))
        if around.any():
            padding = self.fillings.get(contract.source.value, 0.0)
            pieces.append((numpy.full(int(around.sum()), padding), target[around]))
        box = math.prod(planes[:3]), rows, columns
        number = self.new(box)
        self.fillings[number] = self.fillings.get(contract.source.value, 0.0)
        self._demand(number, split_halo(contract, (rows, columns)))
        self.splits[contract.output] = split
        join = Join(f"{contract.name} (sorted)", number, box, tuple(pieces))
        return join, replace(contract, source=View(number, target))
