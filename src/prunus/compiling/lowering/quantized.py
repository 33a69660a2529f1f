"""From the graph of a model whose weights and values are whole numbers to a net that computes with these."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import torch
from torch import fx, nn

from prunus.compiling.kernels.contraction import kernel_activation
from prunus.compiling.lowering.fusing import EXACT_FUSIONS, Fusion, fuse
from prunus.compiling.lowering.reader import RULES, Activation, Call, Reader
from prunus.compiling.lowering.turning import turned
from prunus.compiling.net import Indices, Net, Numbers, Operation, View, is_whole, whole
from prunus.compiling.operations import (
    Contract,
    Dequantize,
    Join,
    Pool,
    Quantize,
    QuantizedContract,
    Regroup,
    UnitContract,
)
from prunus.compiling.operations.quantized import CHANNELS, LARGEST, limits, word_of_zeros, words_of
from prunus.errors import ProgramError, ScalesError
from prunus.graph import ExampleInputs, Graph, call_arguments
from prunus.graph.calls import arguments_by_name
from prunus.graph.operations import Family, find
from prunus.quantizing import Scales
from prunus.quantizing.integer_graph import integer_module
from prunus.quantizing.quantizer import rounding_of

_TO_WHOLE, _FROM_WHOLE, _WEIGHT = (
    f"quantized_decomposed.{name}.default"
    for name in ("quantize_per_tensor", "dequantize_per_tensor", "dequantize_per_channel")
)
# Words of columns are put together first: there must be fewer of them by this factor than of channels.
_WORTH_COLUMNS = 0.75
_LAYERS = (Family.LINEAR, Family.CONVOLUTION)
# Windows are pooled in 8 bits by themselves.
_FUSIONS: tuple[Fusion, ...] = EXACT_FUSIONS[:-1]


def rounded(
    model: nn.Module, scales: Scales, example: ExampleInputs, dtype: torch.dtype
) -> tuple[nn.Module, ExampleInputs]:
    """Return a model whose numbers are whole ones where scales say so, and the example inputs as it takes them.

    Raises:
        TypeError: `scales` is something else.
        ValueError: the model is not computed in float32.
        ScalesError: they belong to another model, or its activations are of int8.
    """
    if not isinstance(scales, Scales):
        raise TypeError(f"scales must be what prunus.quantize returned, got {type(scales).__name__}")
    if dtype != torch.float32:
        raise ValueError(f"a program with scales computes in 8 bits and torch.float32, not in {dtype}")
    if scales.activations != "uint8":
        raise ScalesError(
            f"the scales are for activations of {scales.activations}, and programs compute with uint8; quantise the "
            "model with activations='uint8'"
        )
    args, kwargs = call_arguments(example, 1)
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    inputs = dict(bound.arguments) if all(entry.name for entry in scales.inputs) else bound.args
    with torch.no_grad():
        return integer_module(rounding_of(model, scales)), inputs


def lower_quantized(graph: Graph) -> Net:
    """Return the operations of a model that `quantizing.integer_graph.integer_module` made.

    Raises:
        CompileError: an operation can't be lowered.
    """
    return _Whole(fuse(turned(_Reader(graph).read()), _FUSIONS)).net()


@dataclass
class _Reader(Reader):
    """Reads pairs to 8 bits and back as operations, and remembers what weights are multiples of."""

    units: dict[fx.Node, Numbers] = field(default_factory=dict)
    weight: fx.Node | None = None  # of the operation that is being read

    @property
    def known(self) -> Collection[str]:
        return (*RULES, _TO_WHOLE, _FROM_WHOLE)

    def _operation(self, node: fx.Node) -> Any:
        name = str(node.target)
        if name == _TO_WHOLE:
            return self._to_whole(node)
        if name == _FROM_WHOLE:
            return self.values[node.args[0]]  # type: ignore[index]
        if name == _WEIGHT:
            self.units[node] = numpy.asarray(self.values[node.args[1]].double().numpy())  # type: ignore[index]
        layer = find(node.target).family in _LAYERS
        self.weight = arguments_by_name(node)["weight"] if layer else None
        return super()._operation(node)

    def make(self, operation: Operation, index: Indices | None = None) -> Activation:
        if type(operation) is Contract and self.weight in self.units:
            operation = UnitContract(**vars(operation), units=self.units[self.weight])
        return super().make(operation, index)

    def _to_whole(self, node: fx.Node) -> Any:
        arguments = arguments_by_name(node)
        value = self.values[arguments["input"]]
        if not isinstance(value, Activation) or _is_added_unrounded(node):
            return value
        scale, zero = float(numpy.float32(arguments["scale"])), int(arguments["zero_point"])
        box, number = self.boxes[value.value], self.next_value()
        words, name = (words_of(box[0]), *box[1:]), self.title(Call(node, arguments))
        self.make(Quantize(name, number, words, whole(value.value, box), scale, zero))
        self.make(Dequantize(name, number + 1, box, whole(number, words), scale, zero))
        return Activation(number + 1, value.index)


def _is_added_unrounded(node: fx.Node) -> bool:
    """Tell whether a layer's outputs are a term of a sum, which is rounded once it is complete.

    Of two such terms that is the later one.
    """
    sum_of = _sum_behind(node)
    if sum_of is None:
        return False
    others = [other.args[0] for other in sum_of.all_input_nodes if other is not next(iter(node.users))]
    nodes = list(node.graph.nodes)
    return not any(
        isinstance(other, fx.Node) and _sum_behind(other) is sum_of and nodes.index(other) > nodes.index(node)
        for other in others
    )


def _sum_behind(node: fx.Node) -> fx.Node | None:
    """Return the sum that alone reads what a layer makes, behind its pair; None where something else does."""
    made = node.args[0]
    if str(node.target) != _TO_WHOLE or not isinstance(made, fx.Node) or len(made.users) != 1:
        return None
    if find(made.target).family not in _LAYERS or len(node.users) != 1:
        return None
    (back,) = node.users
    readers = list(back.users)
    alone = len(readers) == 1 and find(readers[0].target).name == "add" and len(readers[0].all_input_nodes) == 2
    return readers[0] if alone else None


class _Whole:
    """Moves the borders between whole numbers and floating point until as much as can be lies between them.

    Args:
        net: with a Dequantize behind each Quantize.
    """

    def __init__(self, net: Net) -> None:
        self._net = net
        self._made: dict[int, Operation] = {}
        self._same: dict[int, int] = {}  # words -> others that hold the same

    def net(self) -> Net:
        """Return the net."""
        readers = Counter(view.value for operation in self._net.operations for view in operation.views)
        readers.update(view.value for view in self._net.outputs)
        alone = {value for value, count in readers.items() if count == 1}
        ends = {
            operation.source.value: operation
            for operation in self._net.operations
            if isinstance(operation, Quantize) and operation.source.value in alone
        }
        gone: set[int] = set()
        self._next = max(self._net.boxes) + 1
        for operation in self._net.operations:
            if operation.output in gone:
                continue
            if isinstance(operation, UnitContract):
                end = ends.get(operation.output)
                if end is not None and not is_whole(end.source, operation.box):
                    end = None
                made, with_end = self._contraction(operation, end)
                gone |= {end.output} if end is not None and with_end else set()
            elif isinstance(operation, Pool):
                made = self._pool(operation)
            elif isinstance(operation, Join):
                made = self._join(operation)
            elif isinstance(operation, Quantize):
                made = self._quantize(operation)
            elif isinstance(operation, Dequantize):
                source = View(self._same.get(operation.source.value, operation.source.value), operation.source.index)
                made = [replace(operation, source=source)]
            else:
                made = [operation]
            self._made |= {each.output: each for each in made}
        return self._cleaned()

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
        picks = _picks(view, maker)
        words = _as_words(picks)
        if words is not None:
            return [], View(maker.source.value, words)
        number, box = self._new(), (words_of(len(picks)), *picks.shape[1:])
        size = self._size(maker.source.value)
        whole_source = View(maker.source.value, numpy.arange(size, dtype=numpy.int64))
        made = Regroup(f"{maker.name} (regrouped)", number, box, (whole_source,), _filled(picks), maker.zero)
        return [made], whole(number, box)

    def _size(self, value: int) -> int:
        made = self._made.get(value)
        return math.prod(self._net.boxes[value] if made is None else made.box)

    def _contraction(self, contract: UnitContract, end: Quantize | None) -> tuple[list[Operation], bool]:
        """Return a contraction in 8 bits, with the rounding behind it if that can be done in it."""
        maker = self._maker(contract.source)
        if maker is None:
            return [contract.plain], False
        contract = self._unflattened(contract, maker)
        per_group = contract.weight.shape[1], len(contract.weight) // contract.groups
        whole_groups = contract.groups == 1 or all(count % CHANNELS == 0 for count in per_group)
        cut = None if end is None else limits(contract.activation, end.scale, end.zero)
        activation = contract.activation if cut is None else None
        in_kernel = activation is None or bool(kernel_activation(activation)[0])
        added = None if contract.residual is None else self._maker(contract.residual)
        even = len(contract.weight) % CHANNELS == 0
        unfit = contract.residual is not None and (added is None or end is None or not even)
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
        try:
            made.check()
        except ProgramError:  # its sums may have more than 32 bits
            return [contract.plain], False
        return [*before, made], end is not None

    def _unflattened(self, contract: UnitContract, maker: Dequantize) -> UnitContract:
        """Return a linear layer of all elements of a value as a convolution whose kernel covers its plane.

        Unless it has fewer words with weights as it is.
        """
        weight = contract.weight
        flat = contract.source.index.shape == (weight.shape[1], 1, 1) and weight.shape[2:] == (1, 1)
        if not flat or contract.groups > 1 or maker.box[1:] == (1, 1) or not is_whole(contract.source, maker.box):
            return contract
        over_plane = weight.reshape(len(weight), *maker.box)
        if _num_words(weight) < _num_words(over_plane):
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
            or count > _WORTH_COLUMNS * _num_words(contract.weight)
        ):
            return [], None
        gap, step = contract.dilation[1], contract.stride[1]
        reach = gap * CHANNELS * (columns.shape[3] - 1)
        places = numpy.arange((contract.grid[1] - 1) * step + reach + 1) - contract.padding[1]
        places = places[:, None] + gap * numpy.arange(CHANNELS)
        picks = _picks(contract.source, maker)
        inside = (places >= 0) & (places < picks.shape[2])
        of_words = numpy.where(inside, picks[:, :, numpy.where(inside, places, 0)], -1)
        box = of_words.shape[:3]
        number = self._new()
        size = self._size(maker.source.value)
        sources = (View(maker.source.value, numpy.arange(size, dtype=numpy.int64)),)
        made = Regroup(f"{contract.name} (columns)", number, box, sources, of_words, maker.zero)
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
                picks[places] = sources[value] + _picks(piece, maker)
        made = self._together(join, picks.reshape(join.box), sources, grid.zero)
        return [made, _back(join, made, grid)]

    def _together(self, join: Join, picks: Indices, sources: Mapping[int, int], zero: int) -> Operation:
        """Return words of channels of several values."""
        number, box = self._new(), (words_of(join.box[0]), *join.box[1:])
        words = _as_words(picks)
        if words is None:
            views = tuple(View(value, numpy.arange(self._size(value), dtype=numpy.int64)) for value in sources)
            return Regroup(join.name, number, box, views, _filled(picks), zero)
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


def _picks(view: View, maker: Dequantize) -> Indices:
    """Return which channels, counted through the words, a view of what was made of them reads; of the view's shape."""
    plane = maker.box[1] * maker.box[2]
    channel, place = numpy.divmod(view.index, plane)
    word = maker.source.index.reshape(-1)[channel // CHANNELS * plane + place]
    picks: Indices = word * CHANNELS + channel % CHANNELS
    return picks


def _filled(picks: Indices) -> Indices:
    """Return picks of (channels, height, width) as those of words, (words, height, width, 4)."""
    missing = -len(picks) % CHANNELS
    filled = numpy.pad(picks, ((0, missing), (0, 0), (0, 0)), constant_values=-1)
    return filled.reshape(-1, CHANNELS, *picks.shape[1:]).transpose(0, 2, 3, 1)


def _as_words(picks: Indices) -> Indices | None:
    """Return which words picks of (channels, height, width) are, -1 for zeros; None where they are no whole words.

    What a last word holds beyond the channels does not matter, as no weight reads it.
    """
    first = picks[::CHANNELS]
    inside = numpy.repeat(first, CHANNELS, axis=0)[: len(picks)]
    within = (numpy.arange(len(picks)) % CHANNELS)[:, None, None]
    expected = numpy.where(inside < 0, -1, inside + within)
    if not bool((expected == picks).all()) or bool(((first >= 0) & (first % CHANNELS != 0)).any()):
        return None
    return numpy.where(first < 0, -1, first // CHANNELS)


def _num_words(weight: Numbers) -> int:
    """Return how many words hold a weight that is not zero."""
    return int(numpy.count_nonzero(in_words(weight != 0)))


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
        box=end.box,
        weight=numpy.pad(contract.weight, rows),
        bias=numpy.pad(contract.bias, (0, extra)),
        units=numpy.pad(contract.units, (0, extra), constant_values=1.0),
        activation=contract.activation if cut is None else None,
        scale=end.scale,
        zero=end.zero,
        low=low,
        high=high,
    )


def in_words(weight: Numbers) -> Numbers:
    """Return whole weights of 8 bits, (outputs, channels, height, width), in words of four channels each.

    >>> in_words(numpy.array([1, 2, 0, -1, 3])[None, :, None, None]).reshape(-1).tolist()
    [-16776703.0, 3.0]
    """
    outputs, channels, *kernel = weight.shape
    filled = numpy.pad(weight, ((0, 0), (0, -channels % CHANNELS), (0, 0), (0, 0))).astype(numpy.int8)
    apart = filled.reshape(outputs, -1, CHANNELS, *kernel).transpose(0, 1, 3, 4, 2)
    words = numpy.ascontiguousarray(apart).view(numpy.int32)[..., 0]
    return words.astype(numpy.float64)
