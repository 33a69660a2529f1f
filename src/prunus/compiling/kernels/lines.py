"""Kernels of pooling for one sample: the rows of a window in vectors along the line, then its columns in vectors too.

All windows of an output row are combined row by row into a line that has the neutral number on both sides, so that
windows which reach beyond an end are like all others. Of that line an output takes so many neighbours, from a place
that is the stride times its number. The line is kept in as many parts as the stride, so that neighbours in a part are
those of outputs. That needs windows of one size at equal steps, which most are; others are taken element by element.
"""

from __future__ import annotations

import math

from prunus.compiling.kernels.numbers import Numbers
from prunus.compiling.kernels.writing import Writer
from prunus.compiling.net import Windows

# Numbers in a line with all that is beside it; a line that is longer is taken element by element.
LONGEST = 2048
_COMBINED = {"max": "larger{n}({x}, {y})", "avg": "{x} + {y}", "max_bytes": "larger_bytes{n}({x}, {y})"}


def regular(windows: Windows, side: int) -> tuple[int, int, int] | None:
    """Return the size of windows, the step between them and how far the first begins before the side.

    None where they are not alike but for what the ends of the side cut off.

    >>> regular(Windows((0, 1, 3), (2, 4, 5), 1, (3, 3, 3)), 5)
    (3, 2, 1)
    """
    if windows.step != 1 or not windows.start:
        return None
    size = max(stop - start for start, stop in windows.pairs)
    stride = windows.start[-1] - windows.start[-2] if len(windows.start) > 1 else 1
    before = (len(windows.start) - 1) * stride - windows.start[-1]
    if len(windows.start) == 2 and windows.start[0] == 0 and windows.stop[0] - windows.start[0] < size:
        before = size - windows.stop[0]
        stride = windows.start[1] + before
    wanted = [(max(0, x * stride - before), min(side, x * stride - before + size)) for x in range(len(windows.start))]
    fits = stride > 0 and before >= 0 and wanted == windows.pairs
    reach = (len(windows.start) - 1) * stride + size + stride
    return (size, stride, before) if fits and max(reach, before + side) <= LONGEST else None


def pool(function: str, numbers: Numbers, widths: list[int]) -> str:
    """Return the C of a function that pools one row of outputs, for vectors of several sizes, the largest first."""
    write = Writer()
    neutral = numbers.constant(-math.inf if function == "max" else 0.0)
    sizes = (*widths, 1)
    head = "const prunus_frame *frame, const pool *a, long c, long y, real *restrict to"
    with write.block(f"static void pool_{function}_line({head})"):
        write("const int32_t *first = CONSTANTS(int32_t, row_first_at), *last = CONSTANTS(int32_t, row_last_at);")
        write("const int32_t *divisors = CONSTANTS(int32_t, column_divisor_at);")
        write("const long size = a->size, stride = a->stride, side = a->side, before = a->before;")
        write("const long down = a->row_step * a->down, rows = (last[y] - first[y] + a->row_step - 1) / a->row_step;")
        write("const long whole = ((a->columns - 1) * stride + size + stride - 1) / stride * stride;")
        write("const real *restrict from = WORK + CONSTANTS(int32_t, corners_at)[c] + first[y] * a->down;")
        write(f"real line[{LONGEST}] __attribute__((aligned(64))), parted[{LONGEST}] __attribute__((aligned(64)));")
        write(f"for (long i = 0; i < before; ++i) line[i] = {neutral};")
        write(f"for (long i = before + side; i < whole; ++i) line[i] = {neutral};")
        write("long i = 0, x = 0;")
        for width in sizes:
            with write.block(f"for (; i + {width} <= side; i += {width})"):
                write(f"{_type(width)} all = {neutral if width == 1 else f'splat{width}({neutral})'};")
                combined = _COMBINED[function].format(n=width, x="all", y=_at(width, "from[v * down + i]"))
                write(f"for (long v = 0; v < rows; ++v) all = {combined};", f"{_at(width, 'line[before + i]')} = all;")
        write("const real *parts = line;", "const long part = whole / stride;")
        with write.block("if (stride > 1)"):
            write("for (long s = 0; s < stride; ++s)")
            write("    for (long j = 0; j < part; ++j) parted[s * part + j] = line[j * stride + s];", "parts = parted;")
        for width in sizes:
            _outputs(write, function, width)
        write("(void)divisors;")
    return write.text()


def _outputs(write: Writer, function: str, width: int) -> None:
    """Write the loop over outputs of a line, so many at once."""
    lane, lanes = ("", "") if width == 1 else ("[l]", f"for (int l = 0; l < {width}; ++l) ")
    place = "x" if width == 1 else "x + l"
    with write.block(f"for (; x + {width} <= a->columns; x += {width})"):
        write(f"{_type(width)} all = {_at(width, 'parts[x]')};")
        with write.block("for (long u = 1, s = 1, j = 0; u < size; ++u, ++s)"):
            write("if (s >= stride) s = 0, ++j;")
            write(f"all = {_COMBINED[function].format(n=width, x='all', y=_at(width, 'parts[s * part + j + x]'))};")
        if function == "avg":
            write(f"{lanes}all{lane} /= (real)(CONSTANTS(int32_t, row_divisor_at)[y] * divisors[{place}]);")
        write(f"if (a->output_right == 1) {_at(width, 'to[x]')} = all;" if width > 1 else "")
        write(f"{'else ' if width > 1 else ''}{lanes}to[({place}) * a->output_right] = all{lane};")


def _type(width: int) -> str:
    return "real" if width == 1 else f"vec{width}"


def _at(width: int, place: str) -> str:
    return place if width == 1 else f"*(loose{width} *)&{place}"
