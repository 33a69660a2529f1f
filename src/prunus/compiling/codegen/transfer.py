"""The C that brings samples from the caller's arrays into a workspace, and results back.

In blocks that is a transposition: there a sample's numbers lie beside each other, here those of one element. Whole
blocks are transposed in registers, square by square.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from prunus.compiling.codegen.writing import Needs, Writer, counters, sum_of, times
from prunus.compiling.layout import Nest, nest
from prunus.compiling.net import Indices, View
from prunus.compiling.planning import Plan


def transpose(width: int) -> str:
    """Return the C of a transposition of a square of so many vectors: blocks of 1, 2, 4... change places."""
    vec = f"vec{width}"
    write = Writer()
    write("#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)", f"#define SQUARES{width} 1")
    with write.block(f"static inline void transpose{width}({vec} *rows)"):
        size = 1
        while size < width:
            upper = [c if not c & size else width + c - size for c in range(width)]
            lower = [c + size if not c & size else width + c for c in range(width)]
            for row in (row for row in range(width) if not row & size):
                one, other = f"rows[{row}]", f"rows[{row + size}]"
                write(f"{{ const {vec} one = {one}, other = {other};")
                for target, lanes in ((one, upper), (other, lower)):
                    write(f"  {target} = __builtin_shufflevector(one, other, {', '.join(map(str, lanes))});")
                write("}")
            size *= 2
    write(
        "#else",
        f"#define SQUARES{width} 0",
        f"static inline void transpose{width}({vec} *rows) {{ (void)rows; }}",
        "#endif",
    )
    return write.text()


def load(plan: Plan, needs: Needs) -> str:
    """Write how samples get into a workspace; lanes without a sample get the first one's numbers again."""
    mode = plan.mode
    write = Writer()
    head = f"APART static void {mode.name}_load(const real *const *inputs, real *work, long sample, long count)"
    with write.block(head):
        if mode.single:
            write("(void)count;")
        for place, (number, shape) in enumerate(plan.net.inputs.values()):
            size = int(numpy.prod(shape, dtype=numpy.int64))
            index = numpy.arange(size, dtype=numpy.int64).reshape(plan.layouts[number].box)
            found = nest([plan.addresses(View(number, index)), index])
            with write.block(""):
                write(f"const real *from = inputs[{place}] + sample * {size};")
                if mode.single:
                    with write.loops(counters(len(found.counts)), found.counts):
                        write(f"work[{_at(found, 0)}] = from[{_at(found, 1)}];")
                else:
                    _block(write, plan, needs, found, size, into=True)
    return write.text()


def store(plan: Plan, needs: Needs) -> str:
    """Write how results get from a workspace into the caller's arrays."""
    mode = plan.mode
    write = Writer()
    head = f"APART static void {mode.name}_store(real *const *outputs, const real *work, long sample, long count)"
    tables: list[str] = []
    with write.block(head):
        if mode.single:
            write("(void)count;")
        for place, view in enumerate(plan.net.outputs):
            size = view.index.size
            order = numpy.arange(size, dtype=numpy.int64)
            found = nest([plan.addresses(view), order.reshape(view.index.shape)])
            names = [f"{mode.name}_output{place}_{buffer}" for buffer in range(2)]
            if found.tables is not None:
                tables += [_table(name, table) for name, table in zip(names, found.tables, strict=True)]
            with write.block(""):
                write(f"real *to = outputs[{place}] + sample * {size};")
                if mode.single:
                    with write.loops(counters(len(found.counts)), found.counts):
                        write(f"to[{_at(found, 1, names)}] = work[{_at(found, 0, names)}];")
                else:
                    _block(write, plan, needs, found, size, into=False, tables=names)
    return "".join(tables) + write.text()


def _block(
    write: Writer, plan: Plan, needs: Needs, found: Nest, size: int, *, into: bool, tables: Sequence[str] = ()
) -> None:
    """Write a block's transfer: in squares where runs of elements are long enough, else number by number."""
    mode = plan.mode
    width = mode.vector
    run = found.counts[-1]
    steps = found.strides[0][-1], found.strides[1][-1]
    squares = run >= width and steps == (mode.block, 1) and (found.tables is None or len(found.counts) > 1)
    if squares:
        needs.widths.add(width)
        needs.transposed.add(width)
        with write.block(f"if (SQUARES{width} && count == {mode.block})"):
            _squares(write, plan, found, size, into, tables)
        write("else")
    with write.loops(counters(len(found.counts)), found.counts):
        ours, theirs = _at(found, 0, tables), _at(found, 1, tables)
        if into:
            write(f"real *to = work + {ours};", f"const real *const element = from + {theirs};")
            write(f"for (long lane = 0; lane < {mode.block}; ++lane)")
            write(f"    to[lane] = element[lane < count ? lane * {size} : 0];")
        else:
            write(f"for (long lane = 0; lane < count; ++lane) to[lane * {size} + {theirs}] = work[{ours} + lane];")


def _squares(write: Writer, plan: Plan, found: Nest, size: int, into: bool, tables: Sequence[str]) -> None:
    mode, names = plan.mode, counters(len(found.counts))
    width, run, last = mode.vector, found.counts[-1], names[-1]
    vec, loose = f"vec{width}", f"loose{width}"
    square = f"for (long {last}_square = 0; {last}_square < {-(-run // width)}; ++{last}_square)"
    lanes = f"for (long lane = 0; lane < {mode.block}; lane += {width})"
    with write.loops(names[:-1], found.counts[:-1]), write.block(square):
        # the last square of a run lies over the one before where they don't come out even
        write(f"const long {last} = {last}_square < {run // width} ? {last}_square * {width} : {run - width};")
        ours, theirs = _at(found, 0, tables), _at(found, 1, tables)
        with write.block(lanes):
            write(f"{vec} rows[{width}];")
            there = f"{'from' if into else 'to'} + (lane + row) * {size} + {theirs}"
            here = f"work + {ours} + row * {mode.block} + lane"
            each = f"for (int row = 0; row < {width}; ++row)"
            if into:
                write(f"{each} rows[row] = *(const {loose} *)({there});", f"transpose{width}(rows);")
                write(f"{each} *({vec} *)({here}) = rows[row];")
            else:
                write(f"{each} rows[row] = *(const {vec} *)({here});", f"transpose{width}(rows);")
                write(f"{each} *({loose} *)({there}) = rows[row];")


def _at(found: Nest, buffer: int, tables: Sequence[str] = ()) -> str:
    names = counters(len(found.counts))
    table = "" if found.tables is None else f"{tables[buffer]}[{names[0]}]"
    return sum_of(found.bases[buffer], table, *(times(n, s) for n, s in zip(names, found.strides[buffer], strict=True)))


def _table(name: str, array: Indices) -> str:
    return f"static const int32_t {name}[] = {{{', '.join(map(str, array.tolist()))}}};\n"
