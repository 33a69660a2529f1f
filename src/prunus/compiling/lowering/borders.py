"""Borders between whole numbers of 8 bits and floating point, moved until as much as can be lies between them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy

from prunus.compiling.kernels.contraction import kernel_activation
from prunus.compiling.lowering.channelwise import depthwise, function, is_depthwise, mean, product
from prunus.compiling.lowering.picks import as_words, filled, in_words, num_words, picks_of
from prunus.compiling.net import Indices, Net, Numbers, Operation, Pointwise, View, in_order, is_whole, whole
from prunus.compiling.operations import (
    Dequantize,
    Elementwise,
    Join,
    Pool,
    Quantize,
    QuantizedContract,
    Reduce,
    Regroup,
    UnitContract,
)
from prunus.compiling.operations.quantized import CHANNELS, LARGEST, limits, word_of_zeros, words_of

# Words of columns are put together first, which takes time too: there must be fewer of them by this factor than of
# channels (a guess).
_WORTH_COLUMNS = 0.75


class Borders:
    """Moves the borders between whole numbers and floating point until as much as can be lies between them.

    Args:
        net: with a Dequantize behind each Quantize.
    """

    def __init__(self, net: Net) -> None:
        self._net = net
        self._made: dict[int, Operation] = {}
        self._same: dict[int, int] = {}  # words -> others that hold the same
        self._next = max(net.boxes) + 1

    def moved(self) -> Net:
        """Return the net that computes the same with other borders."""
        readers = Counter(view.value for operation in self._net.operations for view in operation.views)
        readers.update(view.value for view in self._net.outputs)
        alone = {value for value, count in readers.items() if count == 1}
        ends = {
            operation.source.value: operation
            for operation in self._net.operations
            if isinstance(operation, Quantize) and operation.source.value in alone
        }
        gone: set[int] = set()
        for operation in self._net.operations:
            if operation.output in gone:
                continue
            end = ends.get(operation.output)
            end = end if end is not None and is_whole(end.source, operation.box) else None
            channelwise = None if end is None else self._channelwise(operation, end)
            if isinstance(operation, UnitContract):
                made, with_end = self._contraction(operation, end)
                gone |= {end.output} if end is not None and with_end else set()
            elif end is not None and channelwise is not None:
                made = [channelwise]
                gone.add(end.output)
            else:
                made = self._other(operation)
            self._made |= {each.output: each for each in made}
        return self._cleaned()

    def _channelwise(self, operation: Operation, end: Quantize) -> Operation | None:
        """Return what computes each channel by itself and the rounding behind it, in 8 bits, where there is such."""
        if isinstance(operation, Elementwise):
            made = product(operation, end, {view.value: self._maker(view) for view in operation.views})
            maker = self._maker(operation.views[0]) if operation.views else None
            return made or (None if maker is None else function(operation, end, maker))
        maker = self._maker(operation.source) if isinstance(operation, (Pool, Reduce)) else None
        return None if maker is None else mean(operation, end, maker)

    def _other(self, operation: Operation) -> list[Operation]:
        """Return what computes an operation that is no contraction of whole weights."""
        if isinstance(operation, Pool):
            return self._pool(operation)
        if isinstance(operation, Join):
            return self._join(operation)
        if isinstance(operation, Quantize):
            return self._quantize(operation)
        if isinstance(operation, Dequantize):
            value = operation.source.value
            return [replace(operation, source=View(self._same.get(value, value), operation.source.index))]
        return [operation]

    def _cleaned(self) -> Net:
        """Return the net without what nobody reads."""
        operations = list(self._made.values())
        needed = {view.value for view in self._net.outputs}
        kept = []
        for operation in reversed(operations):
            if operation.output in needed:
                kept.append(operation)
                needed |= {view.value for view in operation.views}
        inputs = {number: self._net.boxes[number] for number, _ in self._net.inputs.values()}
        kept.reverse()
        return replace(self._net, operations=tuple(kept), boxes=inputs | {made.output: made.box for made in kept})

    def _maker(self, view: View) -> Dequantize | None:
        """Return what made the floating-point numbers of a view, if they were words."""
        maker = self._made.get(view.value)
        return maker if isinstance(maker, Dequantize) else None

    def _read(self, view: View, maker: Dequantize) -> tuple[list[Operation], View]:
        """Return a view of words that hold a view of floating-point numbers, behind what puts them together."""
        picks = picks_of(view, maker)
        words = as_words(picks)
        if words is not None:
            return [], View(maker.source.value, words)
        number, box = self._new(), (words_of(len(picks)), *picks.shape[1:])
        source = self._all(maker.source.value)
        made = Regroup(f"{maker.name} (regrouped)", number, box, (source,), filled(picks), maker.zero)
        return [made], whole(number, box)

    def _all(self, value: int) -> View:
        """Return a view of all words of a value, in their order."""
        return View(value, in_order(self._size(value)))

    def _size(self, value: int) -> int:
        made = self._made.get(value)
        return math.prod(self._net.boxes[value] if made is None else made.box)

    def _contraction(self, contract: UnitContract, end: Quantize | None) -> tuple[list[Operation], bool]:
        """Return a contraction in 8 bits, with the rounding behind it if that can be done in it."""
        maker = self._maker(contract.source)
        if maker is None:
            return [contract.plain], False
        contract = _with_kernel_activation(self._unflattened(contract, maker))
        per_group = contract.weight.shape[1], len(contract.weight) // contract.groups
        whole_groups = contract.groups == 1 or all(count % CHANNELS == 0 for count in per_group)
        cut = None if end is None else limits(contract.activation, end.scale, end.zero)
        activation = contract.activation if cut is None else None
        in_kernel = activation is None or bool(kernel_activation(activation)[0])
        added = None if contract.residual is None else self._maker(contract.residual)
        unfit = contract.residual is not None and (added is None or end is None)
        if is_depthwise(contract) and in_kernel and end is not None and contract.residual is None:
            before, source = self._read(contract.source, maker)
            by_channel = depthwise(contract, source, maker, end, cut)
            return ([*before, by_channel], True) if by_channel.fits else ([contract.plain], False)
        if not whole_groups or not in_kernel or unfit:
            return [contract.plain], False
        along, made = self._along_columns(contract, maker)
        if made is None:
            before, source = self._read(contract.source, maker)
            made = _in_whole_numbers(contract, source, maker)
        else:
            before = along
        if end is not None:
            made = _ending(made, end, cut)
        if contract.residual is not None and added is not None:
            more, residual = self._read(contract.residual, added)
            before += more
            made = replace(made, residual=residual, residual_scale=added.scale, residual_zero=added.zero)
        return ([*before, made], end is not None) if made.fits else ([contract.plain], False)

    def _unflattened(self, contract: UnitContract, maker: Dequantize) -> UnitContract:
        """Return a linear layer of all elements of a value as a convolution whose kernel covers its plane.

        Unless it has fewer words with weights as it is.
        """
        weight = contract.weight
        flat = contract.source.index.shape == (weight.shape[1], 1, 1) and weight.shape[2:] == (1, 1)
        flat = flat and (contract.padding, contract.dilation) == ((0, 0), (1, 1))
        if not flat or contract.groups > 1 or maker.box[1:] == (1, 1) or not is_whole(contract.source, maker.box):
            return contract
        over_plane = weight.reshape(len(weight), *maker.box)
        if num_words(weight) < num_words(over_plane):
            return contract
        return replace(contract, source=whole(maker.output, maker.box), weight=over_plane)

    def _along_columns(
        self, contract: UnitContract, maker: Dequantize
    ) -> tuple[list[Operation], QuantizedContract | None]:
        """Return a contraction whose words hold four neighbouring columns of a channel, behind what makes these.

        Nothing where its own words, of four channels, are as few.
        """
        outputs, channels, height, width = contract.weight.shape
        weight = numpy.pad(contract.weight, ((0, 0), (0, 0), (0, 0), (0, -width % CHANNELS)))
        columns = weight.reshape(outputs, channels, height, -1, CHANNELS)
        count = int(numpy.count_nonzero((columns != 0).any(-1)))
        if (
            channels >= CHANNELS
            or width == 1
            or contract.groups > 1
            or count > _WORTH_COLUMNS * num_words(contract.weight)
        ):
            return [], None
        gap, step = contract.dilation[1], contract.stride[1]
        reach = gap * CHANNELS * (columns.shape[3] - 1)
        places = numpy.arange((contract.grid[1] - 1) * step + reach + 1) - contract.padding[1]
        places = places[:, None] + gap * numpy.arange(CHANNELS)
        picks = picks_of(contract.source, maker)
        inside = (places >= 0) & (places < picks.shape[2])
        of_words = numpy.where(inside, picks[:, :, numpy.where(inside, places, 0)], -1)
        box = of_words.shape[:3]
        number = self._new()
        source = self._all(maker.source.value)
        made = Regroup(f"{contract.name} (columns)", number, box, (source,), of_words, maker.zero)
        # as if each channel were one of the first of four
        spread = numpy.zeros((outputs, channels * CHANNELS, height, columns.shape[3]))
        spread.reshape(outputs, channels, CHANNELS, height, -1)[:] = columns.transpose(0, 1, 4, 2, 3)
        rewritten = replace(
            contract,
            weight=spread,
            padding=(contract.padding[0], 0),
            dilation=(contract.dilation[0], gap * CHANNELS),
        )
        return [made], _in_whole_numbers(rewritten, whole(number, box), maker)

    def _pool(self, pool: Pool) -> list[Operation]:
        """Return a maximum of whole numbers, and what makes floating-point ones of it."""
        maker = self._maker(pool.source)
        if maker is None or pool.function != "max":
            return [pool]
        before, source = self._read(pool.source, maker)
        box = (words_of(pool.box[0]), *pool.box[1:])
        made = replace(pool, output=self._new(), box=box, function="max_bytes", source=source)
        return [*before, made, _back(pool, made, maker)]

    def _join(self, join: Join) -> list[Operation]:
        """Return words put beside each other, and what makes floating-point numbers of them."""
        makers = [self._maker(piece) for piece, _ in join.pieces if isinstance(piece, View)]
        zeros = all(isinstance(piece, View) or not piece.any() for piece, _ in join.pieces)
        grid = makers[0] if makers else None
        if (
            grid is None
            or not zeros
            or any(maker is None or (maker.scale, maker.zero) != (grid.scale, grid.zero) for maker in makers)
        ):
            return [join]
        picks = numpy.full(math.prod(join.box), -1, dtype=numpy.int64)
        sources: dict[int, int] = {}  # words -> how many channels lie in the sources before
        count = 0
        for piece, places in join.pieces:
            if isinstance(piece, View):
                maker = self._maker(piece)
                assert maker is not None
                value = maker.source.value
                if value not in sources:
                    sources[value] = count
                    count += CHANNELS * self._size(value)
                picks[places] = sources[value] + picks_of(piece, maker)
        made = self._together(join, picks.reshape(join.box), sources, grid.zero)
        return [made, _back(join, made, grid)]

    def _together(self, join: Join, picks: Indices, sources: Mapping[int, int], zero: int) -> Operation:
        """Return words of channels of several values."""
        number, box = self._new(), (words_of(join.box[0]), *join.box[1:])
        words = as_words(picks)
        if words is None:
            return Regroup(join.name, number, box, tuple(map(self._all, sources)), filled(picks), zero)
        pieces: list[tuple[View | Numbers, Indices]] = []
        flat = words.reshape(-1)
        for value, first in sources.items():
            begin = first // CHANNELS
            (places,) = numpy.nonzero((flat >= begin) & (flat < begin + self._size(value)))
            pieces.append((View(value, flat[places] - begin), places))
        (places,) = numpy.nonzero(flat < 0)
        if places.size:
            pieces.append((numpy.full(places.size, word_of_zeros(zero)), places))
        return Join(join.name, number, box, tuple(pieces))

    def _quantize(self, operation: Quantize) -> list[Operation]:
        """Return a rounding; nothing where it would round what it was made of."""
        maker = self._made.get(operation.source.value)
        same = isinstance(maker, Dequantize) and (maker.scale, maker.zero) == (operation.scale, operation.zero)
        if not same or not is_whole(operation.source, maker.box):  # type: ignore[union-attr]
            return [operation]
        assert isinstance(maker, Dequantize)
        if is_whole(maker.source, operation.box):
            self._same[operation.output] = maker.source.value
            return []
        return [operation]

    def _new(self) -> int:
        self._next += 1
        return self._next - 1


def _back(operation: Operation, made: Operation, grid: Dequantize) -> Dequantize:
    """Return what makes the floating-point numbers of an operation of the words that were made in its place."""
    source = whole(made.output, made.box)
    return Dequantize(operation.name, operation.output, operation.box, source, grid.scale, grid.zero)


def _with_kernel_activation(contract: UnitContract) -> UnitContract:
    """Return a contraction with its activation as kernels know it, if they do."""
    if contract.activation is None:
        return contract
    function, constants = kernel_activation(contract.activation)
    return replace(contract, activation=Pointwise(function, constants)) if function else contract


def _in_whole_numbers(contract: UnitContract, source: View, read: Dequantize) -> QuantizedContract:
    """Return a contraction of words whose results are in floating point."""
    units = contract.units * read.scale
    weight = numpy.rint(contract.weight / contract.units[:, None, None, None])
    return QuantizedContract(
        contract.name,
        contract.output,
        contract.box,
        source,
        in_words(weight),
        numpy.rint(contract.bias / units) - read.zero * weight.reshape(len(weight), -1).sum(1),
        contract.grid,
        contract.stride,
        contract.padding,
        contract.dilation,
        contract.groups,
        contract.activation,
        kind=contract.kind,
        units=units,
    )


def _ending(contract: QuantizedContract, end: Quantize, cut: tuple[int, int] | None) -> QuantizedContract:
    """Return a contraction whose output is rounded, its outputs filled up to whole words."""
    extra = -len(contract.weight) % CHANNELS
    rows = ((0, extra), (0, 0), (0, 0), (0, 0))
    low, high = (0, LARGEST) if cut is None else cut
    return replace(
        contract,
        output=end.output,
        box=(words_of(len(contract.weight)), *contract.grid),  # what is rounded may be turned, see `turning`
        weight=numpy.pad(contract.weight, rows),
        bias=numpy.pad(contract.bias, (0, extra)),
        units=numpy.pad(contract.units, (0, extra), constant_values=1.0),
        activation=contract.activation if cut is None else None,
        scale=end.scale,
        zero=end.zero,
        low=low,
        high=high,
    )
