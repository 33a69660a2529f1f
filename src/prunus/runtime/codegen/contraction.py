"""Kernels of contractions: weights that are not zero, each times a tile of outputs held in registers.

A kernel takes the outputs in groups of `rows` neighbours. For each group there is a list of what any of them has a
weight for (so with one row, only weights that are not zero): where it lies relative to the output, and the weights.
Per entry of the list, each vector of the tile is one multiply-add for each row, over memory that lies in order whatever
the kernel's size and stride. Groups of one skip every zero; groups of several share what they read, which pays where
few weights are zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy

from prunus.runtime.codegen.writing import Constants, Needs, Writer, sum_of, times
from prunus.runtime.layout import Mode
from prunus.runtime.net import Contract, Pointwise
from prunus.runtime.planning import Plan, is_dot, row_width


@dataclass(frozen=True)
class Variant:
    """How a contraction is computed.

    Attributes:
        rows: outputs computed together.
        tile: outputs below and beside each other (in blocks), or rows and vectors of a row (singly), held in registers.
        width: numbers in a vector.
        outer: which loop is the outer one: ``tiles``, then all weights are read for each; or ``outputs``, then all of
            the source.
        chains: sums that each output is split into, so that one multiply-add doesn't wait for the one before.
        parts: into how many parts the source is cut, each small enough for the nearest cache; outputs are begun with
            the first and taken up again with each further one.
    """

    rows: int
    tile: tuple[int, int]
    width: int
    outer: str = "tiles"
    chains: int = 1
    parts: int = 1

    def __str__(self) -> str:
        if self == DOT:
            return "number by number"
        words = [f"{self.rows} row{'s' * (self.rows > 1)}", f"tile {self.tile[0]}x{self.tile[1]} of {self.width}"]
        words += ["outputs outside"] * (self.outer == "outputs") + [f"{self.chains} chains"] * (self.chains > 1)
        return ", ".join([*words, *[f"{self.parts} parts"] * (self.parts > 1)])


# Half of the nearest cache of common processors (32 to 48 KiB), the other half being for weights and outputs.
_NEAREST_CACHE = 16 * 1024

# One output after the other, number by number: for rows too short for vectors.
DOT = Variant(1, (1, 1), 1, "outputs")


@dataclass(frozen=True)
class Shape:
    """What a kernel's text depends on, besides the variant: everything else it is given.

    Offsets are counted in elements, and kept in 16 bits where that is enough: the lists are most of what is read.
    """

    mode: Mode
    narrow: bool
    grid: tuple[int, int]
    in_steps: tuple[int, int]
    out_steps: tuple[int, int, int]
    add_steps: tuple[int, int, int] | None
    activation: Pointwise | None
    pool: tuple[str, int, int] | None
    masked: int


@dataclass(frozen=True)
class Lists:
    """The weights of a contraction in the order a kernel reads them.

    Attributes:
        starts: where the list of each group begins, part by part, and the last one ends.
        offsets: where each entry's element lies, relative to the output's, counted in elements.
        values: (entries, rows).
    """

    starts: numpy.ndarray
    offsets: numpy.ndarray
    values: numpy.ndarray


def lists(contract: Contract, plan: Plan, variant: Variant) -> Lists:
    """Return a contraction's weights in groups of outputs, those that are zero for a whole group left out."""
    weight, rows = contract.weight, variant.rows
    count = len(weight)
    per_group = count // contract.groups
    assert per_group % rows == 0, "rows computed together read the same channels"
    flat = weight.reshape(count // rows, rows, -1)
    taps = plan.taps[contract.output].offsets.reshape(contract.groups, -1)
    group, entry = numpy.nonzero((flat != 0).any(1))
    offsets = taps[group * rows // per_group, entry]
    part = numpy.zeros(len(offsets), dtype=numpy.int64)
    if variant.parts > 1:
        low, high = int(taps.min()), int(taps.max()) + 1
        part = (offsets - low) * variant.parts // (high - low)
    turns = numpy.where(group % 2 == 0, offsets, -offsets)  # there and back: what was read last is still in the cache
    order = numpy.lexsort((turns, group, part))
    bounds = numpy.bincount(part * len(flat) + group, minlength=variant.parts * len(flat))
    return Lists(
        numpy.concatenate([[0], numpy.cumsum(bounds)]).astype(numpy.int32),
        offsets[order] // plan.mode.block,
        flat[group[order], :, entry[order]],
    )


def shape_of(contract: Contract, plan: Plan, variant: Variant) -> Shape:
    """Return what a contraction's kernel depends on."""
    mode = plan.mode
    out = plan.layouts[contract.output]
    grid = contract.grid
    if contract.pool is not None:
        _, height, width = contract.pool
        grid = grid[0] // height * height, grid[1] // width * width
    add = None
    if contract.residual is not None:
        addresses = plan.layouts[contract.residual.value].addresses(contract.residual.index)
        steps = [
            int(addresses.take(1, dim).flat[0] - addresses.take(0, dim).flat[0]) if addresses.shape[dim] > 1 else 0
            for dim in range(3)
        ]
        add = steps[1], steps[2], steps[0]
    masked = out.box[2] if mode.single and out.halo.right and out.box[2] % variant.width and variant.width > 1 else 0
    return Shape(
        mode,
        _is_narrow(contract, plan),
        grid,
        plan.taps[contract.output].steps,
        (out.pitch * out.block, out.block, out.plane * out.block),
        add,
        contract.activation,
        contract.pool,
        masked,
    )


def _is_narrow(contract: Contract, plan: Plan) -> bool:
    return int(plan.taps[contract.output].offsets.max()) // plan.mode.block < 1 << 16


def variants(contract: Contract, mode: Mode, registers: int, vector: int) -> list[Variant]:
    """Return the ways a contraction may be computed, the most promising first.

    Args:
        contract: what is computed.
        mode: how samples lie in memory.
        registers: vector registers of the processor.
        vector: numbers in the widest of them.
    """
    if is_dot(contract, mode):
        return [DOT]
    found = {}
    width = row_width(contract, mode, vector)
    lanes = 1 if mode.single else mode.block // width
    grid = contract.grid
    columns = -(-grid[1] // width) if mode.single else grid[1]
    for rows in (1, 2, 4):
        if (len(contract.weight) // contract.groups) % rows:
            continue
        entries = _entries(contract, rows)
        for tile in _tiles(contract, (grid[0], columns), lanes, rows, registers, width if mode.single else 1):
            cost = entries * _cost((grid[0], columns), tile, lanes, rows)
            vectors = rows * math.prod(tile) * lanes
            chains = 1
            while chains * 2 * vectors <= min(registers // 2, 8):
                chains *= 2
            found[Variant(rows, tile, width, chains=chains)] = cost
    best = sorted(found, key=lambda each: found[each])
    return [*_otherwise(contract, mode, best[0]), *best[1:]] if best else best


def _otherwise(contract: Contract, mode: Mode, best: Variant) -> list[Variant]:
    """Return a variant, the same with the loops in the other order, and for a matrix whose source is large in parts."""
    found = [best, replace(best, outer="outputs")]
    bytes_read = contract.source.index.size * mode.block * 4
    if math.prod(contract.grid) == 1 and contract.groups == 1 and bytes_read > _NEAREST_CACHE:
        found.append(replace(best, parts=min(-(-bytes_read // _NEAREST_CACHE), 64)))
    return found


def _entries(contract: Contract, rows: int) -> int:
    flat = contract.weight.reshape(len(contract.weight) // rows, rows, -1)
    return int(numpy.count_nonzero((flat != 0).any(1)))


def _tiles(
    contract: Contract, grid: tuple[int, int], lanes: int, rows: int, registers: int, columns_per_vector: int
) -> Iterator[tuple[int, int]]:
    """Yield tiles that registers can hold, and that pooling divides."""
    down = across = 1
    if contract.pool is not None:
        _, down, across = contract.pool
        if columns_per_vector > 1:
            across = across // math.gcd(across, columns_per_vector)
    most = max((registers - 3 if rows == 1 else registers - 2 - rows // 2) // rows // lanes, 1)
    smallest = (down, across)
    for height in range(down, grid[0] + 1, down):
        for width in range(across, grid[1] + 1, across):
            even = columns_per_vector == 1 or grid[1] % width == 0  # singly, a vector beyond the row is another row's
            if even and (height * width <= most or (height, width) == smallest):
                yield height, width


def _cost(grid: tuple[int, int], tile: tuple[int, int], lanes: int, rows: int) -> float:
    """Return about how many cycles one entry of all lists costs, two loads and two multiply-adds a cycle.

    For each entry there is an address to be read and computed besides.
    """
    tiles = math.prod(-(-side // step) for side, step in zip(grid, tile, strict=True))
    vectors = math.prod(tile) * lanes
    busy = max(rows * vectors / 2, (vectors + rows) / 2)
    return tiles * (busy + 0.75)


def kernel(name: str, shape: Shape, variant: Variant, needs: Needs) -> str:
    """Return the C function of a kernel."""
    if variant == DOT:
        return _dot(name, shape, needs)
    return _Kernel(name, shape, variant, needs).text()


_HEAD = (
    "static void {name}(const int32_t *restrict starts, const {index} *restrict offsets, const real *restrict values,",
    "    const real *restrict bias, const real *restrict in, real *restrict out, const real *restrict add,",
    "    long groups, long first, long last)",
)


def _head(name: str, shape: Shape) -> list[str]:
    return [line.format(name=name, index="uint16_t" if shape.narrow else "int32_t") for line in _HEAD]


class _Kernel:
    def __init__(self, name: str, shape: Shape, variant: Variant, needs: Needs) -> None:
        self.name, self.shape, self.variant, self.needs = name, shape, variant, needs
        self.width = variant.width
        self.single = shape.mode.single
        self.lanes = 1 if self.single else shape.mode.block // self.width
        self.vec = f"vec{self.width}"
        self.memory = f"loose{self.width}" if self.single else self.vec
        needs.widths.add(self.width)
        # (row of the tile, column of the tile, lane)
        self.places = [
            (y, x, lane) for y in range(variant.tile[0]) for x in range(variant.tile[1]) for lane in range(self.lanes)
        ]
        self.across = self.width if self.single else 1  # columns in a vector

    def text(self) -> str:
        """Return the whole function."""
        write = Writer()
        write(*_head(self.name, self.shape))
        with write.block(""):
            write("(void)groups;")
            if self.shape.add_steps is None:
                write("(void)add;")
            if self.variant.parts > 1:
                with (
                    write.block(f"for (long cut = 0; cut < {self.variant.parts}; ++cut, starts += groups)"),
                    write.block("for (long group = first; group < last; ++group)"),
                    self._tiles(write),
                ):
                    self._tile(write)
            elif self.variant.outer == "tiles":
                with self._tiles(write), write.block("for (long group = first; group < last; ++group)"):
                    self._tile(write)
            else:
                with write.block("for (long group = first; group < last; ++group)"), self._tiles(write):
                    self._tile(write)
        return write.text()

    def _tiles(self, write: Writer) -> AbstractContextManager[None]:
        return _tile_loops(write, self.shape, self.variant, self.across)

    def _tile(self, write: Writer) -> None:
        write(f"const real *corner = in + {self._at('y', 'x', self.shape.in_steps)};")
        self._begin(write)
        self._entries(write)
        if self.variant.parts > 1:
            with write.block(f"if (cut < {self.variant.parts - 1})"):
                for row in range(self.variant.rows):
                    for i, place in enumerate(self.places):
                        write(f"*({self.memory} *)(out + {self._to(row, place)}) = {self._sum(row, i)};")
                write("continue;")
        for row in range(self.variant.rows):
            self._finish(write, row)

    def _begin(self, write: Writer) -> None:
        """Write where sums begin: with the bias, or with what an earlier part of the source came to."""
        count = len(self.places)
        for row in range(self.variant.rows):
            first = f"splat{self.width}(bias[{sum_of(times('group', self.variant.rows), row)}])"
            if self.variant.parts > 1:
                write(f"{self.vec} {', '.join(self._sum(row, i) for i in range(count))};")
                for i, place in enumerate(self.places):
                    again = f"*(const {self.memory} *)(out + {self._to(row, place)})"
                    write(f"if (cut == 0) {self._sum(row, i)} = {first}; else {self._sum(row, i)} = {again};")
            else:
                write(f"{self.vec} {', '.join(f'{self._sum(row, i)} = {first}' for i in range(count))};")
            for chain in range(1, self.variant.chains):
                write(f"{self.vec} {', '.join(f'{self._sum(row, i, chain)} = {{0}}' for i in range(count))};")

    def _entries(self, write: Writer) -> None:
        """Write the loop over a group's list, several entries at once where sums are split."""
        chains = self.variant.chains
        if chains == 1:
            with write.block("for (long k = starts[group]; k < starts[group + 1]; ++k)"):
                self._entry(write, 0)
            return
        write("long k = starts[group];", "const long stop = starts[group + 1];")
        with write.block(f"for (; k + {chains} <= stop; k += {chains})"):
            for chain in range(chains):
                with write.block(""):
                    self._entry(write, chain)
        with write.block("for (; k < stop; ++k)"):
            self._entry(write, 0)
        for row in range(self.variant.rows):
            for i in range(len(self.places)):
                write(" ".join(f"{self._sum(row, i)} += {self._sum(row, i, chain)};" for chain in range(1, chains)))

    def _entry(self, write: Writer, chain: int) -> None:
        """Write the multiply-adds of one entry, the one that is so many behind entry k."""
        rows = self.variant.rows
        entry = sum_of("k", chain)
        unit = f" * {self.shape.mode.block}" if self.shape.mode.block > 1 else ""
        write(f"const real *from = corner + offsets[{entry}]{unit};")
        entry = f"({entry})" if chain and rows > 1 else entry
        for row in range(rows):
            write(f"const {self.vec} w{row} = splat{self.width}(values[{sum_of(times(entry, rows), row)}]);")
        for i, place in enumerate(self.places):
            number = f"*(const {self.memory} *)({sum_of('from', self._step(place, self.shape.in_steps))})"
            if rows == 1:
                write(f"{self._sum(0, i, chain)} += w0 * {number};")
                continue
            write(f"const {self.vec} x{i} = {number};")
            write(" ".join(f"{self._sum(row, i, chain)} += w{row} * x{i};" for row in range(rows)))

    def _to(self, row: int, place: tuple[int, int, int]) -> str:
        """Return where an output is stored, without pooling."""
        down, right, channel = self.shape.out_steps
        output = sum_of(times("group", self.variant.rows), row)
        output = f"({output})" if "+" in output else output
        return sum_of(times("y", down), times("x", right), times(output, channel), self._step(place, (down, right)))

    def _finish(self, write: Writer, row: int) -> None:
        """Write what follows the sums of one output: residual, activation, pooling, storing."""
        shape = self.shape
        output = sum_of(times("group", self.variant.rows), row)
        output = f"({output})" if "+" in output else output
        for i, place in enumerate(self.places):
            if shape.add_steps is not None:
                down, right, channel = shape.add_steps
                start = sum_of(
                    times("y", down), times("x", right), times(output, channel), self._step(place, (down, right))
                )
                write(f"{self._sum(row, i)} += *(const {self.memory} *)(add + {start});")
            if shape.activation is not None:
                write(f"{self._sum(row, i)} = {self.needs.call(shape.activation, self._sum(row, i), self.width)};")
        down, right, channel = shape.out_steps
        if shape.pool is None:
            for i, place in enumerate(self.places):
                start = sum_of(
                    times("y", down), times("x", right), times(output, channel), self._step(place, (down, right))
                )
                write(f"*({self.memory} *)(out + {start}) = {self._masked(self._sum(row, i), place)};")
        elif self.single:
            self._pool_row(write, row, output)
        else:
            self._pool_block(write, row, output)

    def _masked(self, value: str, place: tuple[int, int, int]) -> str:
        """Return a vector with zeros beyond the row's end, where zeros have to be."""
        if not self.shape.masked:
            return value
        lanes = ", ".join(map(str, range(self.width)))
        here = sum_of("x", place[1] * self.width)
        limit = f"({self.needs.numbers.whole})({self.shape.masked} - ({here}))"
        return f"({self.vec})((mask{self.width}){value} & ((mask{self.width}){{{lanes}}} < {limit}))"

    def _pool_block(self, write: Writer, row: int, output: str) -> None:
        assert self.shape.pool is not None
        function, height, width = self.shape.pool
        down, right, channel = self.shape.out_steps
        for y in range(0, self.variant.tile[0], height):
            for x in range(0, self.variant.tile[1], width):
                for lane in range(self.lanes):
                    window = [
                        self._sum(row, self.places.index((y + i, x + j, lane)))
                        for i in range(height)
                        for j in range(width)
                    ]
                    step = y // height * down + x // width * right + lane * self.width
                    start = sum_of(f"y / {height} * {down}", f"x / {width} * {right}", times(output, channel), step)
                    write(f"*({self.memory} *)(out + {start}) = {self._pooled(function, window)};")

    def _pool_row(self, write: Writer, row: int, output: str) -> None:
        """Pool down in vectors, then across number by number."""
        assert self.shape.pool is not None
        function, height, width = self.shape.pool
        down, _, channel = self.shape.out_steps
        columns = self.variant.tile[1] * self.width
        for y in range(0, self.variant.tile[0], height):
            with write.block(""):
                write(f"real line[{columns}] __attribute__((aligned(64)));")
                for x in range(self.variant.tile[1]):
                    window = [self._sum(row, self.places.index((y + i, x, 0))) for i in range(height)]
                    write(f"*({self.memory} *)(line + {x * self.width}) = {self._pooled(function, window, width)};")
                limit = self.shape.grid[1] // width
                write(f"const long room = {limit} - x / {width};")
                write(f"const long count = room < {columns // width} ? room : {columns // width};")
                start = sum_of(f"(y / {height} + {y // height}) * {down}", f"x / {width}", times(output, channel))
                write(f"real *to = out + {start};")
                inner = f"line[i * {width}]"
                for j in range(1, width):
                    other = f"line[i * {width} + {j}]"
                    inner = f"larger1({inner}, {other})" if function == "max" else f"{inner} + {other}"
                write(f"for (long i = 0; i < count; ++i) to[i] = {inner};")

    def _pooled(self, function: str, window: list[str], also: int = 1) -> str:
        """Return the maximum or the average of vectors; `also` divides an average that is summed up further."""
        found = window[0]
        for other in window[1:]:
            found = f"larger{self.width}({found}, {other})" if function == "max" else f"{found} + {other}"
        if function == "max":
            return found
        return f"({found}) * {self.needs.numbers.constant(1 / (len(window) * also))}"

    def _sum(self, row: int, place: int, chain: int = 0) -> str:
        return f"sum{row}_{place}" + (f"_{chain}" if chain else "")

    def _at(self, y: str, x: str, steps: tuple[int, int]) -> str:
        return sum_of(times(y, steps[0]), times(x, steps[1]))

    def _step(self, place: tuple[int, int, int], steps: tuple[int, int]) -> int:
        y, x, lane = place
        return y * steps[0] + x * self.across * steps[1] + lane * self.width


@contextmanager
def _tile_loops(write: Writer, shape: Shape, variant: Variant, across: int) -> Iterator[None]:
    """Write loops over tiles; the last of a row or column lies over the one before where they don't come out even."""
    axes = (
        ("y", shape.grid[0], variant.tile[0], False),
        ("x", shape.grid[1], variant.tile[1] * across, across > 1),
    )
    with ExitStack() as stack:
        for name, side, step, beyond in axes:
            count = -(-side // step)
            if count == 1 or beyond or side % step == 0:
                most = 1 if count == 1 else side
                stack.enter_context(write.block(f"for (long {name} = 0; {name} < {most}; {name} += {step})"))
            else:
                head = f"for (long {name}_tile = 0; {name}_tile < {count}; ++{name}_tile)"
                stack.enter_context(write.block(head))
                write(f"const long {name} = {name}_tile < {count - 1} ? {name}_tile * {step} : {side - step};")
        yield


def _dot(name: str, shape: Shape, needs: Needs) -> str:
    """Return a kernel that sums up one output after the other, in four sums that don't wait for each other."""
    write = Writer()
    write(*_head(name, shape))
    down, right = shape.in_steps
    with write.block(""):
        write("(void)groups;")
        if shape.add_steps is None:
            write("(void)add;")
        with (
            write.block("for (long group = first; group < last; ++group)"),
            write.loops(("y", "x"), shape.grid),
        ):
            write(f"const real *corner = in + {sum_of(times('y', down), times('x', right))};")
            write("real sum0 = bias[group], sum1 = 0, sum2 = 0, sum3 = 0;", "long k = starts[group];")
            write("const long stop = starts[group + 1];")
            with write.block("for (; k + 4 <= stop; k += 4)"):
                write(*(f"sum{i} += values[k + {i}] * corner[offsets[k + {i}]];" for i in range(4)))
            write("for (; k < stop; ++k) sum0 += values[k] * corner[offsets[k]];")
            write("real sum = (sum0 + sum1) + (sum2 + sum3);")
            if shape.add_steps is not None:
                y, x, channel = shape.add_steps
                write(f"sum += add[{sum_of(times('y', y), times('x', x), times('group', channel))}];")
            if shape.activation is not None:
                write(f"sum = {needs.call(shape.activation, 'sum', 1)};")
            y, x, channel = shape.out_steps
            write(f"out[{sum_of(times('y', y), times('x', x), times('group', channel))}] = sum;")
    return write.text()


def weights(contract: Contract, plan: Plan, variant: Variant, constants: Constants, dtype: type) -> list[int]:
    """Put a contraction's arrays among the constants; return where starts, offsets, values and bias lie."""
    found = lists(contract, plan, variant)
    offsets = found.offsets.astype(numpy.uint16 if _is_narrow(contract, plan) else numpy.int32)
    values: Any = found.values.astype(dtype)
    bias: Any = contract.bias.astype(dtype)
    return [constants.add(array) for array in (found.starts, offsets, values, bias)]
