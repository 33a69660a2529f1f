"""From the graph of a model whose weights and values are whole numbers to a net that computes with these."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection
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
    UnitContract,
)
from prunus.compiling.operations.quantized import CHANNELS, LARGEST, limits, words_of
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

    def _words(self, view: View) -> tuple[View, Dequantize] | None:
        """Return a view of floating-point numbers that were words as one of these words; None where it is none."""
        maker = self._made.get(view.value)
        if not isinstance(maker, Dequantize) or view.index.ndim != 3:
            return None
        plane = maker.box[1] * maker.box[2]
        first = view.index[::CHANNELS]
        expected = numpy.repeat(first, CHANNELS, axis=0)[: len(view.index)]
        expected = expected + (numpy.arange(len(view.index)) % CHANNELS)[:, None, None] * plane
        channel, place = numpy.divmod(first, plane)
        if not bool((expected == view.index).all()) or bool((channel % CHANNELS != 0).any()):
            return None
        index = channel // CHANNELS * plane + place
        return View(maker.source.value, maker.source.index.reshape(-1)[index]), maker

    def _contraction(self, contract: UnitContract, end: Quantize | None) -> tuple[list[Operation], bool]:
        """Return a contraction in 8 bits, with the rounding behind it if that can be done in it."""
        contract = self._unflattened(contract)
        read = self._words(contract.source)
        per_group = contract.weight.shape[1], len(contract.weight) // contract.groups
        whole_groups = contract.groups == 1 or all(count % CHANNELS == 0 for count in per_group)
        if read is None or not whole_groups:
            return [contract.plain], False
        source, grid = read
        cut = None if end is None else limits(contract.activation, end.scale, end.zero)
        activation = contract.activation if cut is None else None
        in_kernel = activation is None or bool(kernel_activation(activation)[0])
        residual = None if contract.residual is None else self._words(contract.residual)
        even = len(contract.weight) % CHANNELS == 0
        if not in_kernel or (contract.residual is not None and (residual is None or end is None or not even)):
            return [contract.plain], False
        units = contract.units * grid.scale
        weight = numpy.rint(contract.weight / contract.units[:, None, None, None])
        bias = numpy.rint(contract.bias / units) - grid.zero * weight.reshape(len(weight), -1).sum(1)
        made = QuantizedContract(
            contract.name,
            contract.output,
            contract.box,
            source,
            in_words(weight),
            bias,
            contract.grid,
            contract.stride,
            contract.padding,
            contract.dilation,
            contract.groups,
            contract.activation,
            kind=contract.kind,
            units=units,
        )
        if end is not None:
            made = _ending(made, end, cut)
            if residual is not None:
                view, of_residual = residual
                made = replace(made, residual=view, residual_scale=of_residual.scale, residual_zero=of_residual.zero)
        try:
            made.check()
        except ProgramError:  # its sums may have more than 32 bits
            return [contract.plain], False
        return [made], end is not None

    def _unflattened(self, contract: UnitContract) -> UnitContract:
        """Return a linear layer of all elements of a value as a convolution whose kernel covers its plane."""
        maker = self._made.get(contract.source.value)
        if not isinstance(maker, Dequantize) or contract.groups > 1:
            return contract
        flat = contract.source.index.shape == (contract.weight.shape[1], 1, 1) and contract.weight.shape[2:] == (1, 1)
        if not flat or not is_whole(contract.source, maker.box):
            return contract
        return replace(
            contract,
            source=whole(maker.output, maker.box),
            weight=contract.weight.reshape(len(contract.weight), *maker.box),
        )

    def _pool(self, pool: Pool) -> list[Operation]:
        """Return a maximum of whole numbers, and what makes floating-point ones of it."""
        read = self._words(pool.source)
        if read is None or pool.function != "max":
            return [pool]
        source, grid = read
        box = (words_of(pool.box[0]), *pool.box[1:])
        made = replace(pool, output=self._new(), box=box, function="max_bytes", source=source)
        return [made, self._back(pool, made, grid)]

    def _join(self, join: Join) -> list[Operation]:
        """Return words put beside each other, and what makes floating-point numbers of them."""
        pieces: list[tuple[View | Numbers, Indices]] = []
        grids = []
        plane = join.box[1] * join.box[2]
        for piece, places in join.pieces:
            read = self._words(piece) if isinstance(piece, View) else None
            if read is None or places.shape[0] % CHANNELS:
                return [join]
            first = places[::CHANNELS]
            expected = (
                numpy.repeat(first, CHANNELS, axis=0) + (numpy.arange(len(places)) % CHANNELS)[:, None, None] * plane
            )
            channel, place = numpy.divmod(first, plane)
            if not bool((expected == places).all()) or bool((channel % CHANNELS != 0).any()):
                return [join]
            pieces.append((read[0], channel // CHANNELS * plane + place))
            grids.append((read[1].scale, read[1].zero))
        if len(set(grids)) != 1:
            return [join]
        read_grid = next(self._made[piece.value] for piece, _ in join.pieces if isinstance(piece, View))
        assert isinstance(read_grid, Dequantize)
        made = Join(join.name, self._new(), (words_of(join.box[0]), *join.box[1:]), tuple(pieces))
        return [made, self._back(join, made, read_grid)]

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

    def _back(self, operation: Operation, made: Operation, grid: Dequantize) -> Dequantize:
        source = whole(made.output, made.box)
        return Dequantize(operation.name, operation.output, operation.box, source, grid.scale, grid.zero)

    def _new(self) -> int:
        self._next += 1
        return self._next - 1


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
