"""Kernels of depthwise convolutions of 8 bits: the four channels of each word times four weights of their own.

The weights of two places of the kernel are taken at once, as numbers of 16 bits, so that one instruction multiplies
both and adds the products exactly. For each word there is a list of such pairs; places whose four weights are all zero
are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.kernels import arguments, lists
from prunus.compiling.kernels.calls import Call, CallWriter
from prunus.compiling.kernels.variants import DOT, Variant
from prunus.compiling.kernels.word_calls import activation_of, bits_of
from prunus.compiling.kernels.writing import Writer
from prunus.compiling.net import Indices

if TYPE_CHECKING:
    from prunus.compiling.operations import QuantizedDepthwise

_CHANNELS = 4

_HEAD = "void {name}(const prunus_frame *frame, const quantized *a, long part, long parts)"
_ARRAYS = (
    "const int32_t *restrict starts = CONSTANTS(int32_t, starts_at);",
    "const int32_t *restrict offsets = CONSTANTS(int32_t, offsets_at);",
    "const int32_t *restrict values = CONSTANTS(int32_t, values_at), *restrict bias = CONSTANTS(int32_t, bias_at);",
    "const float *restrict factors = CONSTANTS(float, factors_at);",
    "const contraction_tile *restrict tiles = CONSTANTS(contraction_tile, tiles_at);",
    "const int32_t *in = (const int32_t *)frame->work + a->source;",
    "int32_t *out = (int32_t *)frame->work + a->output;",
    "const long first = a->groups * part / parts, last = a->groups * (part + 1) / parts, tile_count = a->tiles;",
    "const long zero = a->zero, least = a->least, largest = a->largest;",
)


def head(vector: int) -> str:
    """Return the C of sums of four channels, for vectors of so many words."""
    text = resources.files(__package__).joinpath("depthwise.h").read_text(encoding="utf-8")
    return text.replace("WIDTH", str(vector))


def tiled(across: int, vector: int) -> str:
    """Return the C of a kernel that computes so many vectors of a row at once."""
    write = Writer()
    with write.block(_HEAD.format(name=_name(across))):
        write(*_ARRAYS, "const long right = a->right, masked = a->masked;")
        write("const int32_t *const mask = CONSTANTS(int32_t, mask_at);", "const ints padding = ints_of(a->padding);")
        with _groups_and_tiles(write):
            write(f"ints sums[{across}][4], whole[4];")
            for v in range(across):
                _begun(write, f"sums[{v}]")
            with _pairs(write):
                for v in range(across):
                    read = (f"*(const loose_ints *)({name} + {v} * right)" for name in ("one", "other"))
                    write(f"add_pair(sums[{v}], {', '.join(read)}, values + 4 * k);")
            for v in range(across):
                _scaled(write, f"sums[{v}]")
                with write.block(""):
                    write("ints value = packed_channels(whole, zero, least, largest);", f"MASKED(value, {v * vector});")
                    write(f"*(loose_ints *)(to + {v * vector}) = value;")
    return write.text()


def dot() -> str:
    """Return the C of a kernel that computes single places."""
    write = Writer()
    with write.block(_HEAD.format(name=_name(0))):
        write(*_ARRAYS)
        with _groups_and_tiles(write):
            write("ints sums[4], whole[4];")
            _begun(write, "sums")
            with _pairs(write):
                write("add_pair(sums, ints_of(*one), ints_of(*other), values + 4 * k);")
            _scaled(write, "sums")
            write("*to = packed_channels(whole, zero, least, largest)[0];")
    return write.text()


def _name(across: int) -> str:
    return f"depthwise_{across}"


@contextmanager
def _groups_and_tiles(write: Writer) -> Iterator[None]:
    with (
        write.block("for (long group = first; group < last; ++group)"),
        write.block("for (const contraction_tile *tile = tiles; tile < tiles + tile_count; ++tile)"),
    ):
        write("const int32_t *corner = in + tile->source;")
        write("int32_t *to = out + tile->output + group * a->output_channel;")
        yield


@contextmanager
def _pairs(write: Writer) -> Iterator[None]:
    with write.block("for (long k = starts[group]; k < starts[group + 1]; ++k)"):
        write("const int32_t *one = corner + offsets[2 * k], *other = corner + offsets[2 * k + 1];")
        yield


def _begun(write: Writer, sums: str) -> None:
    write(*(f"{sums}[{c}] = of_channels(bias + 4 * group, {c});" for c in range(_CHANNELS)))


def _scaled(write: Writer, sums: str) -> None:
    """Write what follows the sums of four channels, up to whole numbers.

    An array that a function is given the place of would lie in memory while its numbers are summed, so it is a copy.
    """
    factor = "(vec)of_channels(factors + 4 * group, {})"
    with write.block(""):
        write(*(f"vec real{c} = __builtin_convertvector({sums}[{c}], vec) * {factor.format(c)};" for c in range(4)))
        with write.block("if (a->activation)"):
            write("vec reals[] = {real0, real1, real2, real3};", "activate_words(a, reals, 4);")
            write(*(f"real{c} = reals[{c}];" for c in range(_CHANNELS)))
        write(*(f"whole[{c}] = whole_of(real{c});" for c in range(_CHANNELS)))


def call(writer: CallWriter, contract: QuantizedDepthwise, variant: Variant) -> Call:
    """Return the call of a depthwise convolution of 8 bits."""
    plan, unit = writer.plan, writer.plan.mode.block
    starts, offsets, values = _listed(contract, plan.taps[contract.output].offsets)
    tiles, layout = lists.tiles(contract, plan, variant), plan.layouts[contract.output]
    num_tiles, num_groups = writer.num_timed(len(tiles), contract.groups, contract, variant)
    several = not plan.mode.single and variant.tile[1] > unit // variant.width
    step = plan.taps[contract.output].steps[1] // unit if several else 1
    made = writer.call(
        _name(0 if variant == DOT else variant.tile[1]),
        arguments.QUANTIZED,
        starts_at=writer.table(starts),
        offsets_at=writer.table(offsets),
        values_at=writer.table(values),
        bias_at=writer.table(contract.bias.astype(numpy.int64)),
        factors_at=writer.array(contract.factors),
        tiles_at=writer.table(tiles),
        source=plan.places[contract.source.value],
        output=plan.places[contract.output] + layout.origin * unit,
        outputs=contract.groups,
        groups=num_groups,
        tiles=num_tiles,
        right=step * variant.width,
        output_channel=layout.plane * unit,
        in_words=1,
        zero=contract.zero,
        least=contract.low,
        largest=contract.high,
        padding=bits_of(plan.fillings.get(contract.output, 0.0)),
        inverse=1 / contract.scale,
        **writer.mask(contract, variant),
        **activation_of(contract),
    )
    return made._replace(fraction=num_tiles * num_groups / (len(tiles) * contract.groups))


def _listed(contract: QuantizedDepthwise, offsets: Indices) -> tuple[Indices, Indices, Indices]:
    """Return where the list of each word begins, where the words of each pair lie, and the pairs of weights."""
    groups = contract.groups
    weights = contract.bytes.reshape(groups, -1, _CHANNELS).astype(numpy.int64)
    places = offsets.reshape(groups, -1)
    used = (weights != 0).any(-1)
    order = numpy.argsort(~used, axis=1, kind="stable")  # those that are used first
    size = 2 * -(-order.shape[1] // 2)
    counts = -(-used.sum(1) // 2)
    filler = numpy.pad(order, ((0, 0), (0, size - order.shape[1])), mode="edge")
    row = numpy.arange(groups)[:, None]
    # behind the used ones come weights of zero; those of a place that is there twice are zero the second time
    sorted_weights = numpy.pad(weights[row, order], ((0, 0), (0, size - order.shape[1]), (0, 0)))
    sorted_weights = sorted_weights.reshape(groups, -1, 2, _CHANNELS)
    pairs = (sorted_weights[:, :, 0] & 0xFFFF) | (sorted_weights[:, :, 1] << 16)
    kept = numpy.arange(size // 2) < counts[:, None]
    starts: Indices = numpy.concatenate([[0], numpy.cumsum(counts)])
    return starts, places[row, filler].reshape(groups, -1, 2)[kept], pairs[kept]
