"""Kernels of contractions whose output has one place, or few: no tile to hold, so they sum up output after output."""

from __future__ import annotations

from prunus.compiling.kernels.contraction import HEAD, RELU, activated, arrays
from prunus.compiling.kernels.writing import Writer

_LIMITS = "const real low = a->low, high = a->high;"


def special() -> str:
    """Return what is less usual behind a sum, apart from the loops, which need their registers."""
    write = Writer()
    head = "static __attribute__((noinline)) real special_dot(const contraction *a, real sum, const real *add)"
    with write.block(head):
        write("if (a->has_residual) sum += *add;", _LIMITS, *activated(1, "sum", "sum"), "return sum;")
    return write.text()


def by_numbers(narrow: bool) -> str:
    """Return a kernel that sums up one output after the other, in four sums that don't wait for each other."""
    write = Writer()
    with write.block(HEAD.format(name=f"dot_{'narrow' if narrow else 'wide'}")):
        write(*arrays(narrow))
        write(f"const long special = has_residual || activation > {RELU};")
        with (
            write.block("for (const contraction_tile *tile = tiles; tile < tiles + tile_count; ++tile)"),
            write.block("for (long group = first; group < last; ++group)"),
        ):
            write("const real *corner = in + tile->source;")
            write("real sum0 = bias[group], sum1 = 0, sum2 = 0, sum3 = 0;", "long k = starts[group];")
            write("const long stop = starts[group + 1];")
            with write.block("for (; k + 4 <= stop; k += 4)"):
                write(*(f"sum{i} += values[k + {i}] * corner[offsets[k + {i}]];" for i in range(4)))
            write("for (; k < stop; ++k) sum0 += values[k] * corner[offsets[k]];")
            write("real sum = (sum0 + sum1) + (sum2 + sum3);")
            write("if (special) sum = special_dot(a, sum, add + tile->residual + group * residual_channel);")
            write(f"else if (activation == {RELU}) sum = relu1(sum);")
            write("out[tile->output + group * output_channel] = sum;")
    return write.text()


def by_columns(width: int, narrow: bool) -> str:
    """Return a kernel that sums up a vector of neighbouring outputs at once, in four sums."""
    write = Writer()
    first = f"group * {width}"
    with write.block(HEAD.format(name=f"columns{width}_{'narrow' if narrow else 'wide'}")):
        write(*arrays(narrow), "(void)tiles, (void)tile_count;")
        with write.block("for (long group = first; group < last; ++group)"):
            write(
                f"vec{width} sum0 = *(const loose{width} *)(bias + {first}), sum1 = {{0}}, sum2 = {{0}}, sum3 = {{0}};"
            )
            write("long k = starts[group];", "const long stop = starts[group + 1];")
            product = f"*(const loose{width} *)(values + {{0}} * {width}) * splat{width}(in[offsets[{{0}}]])".format
            with write.block("for (; k + 4 <= stop; k += 4)"):
                write(*(f"sum{i} += {product(f'(k + {i})')};" for i in range(4)))
            write(f"for (; k < stop; ++k) sum0 += {product('k')};")
            write(f"vec{width} sum = (sum0 + sum1) + (sum2 + sum3);")
            loop = f"for (int i = 0; i < {width}; ++i)"
            write(f"if (has_residual) {loop} sum[i] += add[({first} + i) * residual_channel];")
            write(_LIMITS, *activated(width, "sum", "sum"))
            write(f"if (output_channel == 1) *(loose{width} *)(out + {first}) = sum;")
            write(f"else {loop} out[({first} + i) * output_channel] = sum[i];")
    return write.text()
