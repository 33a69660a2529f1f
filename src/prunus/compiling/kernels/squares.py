"""The C that moves numbers between registers: a square is transposed, every other number is picked."""

from __future__ import annotations

from prunus.compiling.kernels.writing import Writer


def transpose(width: int) -> str:
    """Return the C of a transposition of a square of so many vectors: blocks of 1, 2, 4... change places."""
    vec = f"vec{width}"
    write = Writer()
    write("#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)", "#define SQUARES 1")
    with write.block(f"static inline void transpose({vec} *rows)"):
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
        "#define SQUARES 0",
        f"static inline void transpose({vec} *rows) {{ (void)rows; }}",
        "#endif",
    )
    return write.text()


def every_other(width: int) -> str:
    """Return the C of a function of the first of so many pairs of numbers beside each other, as a vector."""
    vec, loose = f"vec{width}", f"loose{width}"
    lanes = ", ".join(str(2 * lane) for lane in range(width))
    singly = ", ".join(f"from[{2 * lane}]" for lane in range(width))
    write = Writer()
    with write.block(f"static inline {vec} every_other(const real *from)"):
        write("#if SQUARES")
        write(f"return __builtin_shufflevector(*(const {loose} *)from, *(const {loose} *)(from + {width}), {lanes});")
        write("#else", f"return ({vec}){{{singly}}};", "#endif")
    return write.text()
