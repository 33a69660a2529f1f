"""Kernels of convolutions and linear layers: weights that are not zero, each times a tile of outputs in registers.

A kernel takes the outputs in groups of `rows` neighbours. For each group there is a list of the inputs that any of them
has a weight for (with one row, only weights that are not zero): where the input lies relative to the output, and the
weights. For each entry of the list, each vector of the tile is one multiply-add for each row, over memory that lies in
order whatever the kernel's size and stride. Groups of one skip every zero; groups of several share what they read,
which pays where few weights are zero.

Constant is only what the inner loop needs: the tile, the vector, the step between its vectors, the type of the lists'
places. Everything else, such as sizes and where arrays lie, is an argument.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prunus.compiling.kernels.numbers import Numbers
from prunus.compiling.kernels.writing import Writer, sum_of, times
from prunus.compiling.net import Pointwise

# What follows a sum while it is in a register: activations by their number, in the order of `ACTIVATIONS`.
_MORE = {"clamp": ", low, high", "leaky_relu": ", low", "elu": ", low"}  # what they take besides a sum
ACTIVATIONS = (
    *("", "relu", "clamp", "leaky_relu", "hardswish", "hardsigmoid", "silu", "sigmoid", "tanh", "gelu", "gelu_tanh"),
    *("elu", "mish", "softplus"),
)
RELU = 1
_USED = list(enumerate(ACTIVATIONS))[RELU:]
# Maximum and average of windows of 2x2: of vectors that hold the same element of several samples (`blocks`), or of
# neighbours of a row (`row`).
POOLS = ("", "max blocks", "avg blocks", "max row", "avg row")
MAX_BLOCKS = 1
POOL_SIDE = 2
# Where zeros have to lie beyond the ends of rows: by the room to a row's end, or by a mask for a plane that is one row.
MASKED_ALONG = 2
# Small tiles split each output into several sums, so that one multiply-add doesn't wait for the one before; all of
# them together are at most so many vectors.
_MOST_CHAINED = 8
# Rows of the source that are read from one pointer: an address adds once or twice the pitch by itself.
_APART = 3
# Tiles of up to so many vectors are those of matrices.
_FEW = 4
# Places of 16 bits pay where reading the lists is much of the work: for tiles of up to so many vectors.
SMALL = 8


@dataclass(frozen=True, order=True)
class Tile:
    """What is constant in a kernel.

    Attributes:
        width: numbers in a vector.
        rows: outputs computed together.
        height, across: rows of the tile, and vectors in each.
        step: vectors from one vector of a row to the next in the source.
        narrow: whether places in lists have 16 bits, else 32.
        cut: whether the source is cut into parts, each small enough for the nearest cache: outputs are begun with the
            first and taken up again with each further one.
    """

    width: int
    rows: int
    height: int
    across: int
    step: int
    narrow: bool
    cut: bool = False

    @property
    def name(self) -> str:
        """What the kernel is called."""
        kind = "narrow" if self.narrow else "wide"
        cut = "_cut" if self.cut else ""
        return f"contract{self.width}_{self.rows}_{self.height}x{self.across}_{self.step}_{kind}{cut}"


def tiles(width: int, vector: int, registers: int) -> Iterator[tuple[int, int, int]]:
    """Yield (rows, height, across) of the tiles there are kernels for, for vectors of so many numbers.

    A tile that fills the registers does the most multiply-adds for each weight it reads; smaller ones are for small
    outputs, whose rows they divide.
    """
    for rows in (1, 2, 4):
        most = largest_tile(rows, registers)
        for height, across in _SHAPES:
            if height * across <= most and (width == vector or across == 1):
                yield rows, height, across


def largest_tile(rows: int, registers: int) -> int:
    """Return how many vectors of each output the registers hold, beside what is read and its weights."""
    return max((registers - 3 if rows == 1 else registers - 2 - rows // 2) // rows, 1)


_SHAPES = [
    *((1, across) for across in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28)),
    *((2, across) for across in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)),
    *((3, across) for across in (1, 2, 3, 4, 5, 6, 7, 8)),
    *((4, across) for across in (1, 2, 3, 4, 5, 6, 7)),
    *((5, across) for across in (1, 2, 3, 4, 5)),
    *((6, across) for across in (1, 2, 3, 4)),
    *((7, across) for across in (1, 2, 3, 4)),
    *((8, across) for across in (1, 2, 3)),
    *((height, across) for height in (10, 12, 14) for across in (1, 2)),
    *((height, 1) for height in (16, 20, 24, 28)),
]


def kernels(vector: int, registers: int) -> list[Tile]:
    """Return what is constant in each kernel for vector registers of so many numbers.

    Strides of two are taken in blocks of samples only, whose vectors are whole registers; other strides in tiles one
    vector across, for which any step is the same.
    """
    offered = []
    for width in widths(vector):
        for rows, height, across in tiles(width, vector, registers):
            small = rows * height * across <= SMALL
            for narrow in (True, False) if small else (False,):
                offered.append(Tile(width, rows, height, across, 1, narrow))
                if width == vector and across > 1 and rows < 4:
                    offered.append(Tile(width, rows, height, across, 2, narrow))
                if width == vector and height == 1 and across in (1, 2, 4):
                    offered.append(Tile(width, rows, height, across, 1, narrow, cut=True))
    return offered


def widths(vector: int) -> list[int]:
    """Return the sizes of vectors that kernels are built for: short rows need no whole register.

    >>> widths(16), widths(4), widths(2)
    ([16, 8, 4], [4], [2])
    """
    return [vector >> halvings for halvings in range(3) if halvings == 0 or vector >> halvings >= 4]


def text(tile: Tile, numbers: Numbers, registers: int) -> str:
    """Return the C of a kernel."""
    return _Kernel(tile, numbers, registers).text()


def kernel_activation(pointwise: Pointwise) -> tuple[str, tuple[float, ...]]:
    """Return an activation as kernels of contractions know it, with its constants; nothing where they don't.

    >>> kernel_activation(Pointwise("relu6")), kernel_activation(Pointwise("sqrt"))
    (('clamp', (0.0, 6.0)), ('', ()))
    """
    if pointwise.function == "relu6":
        return "clamp", (0.0, 6.0)
    return (pointwise.function, pointwise.constants) if pointwise.function in ACTIVATIONS else ("", ())


def finish(numbers: Numbers, width: int) -> str:
    """Return the C function that does with sums what is less usual: it is given them output by output, row by row."""
    quarter, half = numbers.constant(1 / POOL_SIDE**2), numbers.constant(1 / POOL_SIDE)
    activate = activated(width, "for (long i = 0; i < count; ++i) sums[i]", "sums[i]")
    return _FINISH.format(n=width, quarter=quarter, half=half, activate="\n    ".join(activate))


def activated(width: int, to: str, of: str) -> list[str]:
    """Return the lines that apply the activation of `a` to a sum, given `low` and `high`."""
    cases = [f"case {number}: {to} = {name}{width}({of}{_MORE.get(name, '')}); break;" for number, name in _USED]
    return ["switch (a->activation) {", *cases, "}"]


_FINISH = """
static __attribute__((noinline, unused)) void finish{n}(
    const contraction *a, vec{n} *sums, long rows, long height, long across, long room, real *to, const real *plus,
    const real *mask)
{{
    const long count = rows * height * across;
    const real low = a->low, high = a->high;
    if (plus)
        for (long i = 0; i < count; ++i) {{
            const real *at = plus + i / (height * across) * a->residual_channel;
            at += i / across % height * a->residual_down + i % across * a->residual_right;
            sums[i] += *(const loose{n} *)at;
        }}
    {activate}
    const int most = a->pool == 1 || a->pool == 3;
    real line[{n}] __attribute__((aligned(64)));
    for (long row = 0; row < rows; ++row, to += a->output_channel)
        for (long y = 0; y < height; y += a->pool ? 2 : 1) {{
            const vec{n} *one = sums + (row * height + y) * across, *other = one + across;
            real *line_to = to + (a->pool ? y / 2 : y) * a->output_down;
            if (a->pool == 0) {{
                for (long x = 0; x < across; ++x) {{
                    vec{n} value = one[x];
                    if (mask) value = (vec{n})((mask{n})value & (mask{n})*(const loose{n} *)(mask + x * {n}));
                    else if (a->masked) for (long i = 0; i < {n}; ++i) if (x * {n} + i >= room) value[i] = 0;
                    *(loose{n} *)(line_to + x * {n}) = value;
                }}
            }} else if (a->pool < 3) {{
                for (long x = 0; x < across; x += 2) {{
                    vec{n} all = (one[x] + one[x + 1] + other[x] + other[x + 1]) * {quarter};
                    if (most) all = larger{n}(larger{n}(larger{n}(one[x], one[x + 1]), other[x]), other[x + 1]);
                    *(loose{n} *)(line_to + x / 2 * {n}) = all;
                }}
            }} else {{
                for (long x = 0; x < across; ++x) {{
                    vec{n} both = (one[x] + other[x]) * {half};
                    if (most) both = larger{n}(one[x], other[x]);
                    *(vec{n} *)line = both;
                    real pairs[{n} / 2];
                    if (most) for (int i = 0; i < {n} / 2; ++i) pairs[i] = larger1(line[2 * i], line[2 * i + 1]);
                    else for (int i = 0; i < {n} / 2; ++i) pairs[i] = (line[2 * i] + line[2 * i + 1]) * {half};
                    const long left = room - x * {n} / 2;
                    if (left >= {n} / 2) __builtin_memcpy(line_to + x * {n} / 2, pairs, sizeof pairs);
                    else for (long i = 0; i < left; ++i) line_to[x * {n} / 2 + i] = pairs[i];
                }}
            }}
        }}
}}
"""


_MASK = f"masked == {MASKED_ALONG} ? mask + tile->output : 0"
HEAD = "void {name}(const prunus_frame *frame, const contraction *a, long part, long parts)"
_ARRAYS = (
    "const int32_t *restrict starts = CONSTANTS(int32_t, starts_at);",
    "const {place}_t *restrict offsets = CONSTANTS({place}_t, offsets_at);",
    "const real *restrict values = CONSTANTS(real, values_at), *restrict bias = CONSTANTS(real, bias_at);",
    "const contraction_tile *restrict tiles = CONSTANTS(contraction_tile, tiles_at);",
    "const real *restrict in = WORK + a->source, *restrict add = WORK + a->residual;",
    "real *restrict out = WORK + a->output;",
    "const real *const mask = CONSTANTS(real, mask_at);",
    "const long first = a->groups * part / parts, last = a->groups * (part + 1) / parts;",
    "const long output_channel = a->output_channel, has_residual = a->has_residual, activation = a->activation;",
    "const long residual_channel = a->residual_channel, tile_count = a->tiles;",
)


def arrays(narrow: bool) -> list[str]:
    """Return the lines with which every kernel of a contraction begins: its arrays by name."""
    return [line.format(place="uint16" if narrow else "int32") for line in _ARRAYS]


class _Kernel:
    def __init__(self, tile: Tile, numbers: Numbers, registers: int) -> None:
        self.tile, self.numbers = tile, numbers
        self.vec, self.loose = f"vec{tile.width}", f"loose{tile.width}"
        self.places = [(y, x) for y in range(tile.height) for x in range(tile.across)]
        self.chains = 1
        while self.chains * 2 * tile.rows * len(self.places) <= min(registers // 2, _MOST_CHAINED):
            self.chains *= 2

    def text(self) -> str:
        write = Writer()
        with write.block(HEAD.format(name=self.tile.name)):
            write(*arrays(self.tile.narrow), "const long down = a->down, output_down = a->output_down;")
            write(f"const long down{_APART} = {_APART} * down;" if self.tile.height > _APART else "")
            write("const long by_outputs = a->by_outputs != 0, pool = a->pool, masked = a->masked;")
            write(f"const long unusual = activation > {RELU} || pool, special = unusual || has_residual || masked;")
            write("const long outer = by_outputs ? last - first : tile_count;")
            write("const long inner = by_outputs ? tile_count : last - first;")
            cuts = "for (long cut = 0; cut < a->cuts; ++cut, starts += a->groups)" if self.tile.cut else ""
            with (
                write.block(cuts),
                write.block("for (long i = 0; i < outer; ++i)"),
                self._inner_loop(write),
            ):
                write("const real *corner = in + tile->source;")
                write(f"real *to = out + tile->output + group * {self.tile.rows} * output_channel;")
                self._begin(write)
                self._entries(write)
                if self.tile.cut:
                    with write.block("if (cut < a->cuts - 1)"):
                        for row in range(self.tile.rows):
                            self._store(write, row)
                        write("continue;")
                self._finish(write)
        return write.text()

    @contextmanager
    def _inner_loop(self, write: Writer) -> Iterator[None]:
        """Loop over groups for one tile, or over tiles for one group."""
        write("long group = first + (by_outputs ? i : 0);")
        write("const contraction_tile *tile = tiles + (by_outputs ? 0 : i);")
        with write.block("for (long j = 0; j < inner; ++j, group += !by_outputs, tile += by_outputs)"):
            yield

    def _begin(self, write: Writer) -> None:
        """Write where sums begin: with the bias, or with what an earlier part of the source came to."""
        for row in range(self.tile.rows):
            first = f"splat{self.tile.width}(bias[{sum_of(times('group', self.tile.rows), row)}])"
            write(f"{self.vec} {', '.join(f'{self._sum(row, i)} = {first}' for i in range(len(self.places)))};")
            if self.tile.cut:
                again = " ".join(
                    f"{self._sum(row, i)} = *(const {self.loose} *)({self._to(row, place)});"
                    for i, place in enumerate(self.places)
                )
                write(f"if (cut) {{ {again} }}")
            for chain in range(1, self.chains):
                write(
                    f"{self.vec} {', '.join(f'{self._sum(row, i, chain)} = {{0}}' for i in range(len(self.places)))};"
                )

    def _entries(self, write: Writer) -> None:
        """Write the loop over a group's list, several entries at once where sums are split."""
        write("long k = starts[group];", "const long stop = starts[group + 1];")
        if self.chains > 1:
            with write.block(f"for (; k + {self.chains} <= stop; k += {self.chains})"):
                for chain in range(self.chains):
                    with write.block(""):
                        self._entry(write, chain)
        with write.block("for (; k < stop; ++k)"):
            self._entry(write, 0)
        for row in range(self.tile.rows if self.chains > 1 else 0):
            for i in range(len(self.places)):
                write(" ".join(f"{self._sum(row, i)} += {self._sum(row, i, c)};" for c in range(1, self.chains)))

    def _entry(self, write: Writer, chain: int) -> None:
        """Write the multiply-adds of one entry, the one that is so many behind entry k."""
        rows, width, entry = self.tile.rows, self.tile.width, sum_of("k", chain)
        write(f"const real *from0 = corner + offsets[{entry}];")
        every = 1 if self.tile.across > 1 else _APART
        for y in range(every, self.tile.height, every):
            write(f"const real *from{y} = from{y - every} + {'down' if every == 1 else f'down{_APART}'};")
            write(f"OPAQUE(from{y});")
        for row in range(rows):
            write(f"const {self.vec} w{row} = splat{width}(values[{sum_of(times(f'({entry})', rows), row)}]);")
        for i, (y, x) in enumerate(self.places):
            near = sum_of(f"from{y // every * every}", times("down", y % every), x * self.tile.step * width)
            if rows == 1:
                write(f"{self._sum(0, i, chain)} += w0 * *(const {self.loose} *)({near});")
                continue
            write(f"{self.vec} x{i} = *(const {self.loose} *)({near});", f"LOADED(x{i});")
            write(" ".join(f"{self._sum(row, i, chain)} += w{row} * x{i};" for row in range(rows)))

    def _finish(self, write: Writer) -> None:
        """Write what follows the sums: the usual while they are in registers, the rest by `finish`."""
        tile = self.tile
        sums = [self._sum(row, i) for row in range(tile.rows) for i in range(len(self.places))]
        relu = f"if (activation == {RELU}) {{ {' '.join(f'{name} = relu{tile.width}({name});' for name in sums)} }}"
        with write.block("if (special)"):
            if len(sums) <= _FEW:
                self._apart(write, sums)
            else:
                self._special(write, sums, relu)
        write(f"else {relu}")
        for row in range(tile.rows):
            self._store(write, row)

    def _apart(self, write: Writer, sums: list[str]) -> None:
        """Leave all that is less usual to `finish`: a matrix does little for each output, and needs its registers."""
        tile = self.tile
        write(f"const real *plus = add + tile->residual + group * {tile.rows} * residual_channel;")
        write(f"{self.vec} sums[] = {{{', '.join(sums)}}};")
        where = f"tile->room, to, has_residual ? plus : 0, {_MASK}"
        write(f"finish{tile.width}(a, sums, {tile.rows}, {tile.height}, {tile.across}, {where});", "continue;")

    def _special(self, write: Writer, sums: list[str], relu: str) -> None:
        tile = self.tile
        with write.block("if (has_residual)"):
            write(f"const real *plus = add + tile->residual + group * {tile.rows} * residual_channel;")
            for row in range(tile.rows):
                for i, (y, x) in enumerate(self.places):
                    steps = times("residual_channel", row), times("a->residual_down", y), times("a->residual_right", x)
                    write(f"{self._sum(row, i)} += *(const {self.loose} *)({sum_of('plus', *steps)});")
        write(relu)
        if not tile.cut and tile.height % POOL_SIDE == tile.across % POOL_SIDE == 0:
            with write.block(f"if (pool == {MAX_BLOCKS} && !(activation > {RELU}))"):
                for row in range(tile.rows):
                    self._pool_block(write, row)
                write("continue;")
        with write.block("if (unusual)"):
            write(f"{self.vec} sums[] = {{{', '.join(sums)}}};")
            write(
                f"finish{tile.width}(a, sums, {tile.rows}, {tile.height}, {tile.across}, tile->room, to, 0, {_MASK});",
                "continue;",
            )
        if tile.height == 1:
            with write.block(f"if (masked == {MASKED_ALONG})"):
                write("const real *ones = mask + tile->output;")
                for row in range(tile.rows):
                    for i in range(len(self.places)):
                        name, ones = self._sum(row, i), f"*(const {self.loose} *)(ones + {i * tile.width})"
                        write(f"{name} = ({self.vec})((mask{tile.width}){name} & (mask{tile.width}){ones});")
        with write.block(f"{'else ' if tile.height == 1 else ''}if (masked)"):
            lanes = ", ".join(map(str, range(tile.width)))
            write(f"const mask{tile.width} lanes = {{{lanes}}};")
            for row in range(tile.rows):
                for i, (_, x) in enumerate(self.places):
                    limit = f"({self.numbers.whole})(tile->room - {x * tile.width})"
                    name = self._sum(row, i)
                    write(f"{name} = ({self.vec})((mask{tile.width}){name} & (lanes < {limit}));")

    def _store(self, write: Writer, row: int) -> None:
        tile = self.tile
        values = [[self._at(row, y, x) for x in range(tile.across)] for y in range(tile.height)]
        self._store_rows(write, row, values)

    def _store_rows(self, write: Writer, row: int, values: list[list[str]]) -> None:
        """Write an output's rows of vectors, each behind a pointer of its own."""
        with write.block(""):
            write(f"real *at = {sum_of('to', times('output_channel', row))};")
            for y, line in enumerate(values):
                write("at += output_down;" if y else "", "OPAQUE(at);")
                write(*(f"*({self.loose} *)({sum_of('at', x * self.tile.width)}) = {v};" for x, v in enumerate(line)))

    def _to(self, row: int, place: tuple[int, int]) -> str:
        y, x = place
        return sum_of("to", times("output_channel", row), times("output_down", y), x * self.tile.width)

    def _pool_block(self, write: Writer, row: int) -> None:
        tile, larger = self.tile, f"larger{self.tile.width}"

        def pooled(y: int, x: int) -> str:
            first, *others = [self._at(row, y + i, x + j) for i in range(POOL_SIDE) for j in range(POOL_SIDE)]
            return functools.reduce(lambda value, other: f"{larger}({value}, {other})", others, first)

        rows, columns = range(0, tile.height, POOL_SIDE), range(0, tile.across, POOL_SIDE)
        self._store_rows(write, row, [[pooled(y, x) for x in columns] for y in rows])

    def _at(self, row: int, y: int, x: int) -> str:
        return self._sum(row, self.places.index((y, x)))

    def _sum(self, row: int, place: int, chain: int = 0) -> str:
        return f"sum{row}_{place}" + (f"_{chain}" if chain else "")
