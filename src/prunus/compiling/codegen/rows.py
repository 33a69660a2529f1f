"""Kernels of contractions whose output has one place: no tile to hold, so they sum up output after output."""

from __future__ import annotations

from prunus.compiling.codegen.kernel_shapes import Shape, head
from prunus.compiling.codegen.variants import Variant
from prunus.compiling.codegen.writing import Needs, Writer, sum_of, times


def by_numbers(name: str, shape: Shape, needs: Needs) -> str:
    """Return a kernel that sums up one output after the other, in four sums that don't wait for each other."""
    write = Writer()
    write(*head(name, shape))
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


def by_columns(name: str, shape: Shape, variant: Variant, needs: Needs) -> str:
    """Return a kernel that sums up a vector of neighbouring outputs at once, in four sums."""
    write = Writer()
    write(*head(name, shape))
    width, step = variant.width, shape.out_steps[2]
    needs.widths.add(width)
    vec, first = f"vec{width}", f"group * {width}"
    with write.block(""):
        write("(void)groups;")
        if shape.add_steps is None:
            write("(void)add;")
        with write.block("for (long group = first; group < last; ++group)"):
            write(f"{vec} sum0 = *(const loose{width} *)(bias + {first}), sum1 = {{0}}, sum2 = {{0}}, sum3 = {{0}};")
            write("long k = starts[group];", "const long stop = starts[group + 1];")
            product = f"*(const {vec} *)(values + {{0}} * {width}) * splat{width}(in[offsets[{{0}}]])".format
            with write.block("for (; k + 4 <= stop; k += 4)"):
                write(*(f"sum{i} += {product(f'(k + {i})')};" for i in range(4)))
            write(f"for (; k < stop; ++k) sum0 += {product('k')};", f"{vec} sum = (sum0 + sum1) + (sum2 + sum3);")
            if shape.add_steps is not None:
                write(f"for (int i = 0; i < {width}; ++i) sum[i] += add[({first} + i) * {shape.add_steps[2]}];")
            if shape.activation is not None:
                write(f"sum = {needs.call(shape.activation, 'sum', width)};")
            if step == 1:
                write(f"*(loose{width} *)(out + {first}) = sum;")
            else:
                write(f"for (int i = 0; i < {width}; ++i) out[({first} + i) * {step}] = sum[i];")
    return write.text()
