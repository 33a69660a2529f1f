"""The C that transposes a square of numbers in registers."""

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
