"""Calls of kernels of 8 bits: their lists of words, tables and numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.kernels import arguments, lists
from prunus.compiling.kernels.calls import Call, CallWriter, runs
from prunus.compiling.kernels.contraction import ACTIVATIONS, kernel_activation
from prunus.compiling.kernels.variants import DOT, Variant
from prunus.compiling.kernels.words import WordTile
from prunus.compiling.net import Indices, Operation

if TYPE_CHECKING:
    from prunus.compiling.operations import Dequantize, Quantize, QuantizedContract, Regroup

_CHANNELS = 4
# Pairs of weights of one sign that are larger together would exceed 16 bits with inputs of 255.
_LARGEST_PAIR = 128


def filled(writer: CallWriter, operation: Operation) -> list[Call]:
    """Return the call that writes what has to lie around a value, where that is not zeros and something reads it."""
    plan = writer.plan
    word, layout = plan.fillings.get(operation.output, 0.0), plan.layouts[operation.output]
    if word == 0.0 or not layout.halo:
        return []
    output = plan.places[operation.output]
    return [writer.call("fill_words", arguments.FILL, output=output, size=layout.size, word=bits_of(word))]


def quantize(writer: CallWriter, operation: Quantize) -> Call:
    """Return the call that rounds floating-point numbers to words."""
    words, reals = writer.output(operation), writer.plan.addresses(operation.source)
    factor = float(numpy.float32(1 / operation.scale))
    return _between(writer, "quantize", words, reals, operation.zero, factor)


def dequantize(writer: CallWriter, operation: Dequantize) -> Call:
    """Return the call that makes floating-point numbers of words."""
    words, reals = writer.plan.addresses(operation.source), writer.output(operation)
    return _between(writer, "dequantize", words, reals, operation.zero, operation.scale)


def regroup(writer: CallWriter, operation: Regroup) -> Call:
    """Return the call that puts words together of channels of others."""
    addresses = numpy.concatenate([writer.plan.addresses(view).reshape(-1) for view in operation.sources])
    picks = operation.picks.reshape(-1, _CHANNELS)
    word, channel = numpy.divmod(picks, _CHANNELS)
    here, unit = writer.output(operation).reshape(-1), writer.plan.mode.block
    there = numpy.where(picks < 0, here[:, None], addresses[word])  # what stands for zero goes on like the rest
    shifts = numpy.where(picks < 0, -1, 8 * channel)
    beside = (
        (numpy.diff(here) == unit) & (numpy.diff(there, axis=0) == unit).all(1) & (shifts[1:] == shifts[:-1]).all(1)
    )
    starts = numpy.concatenate([[0], numpy.flatnonzero(~beside) + 1])
    lengths = numpy.diff(numpy.concatenate([starts, [len(here)]]))
    channels = numpy.stack([there[starts], shifts[starts]], axis=2).reshape(len(starts), -1)
    table = numpy.concatenate([here[starts, None], lengths[:, None], channels], axis=1)
    return writer.call(
        "regroup", arguments.REGROUP, unit=unit, runs=len(starts), table_at=writer.table(table), zero=operation.zero
    )


def _between(writer: CallWriter, kernel: str, words: Indices, reals: Indices, zero: int, factor: float) -> Call:
    """Return a call between words and the numbers of their channels, which are runs side by side."""
    channels = [reals[place::_CHANNELS] for place in range(_CHANNELS)]
    filled = [numpy.concatenate([part, words[len(part) :]]) for part in channels]  # steps like those of words
    spans = runs([words, *filled])
    length, steps = spans.length, spans.steps
    if len(set(steps[1:])) > 1:
        flat = [words.reshape(-1), *(part.reshape(-1) for part in filled)]
        starts, length, steps = flat, 1, (0,) * len(flat)
    else:
        starts = list(spans.starts)
    table = numpy.stack(starts[1:], axis=1)
    missing = [len(part) for part in channels]
    if min(missing) < len(words):
        first_of_last = words[-1].reshape(-1)
        in_last = numpy.isin(starts[0], first_of_last)
        for place, have in enumerate(missing):
            if have < len(words):
                table[in_last, place] = -1
    return writer.call(
        kernel,
        arguments.WORDS,
        unit=writer.plan.mode.block,
        runs=len(table),
        length=length,
        words_at=writer.table(starts[0]),
        reals_at=writer.table(table),
        words_step=steps[0] if length > 1 else writer.plan.mode.block,
        reals_step=steps[1] if length > 1 else writer.plan.mode.block,
        zero=zero,
        factor=factor,
    )


def contraction(writer: CallWriter, contract: QuantizedContract, variant: Variant) -> Call:
    """Return the call of a convolution or linear layer of 8 bits."""
    plan, unit = writer.plan, writer.plan.mode.block
    together = variant.rows if variant.outer == "columns" else 1
    outputs = len(contract.weight)
    extra = -outputs % together
    filled = replace(contract, weight=numpy.pad(contract.weight, ((0, extra), (0, 0), (0, 0), (0, 0))))
    packed = lists.lists(filled, plan, variant)
    starts, offsets, values = _apart(packed) if writer.saturates else _listed(packed)
    tiles, layout = lists.tiles(contract, plan, variant), plan.layouts[contract.output]
    groups = -(-outputs // max(together, _CHANNELS))
    num_tiles, num_groups = writer.num_timed(len(tiles), groups, contract, variant)
    padding_word = plan.fillings.get(contract.output, 0.0)
    call = writer.call(
        _kernel(contract, writer, variant),
        arguments.QUANTIZED,
        starts_at=writer.table(starts),
        offsets_at=writer.table(offsets),
        values_at=writer.table(values),
        bias_at=writer.table(numpy.pad(contract.bias, (0, extra))),
        factors_at=writer.array(numpy.pad(contract.factors, (0, extra))),
        tiles_at=writer.table(tiles),
        source=plan.places[contract.source.value],
        output=plan.places[contract.output] + layout.origin * unit,
        outputs=outputs,
        groups=num_groups,
        tiles=num_tiles,
        by_outputs=variant.outer == "outputs",
        down=plan.taps[contract.output].steps[0],
        output_down=layout.pitch * unit,
        output_channel=layout.plane * unit,
        in_words=contract.in_words,
        zero=contract.zero,
        least=contract.low,
        largest=contract.high,
        padding=bits_of(padding_word),
        inverse=1 / contract.scale if contract.in_words else 1.0,
        **writer.mask(contract, variant),
        **_residual(writer, contract, variant),
        **activation_of(contract),
    )
    return call._replace(fraction=num_tiles * num_groups / (len(tiles) * groups))


def _kernel(contract: QuantizedContract, writer: CallWriter, variant: Variant) -> str:
    """Return the name of the kernel that computes a contraction in some way."""
    if variant == DOT or variant.outer == "columns":
        return "words_dot" if variant == DOT else "words_columns"
    mode = writer.plan.mode
    several = not mode.single and variant.tile[1] > mode.block // variant.width
    return WordTile(*variant.tile, writer.plan.taps[contract.output].steps[1] // mode.block if several else 1).name


def _residual(writer: CallWriter, contract: QuantizedContract, variant: Variant) -> dict[str, float]:
    numbers = writer.residual(contract, variant)
    if not numbers:
        return {}
    divisor = contract.scale if contract.activation is None else 1.0
    return {**numbers, "residual_zero": contract.residual_zero, "residual_factor": contract.residual_scale / divisor}


def activation_of(contract: QuantizedContract) -> dict[str, float]:
    """Return the activation of a contraction as kernels take it; nothing where there is none."""
    if contract.activation is None:
        return {}
    function, constants = kernel_activation(contract.activation)
    return {"activation": ACTIVATIONS.index(function), **dict(zip(("low", "high"), constants, strict=False))}


def _listed(packed: lists.Lists) -> tuple[Indices, Indices, Indices]:
    return packed.starts, packed.offsets, packed.values


def _apart(packed: lists.Lists) -> tuple[Indices, Indices, Indices]:
    """Return lists in which no pair of weights exceeds 16 bits: such an entry is two, with every other weight each."""
    values = numpy.ascontiguousarray(packed.values.astype(numpy.int32))
    weights = values.view(numpy.int8).reshape(*values.shape, _CHANNELS // 2, 2).astype(numpy.int64)
    exceeds = (weights[..., 0] * weights[..., 1] > 0) & (abs(weights.sum(-1)) > _LARGEST_PAIR)
    split = exceeds.any((1, 2))
    times = 1 + split.astype(numpy.int64)
    ends = numpy.concatenate([[0], numpy.cumsum(times)])
    apart = numpy.repeat(values, times, axis=0)
    second = ends[1:][split] - 1
    apart[second] &= numpy.array(0xFF00FF00, dtype=numpy.uint32).astype(numpy.int32)
    apart[second - 1] &= 0x00FF00FF
    starts: Indices = ends[packed.starts]
    return starts, numpy.repeat(packed.offsets, times), apart.astype(numpy.int64)


def bits_of(word: float) -> int:
    """Return a word, told as a number of float32, as the signed number that its bits are."""
    return int(numpy.float32(word).view(numpy.int32))
