"""Kernels of contractions of 8 bits: words of four weights, each times the four channels of a word of every place.

One instruction, or three where a processor has no other, multiplies the four channels of each place in a vector by the
four weights of a word and adds the products to the sums of that place. Four outputs are summed up one after the other,
each by its own list of words that are not zero; then their sums are scaled, rounded and put together to words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from prunus.compiling.kernels.contraction import MASKED_ALONG, activated
from prunus.compiling.kernels.writing import Writer, sum_of, times

# Registers of a tile that hold no sums: what is read, its weights, ones and a product.
_OTHERS = 4
# Small tiles split each output into several sums: all of them are at most so many vectors.
_MOST_CHAINED = 8
# Vectors of a row that a depthwise convolution computes together: they share what is read of the weights.
DEPTHWISE_ACROSS = (1, 2, 4)
_SHAPES = (
    *((1, across) for across in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28)),
    *((2, across) for across in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)),
    *((height, across) for height in (3, 4, 5, 6, 7) for across in (1, 2, 3, 4)),
    *((height, across) for height in (8, 10, 12, 14) for across in (1, 2)),
)


@dataclass(frozen=True, order=True)
class WordTile:
    """What is constant in a kernel.

    Attributes:
        height, across: rows of the tile, and vectors in each.
        step: vectors from one vector of a row to the next in the source.
    """

    height: int
    across: int
    step: int

    @property
    def name(self) -> str:
        """What the kernel is called."""
        return f"words_{self.height}x{self.across}_{self.step}"


def shapes(registers: int) -> Iterator[tuple[int, int]]:
    """Yield rows and vectors of a row of the tiles there are kernels for."""
    yield from (shape for shape in _SHAPES if shape[0] * shape[1] <= registers - _OTHERS)


def kernels(registers: int) -> list[WordTile]:
    """Return what is constant in each kernel; strides of two are taken in blocks of samples only."""
    return [WordTile(*shape, step) for shape in shapes(registers) for step in ((1, 2) if shape[1] > 1 else (1,))]


def head(vector: int) -> str:
    """Return the C of vectors of words, their products, and what follows a sum, for vectors of so many words."""
    text = resources.files(__package__).joinpath("words.h").read_text(encoding="utf-8")
    activate = activated(vector, "for (long i = 0; i < count; ++i) reals[i]", "reals[i]")
    lines = "\n    ".join(activate)
    for name in ("hardsigmoid", "hardswish"):
        lines = lines.replace(f"{name}{vector}(", f"{name}_within(")
    return text.replace("ACTIVATE", lines).replace("WIDTH", str(vector))


def others(vector: int) -> str:
    """Return the C of all kernels of words that have no tile."""
    files = (resources.files(__package__).joinpath(name) for name in ("words.c", "planes.c"))
    return "".join(file.read_text(encoding="utf-8") for file in files).replace("WIDTH", str(vector))


_HEAD = "void {name}(const prunus_frame *frame, const quantized *a, long part, long parts)"
_ARRAYS = (
    "const int32_t *restrict starts = CONSTANTS(int32_t, starts_at);",
    "const int32_t *restrict offsets = CONSTANTS(int32_t, offsets_at);",
    "const int32_t *restrict values = CONSTANTS(int32_t, values_at), *restrict bias = CONSTANTS(int32_t, bias_at);",
    "const float *restrict factors = CONSTANTS(float, factors_at);",
    "const contraction_tile *restrict tiles = CONSTANTS(contraction_tile, tiles_at);",
    "const int32_t *restrict in = (const int32_t *)frame->work + a->source;",
    "int32_t *restrict out = (int32_t *)frame->work + a->output;",
    "const int32_t *restrict add = (const int32_t *)frame->work + a->residual;",
    "const long first = a->groups * part / parts, last = a->groups * (part + 1) / parts;",
    "const long output_channel = a->output_channel, residual_channel = a->residual_channel, tile_count = a->tiles;",
    "const long in_words = a->in_words;",
    "const long group_channels = in_words ? 1 : 4;",
)


def tiled(tile: WordTile, vector: int) -> str:
    """Return the C of a kernel for vectors of so many words."""
    write = Writer()
    places = [(y, x) for y in range(tile.height) for x in range(tile.across)]
    count = len(places)
    with write.block(_HEAD.format(name=tile.name)):
        write(*_ARRAYS, "const long down = a->down, output_down = a->output_down, masked = a->masked;")
        write("const int32_t *const mask = CONSTANTS(int32_t, mask_at);")
        write("const ints padding = ints_of(a->padding);")
        write("const long by_outputs = a->by_outputs != 0, outer = by_outputs ? last - first : tile_count;")
        write("const long inner = by_outputs ? tile_count : last - first;")
        with write.block("for (long i = 0; i < outer; ++i)"):
            write("long group = first + (by_outputs ? i : 0);")
            write("const contraction_tile *tile = tiles + (by_outputs ? 0 : i);")
            with write.block("for (long j = 0; j < inner; ++j, group += !by_outputs, tile += by_outputs)"):
                write("const int32_t *corner = in + tile->source;")
                write("int32_t *to = out + tile->output + group * group_channels * output_channel;")
                write(f"ints whole[4][{count}];")
                write("const long outputs = 4 * group + 4 < a->outputs ? 4 : a->outputs - 4 * group;")
                with write.block("for (long q = 0; q < outputs; ++q)"):
                    _output(write, tile, places, vector)
                write("if (!in_words) continue;")
                _words(write, places, vector)
    return write.text()


def _output(write: Writer, tile: WordTile, places: list[tuple[int, int]], vector: int) -> None:
    """Write the sums of one output, and what they come to."""
    count, chains = len(places), 1
    while chains * 2 * count <= _MOST_CHAINED:
        chains *= 2
    write("const long output = 4 * group + q;", "const ints begin = ints_of(bias[output]);")
    write(f"ints {', '.join(f'sum{i} = begin' for i in range(count))};")
    for chain in range(1, chains):
        write(f"ints {', '.join(f'sum{i}_{chain} = {{0}}' for i in range(count))};")
    write("long k = starts[output];", "const long stop = starts[output + 1];")
    if chains > 1:
        with write.block(f"for (; k + {chains} <= stop; k += {chains})"):
            for chain in range(chains):
                with write.block(""):
                    _entry(write, tile, places, vector, chain)
    with write.block("for (; k < stop; ++k)"):
        _entry(write, tile, places, vector, 0)
    for i in range(count if chains > 1 else 0):
        write(" ".join(f"sum{i} += sum{i}_{chain};" for chain in range(1, chains)))
    write("const vec factor = SPLAT(factors[output]);")
    write(*(f"vec real{i} = __builtin_convertvector(sum{i}, vec) * factor;" for i in range(count)))
    with write.block("if (a->has_residual)"):
        write("const int32_t *plus = add + tile->residual + group * residual_channel;")
        for i, (y, x) in enumerate(places):
            at = sum_of("plus", times("a->residual_down", y), times("a->residual_right", x))
            write(f"real{i} = real{i} + residual_of(a, *(const loose_ints *)({at}), q);")
    with write.block("if (a->activation)"):
        write(f"vec reals[] = {{{', '.join(f'real{i}' for i in range(count))}}};")
        write(f"activate_words(a, reals, {count});")
        write(*(f"real{i} = reals[{i}];" for i in range(count)))
    with write.block("if (!in_words)"):
        for i, (y, x) in enumerate(places):
            at = sum_of("to", "q * output_channel", times("output_down", y), x * vector)
            with write.block(""):
                write(f"ints value = (ints)real{i};", f"MASKED(value, {x * vector});")
                write(f"*(loose_ints *)({at}) = value;")
        write("continue;")
    write(*(f"whole[q][{i}] = whole_of(real{i});" for i in range(count)))


def _entry(write: Writer, tile: WordTile, places: list[tuple[int, int]], vector: int, chain: int) -> None:
    entry, suffix = sum_of("k", chain), f"_{chain}" if chain else ""
    write(f"const int32_t *from0 = corner + offsets[{entry}];")
    for y in range(1, tile.height):
        write(f"const int32_t *from{y} = from{y - 1} + down;", f"OPAQUE(from{y});")
    write(f"const ints w = ints_of(values[{entry}]);")
    for i, (y, x) in enumerate(places):
        near = sum_of(f"from{y}", x * tile.step * vector)
        write(f"sum{i}{suffix} = dot(sum{i}{suffix}, *(const loose_ints *)({near}), w);")


def _words(write: Writer, places: list[tuple[int, int]], vector: int) -> None:
    """Write how the sums of four outputs become words."""
    write("const long zero = a->zero, least = a->least, largest = a->largest;")
    for i, (y, x) in enumerate(places):
        four = ", ".join(f"whole[{q}][{i}]" for q in range(4))
        at = sum_of("to", times("output_down", y), x * vector)
        with write.block(""):
            write(f"ints value = packed({four}, zero, least, largest);", f"MASKED(value, {x * vector});")
            write(f"*(loose_ints *)({at}) = value;")


MASKED_MACRO = f"""#define MASKED(value, place) \\
    if (masked == {MASKED_ALONG}) {{ \\
        const ints inside = *(const loose_ints *)(mask + tile->output + (place)); \\
        value = (value & inside) | (padding & ~inside); \\
    }} else if (masked) {{ \\
        const ints inside = (ints)(lanes() < (int32_t)(tile->room - (place))); \\
        value = (value & inside) | (padding & ~inside); \\
    }}
"""


def dot() -> str:
    """Return the C of a kernel that sums up one output after the other, at single places."""
    write = Writer()
    with write.block(_HEAD.format(name="words_dot")):
        write(*_ARRAYS)
        with (
            write.block("for (const contraction_tile *tile = tiles; tile < tiles + tile_count; ++tile)"),
            write.block("for (long group = first; group < last; ++group)"),
        ):
            write("const int32_t *corner = in + tile->source;", "int32_t whole[4] = {0};")
            write("int32_t *to = out + tile->output + group * group_channels * output_channel;")
            write("const long outputs = 4 * group + 4 < a->outputs ? 4 : a->outputs - 4 * group;")
            with write.block("for (long q = 0; q < outputs; ++q)"):
                write("const long output = 4 * group + q, begin = starts[output];")
                write(
                    "const int32_t sum = dot_list(corner, offsets + begin, values + begin, starts[output + 1] - begin);"
                )
                write("real value = (real)(sum + bias[output]) * factors[output];")
                with write.block("if (a->has_residual)"):
                    write("const ints plus = ints_of(add[tile->residual + group * residual_channel]);")
                    write("value = value + residual_of(a, plus, q)[0];")
                with write.block("if (a->activation)"):
                    write("vec reals[1] = {SPLAT(value)};", "activate_words(a, reals, 1);", "value = reals[0][0];")
                write("if (!in_words) ((real *)to)[q * output_channel] = value;")
                write("else whole[q] = whole_of(SPLAT(value))[0];")
            write("if (!in_words) continue;")
            four = ", ".join(f"ints_of(whole[{q}])" for q in range(4))
            write(f"*to = packed({four}, a->zero, a->least, a->largest)[0];")
    return write.text()


def columns(vector: int) -> str:
    """Return the C of a kernel that sums up a vector of neighbouring outputs at once, at a single place."""
    write = Writer()
    with write.block(_HEAD.format(name="words_columns")):
        write(*_ARRAYS, "(void)tiles, (void)tile_count, (void)group_channels;")
        with write.block("for (long group = first; group < last; ++group)"):
            write(f"const long output = group * {vector};", "long k = starts[group];")
            write("ints sum0 = *(const loose_ints *)(bias + output), sum1 = {0}, sum2 = {0}, sum3 = {0};")
            write("const long stop = starts[group + 1];")
            weights = f"*(const loose_ints *)(values + (k + {{0}}) * {vector})"
            entry = f"dot(sum{{0}}, ints_of(in[offsets[k + {{0}}]]), {weights})"
            with write.block("for (; k + 4 <= stop; k += 4)"):
                write(*(f"sum{i} = {entry.format(i)};" for i in range(4)))
            write(f"for (; k < stop; ++k) sum0 = {entry.format(0)};")
            write("const ints sum = (sum0 + sum1) + (sum2 + sum3);")
            write("vec reals[1] = {__builtin_convertvector(sum, vec) * *(const loose *)(factors + output)};")
            with write.block("if (a->has_residual)"), write.block(f"for (int i = 0; i < {vector}; i += 4)"):
                write("const long word = (output + i) / 4 * residual_channel;")
                write("if (output + i < a->outputs)")
                write("    for (int q = 0; q < 4; ++q) reals[0][i + q] += residual_of(a, ints_of(add[word]), q)[0];")
            write("if (a->activation) activate_words(a, reals, 1);")
            with write.block("if (!in_words)"):
                write(f"for (int i = 0; i < {vector} && output + i < a->outputs; ++i)")
                write("    ((real *)out)[(output + i) * output_channel] = reals[0][i];", "continue;")
            write("const ints whole = whole_of(reals[0]);")
            with write.block(f"for (int i = 0; i < {vector} && output + i < a->outputs; i += 4)"):
                four = ", ".join(f"ints_of(whole[i + {q}])" for q in range(4))
                write(f"out[(output + i) / 4 * output_channel] = packed({four}, a->zero, a->least, a->largest)[0];")
    return write.text()
