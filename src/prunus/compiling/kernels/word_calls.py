"""Calls of kernels of 8 bits: their lists of words, tables and numbers."""

from __future__ import annotations

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
    return [writer.call("fill_words", arguments.FILL, output=output, size=layout.size, word=_bits(word))]


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
    word, channel = numpy.divmod(operation.picks.reshape(-1), _CHANNELS)
    missing = operation.picks.reshape(-1) < 0
    picks = numpy.stack([numpy.where(missing, 0, addresses[word]), numpy.where(missing, -1, 8 * channel)], axis=1)
    words = writer.output(operation).reshape(-1)
    return writer.call(
        "regroup",
        arguments.REGROUP,
        unit=writer.plan.mode.block,
        count=len(words),
        words_at=writer.table(words),
        picks_at=writer.table(picks),
        zero=operation.zero,
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
    packed = lists.lists(contract, plan, variant)
    starts, offsets, values = _apart(packed) if writer.saturates else _listed(packed)
    tiles, layout = lists.tiles(contract, plan, variant), plan.layouts[contract.output]
    outputs = len(contract.weight)
    groups = -(-outputs // _CHANNELS)
    num_tiles, num_groups = writer.num_timed(len(tiles), groups, contract, variant)
    padding_word = plan.fillings.get(contract.output, 0.0)
    call = writer.call(
        "words_dot" if variant == DOT else _tile_of(contract, writer, variant).name,
        arguments.QUANTIZED,
        starts_at=writer.table(starts),
        offsets_at=writer.table(offsets),
        values_at=writer.table(values),
        bias_at=writer.table(contract.bias),
        factors_at=writer.array(contract.factors),
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
        padding=_bits(padding_word),
        inverse=1 / contract.scale if contract.in_words else 1.0,
        **writer.mask(contract, variant),
        **_residual(writer, contract, variant),
        **_activation(contract),
    )
    return call._replace(fraction=num_tiles * num_groups / (len(tiles) * groups))


def _tile_of(contract: QuantizedContract, writer: CallWriter, variant: Variant) -> WordTile:
    mode = writer.plan.mode
    several = not mode.single and variant.tile[1] > mode.block // variant.width
    return WordTile(*variant.tile, writer.plan.taps[contract.output].steps[1] // mode.block if several else 1)


def _residual(writer: CallWriter, contract: QuantizedContract, variant: Variant) -> dict[str, float]:
    numbers = writer.residual(contract, variant)
    if not numbers:
        return {}
    divisor = contract.scale if contract.activation is None else 1.0
    return {**numbers, "residual_zero": contract.residual_zero, "residual_factor": contract.residual_scale / divisor}


def _activation(contract: QuantizedContract) -> dict[str, float]:
    if contract.activation is None:
        return {}
    function, constants = kernel_activation(contract.activation)
    return {"activation": ACTIVATIONS.index(function), **dict(zip(("low", "high"), constants, strict=False))}


def _listed(packed: lists.Lists) -> tuple[Indices, Indices, Indices]:
    return packed.starts, packed.offsets, packed.values.reshape(-1)


def _apart(packed: lists.Lists) -> tuple[Indices, Indices, Indices]:
    """Return lists in which no pair of weights exceeds 16 bits: such a word is two, with every other weight each."""
    values = packed.values.reshape(-1).astype(numpy.int32)
    weights = values.view(numpy.int8).reshape(-1, _CHANNELS).astype(numpy.int64)
    pairs = weights.reshape(-1, _CHANNELS // 2, 2)
    exceeds = ((pairs[..., 0] * pairs[..., 1] > 0) & (abs(pairs.sum(-1)) > _LARGEST_PAIR)).any(1)
    times = 1 + exceeds.astype(numpy.int64)
    ends = numpy.concatenate([[0], numpy.cumsum(times)])
    split = numpy.repeat(values, times)
    second = ends[1:][exceeds] - 1
    split[second] &= numpy.array(0xFF00FF00, dtype=numpy.uint32).astype(numpy.int32)
    split[second - 1] &= 0x00FF00FF
    return ends[packed.starts], numpy.repeat(packed.offsets, times), split


def _bits(word: float) -> int:
    """Return a word, told as a number of float32, as the signed number that its bits are."""
    return int(numpy.float32(word).view(numpy.int32))
