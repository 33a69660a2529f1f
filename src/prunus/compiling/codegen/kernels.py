"""Kernels of contractions: weights that are not zero, each times a tile of outputs held in registers.

A kernel takes the outputs in groups of `rows` neighbours. For each group there is a list of what any of them has a
weight for (so with one row, only weights that are not zero): where it lies relative to the output, and the weights.
Per entry of the list, each vector of the tile is one multiply-add for each row, over memory that lies in order whatever
the kernel's size and stride. Groups of one skip every zero; groups of several share what they read, which pays where
few weights are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from prunus.compiling.codegen.kernel_shapes import Shape, head
from prunus.compiling.codegen.rows import by_columns, by_numbers
from prunus.compiling.codegen.variants import DOT, Variant
from prunus.compiling.codegen.writing import Needs, Writer, sum_of, times


def kernel(name: str, shape: Shape, variant: Variant, needs: Needs) -> str:
    """Return the C function of a kernel."""
    if variant == DOT:
        return by_numbers(name, shape, needs)
    if variant.outer == "columns":
        return by_columns(name, shape, variant, needs)
    return _Kernel(name, shape, variant, needs).text()


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
        write(*head(self.name, self.shape))
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
        return self._beside(row, place, self.shape.out_steps)

    def _beside(self, row: int, place: tuple[int, int, int], steps: tuple[int, int, int]) -> str:
        """Return where an output lies in an array that has such steps down, to the right, and to the next output."""
        down, right, channel = steps
        across = self._step(place, (down, right))
        return sum_of(times("y", down), times("x", right), times(self._output(row), channel), across)

    def _output(self, row: int) -> str:
        output = sum_of(times("group", self.variant.rows), row)
        return f"({output})" if "+" in output else output

    def _finish(self, write: Writer, row: int) -> None:
        """Write what follows the sums of one output: residual, activation, pooling, storing."""
        shape = self.shape
        for i, place in enumerate(self.places):
            if shape.add_steps is not None:
                start = self._beside(row, place, shape.add_steps)
                write(f"{self._sum(row, i)} += *(const {self.memory} *)(add + {start});")
            if shape.activation is not None:
                write(f"{self._sum(row, i)} = {self.needs.call(shape.activation, self._sum(row, i), self.width)};")
        if shape.pool is None:
            for i, place in enumerate(self.places):
                write(f"*({self.memory} *)(out + {self._to(row, place)}) = {self._masked(self._sum(row, i), place)};")
        elif self.single:
            self._pool_row(write, row)
        else:
            self._pool_block(write, row)

    def _masked(self, value: str, place: tuple[int, int, int]) -> str:
        """Return a vector with zeros beyond the row's end, where zeros have to be."""
        if not self.shape.masked:
            return value
        lanes = ", ".join(map(str, range(self.width)))
        here = sum_of("x", place[1] * self.width)
        limit = f"({self.needs.numbers.whole})({self.shape.masked} - ({here}))"
        return f"({self.vec})((mask{self.width}){value} & ((mask{self.width}){{{lanes}}} < {limit}))"

    def _pool_block(self, write: Writer, row: int) -> None:
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
                    start = sum_of(
                        f"y / {height} * {down}", f"x / {width} * {right}", times(self._output(row), channel), step
                    )
                    write(f"*({self.memory} *)(out + {start}) = {self._pooled(function, window)};")

    def _pool_row(self, write: Writer, row: int) -> None:
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
                start = sum_of(
                    f"(y / {height} + {y // height}) * {down}", f"x / {width}", times(self._output(row), channel)
                )
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
