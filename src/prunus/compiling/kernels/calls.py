"""A net's operations as calls of kernels: their arguments, tables and weights among the program's constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy

from prunus.compiling.kernels import arguments, lists
from prunus.compiling.kernels.contraction import ACTIVATIONS, MASKED_ALONG, POOL_SIDE, POOLS, kernel_activation
from prunus.compiling.kernels.lines import regular
from prunus.compiling.kernels.lists import Lists
from prunus.compiling.kernels.numbers import FUNCTIONS, Numbers
from prunus.compiling.kernels.variants import DOT, Variant, tile_of
from prunus.compiling.kernels.writing import Constants
from prunus.compiling.layout import nest, shaped
from prunus.compiling.net import INTEGER_TYPES, Indices, Operation, View, Windows, in_order, whole
from prunus.compiling.net import Numbers as Values
from prunus.compiling.planning import Plan
from prunus.compiling.taps import step_along

if TYPE_CHECKING:
    from prunus.compiling.operations import Contract, Lookup, Pool
    from prunus.compiling.operations.elementwise import Step

# Of a large layer at least so many tiles, and groups of outputs, are timed.
_FEWEST_TIMED = 4

_IN_WORK, _IN_CONSTANTS, _IS_NUMBER = range(3)


class Call(NamedTuple):
    """One call of a kernel.

    Attributes:
        kernel: its name.
        arguments_at: where its arguments are in the constants, in bytes.
        fraction: how much of the operation it does.
    """

    kernel: str
    arguments_at: int
    fraction: float = 1.0


class Runs(NamedTuple):
    """Elements in several buffers as runs of equal length.

    Attributes:
        starts: for each buffer, where each run begins: (runs,).
        length: elements of a run.
        steps: for each buffer, from one element of a run to the next.
    """

    starts: tuple[Indices, ...]
    length: int
    steps: tuple[int, ...]


def runs(addresses: Sequence[Indices]) -> Runs:
    """Return arrays of addresses of one shape as runs: the innermost loop over them.

    >>> runs([numpy.array([[0, 1, 2], [8, 9, 10]])])
    Runs(starts=(array([0, 8]),), length=3, steps=(1,))
    """
    loops = nest(addresses)
    if loops.tables is not None and loops.counts[-1] == 1:
        loops = nest(shaped(addresses))
    inner = loops.tables is None or len(loops.counts) > 1
    outer = loops.counts[:-1] if inner else loops.counts
    starts = []
    for buffer, base in enumerate(loops.bases):
        start = numpy.full((1,) * max(len(outer), 1), base, dtype=numpy.int64)
        for dim, (count, stride) in enumerate(zip(outer, loops.strides[buffer], strict=False)):
            step = numpy.arange(count) * stride
            if dim == 0 and loops.tables is not None:
                step = step + loops.tables[buffer]
            start = start + step.reshape([-1 if other == dim else 1 for other in range(len(outer))])
        starts.append(start.reshape(-1))
    if not inner:
        return Runs(tuple(starts), 1, tuple(0 for _ in starts))
    return Runs(tuple(starts), loops.counts[-1], tuple(stride[-1] for stride in loops.strides))


@dataclass(frozen=True)
class CallWriter:
    """Packs the arguments of calls.

    Attributes:
        plan: where values lie.
        constants: take weights, tables and arguments.
        numbers: what is computed in.
        looks: whether what contractions read is looked at for infinities and NaN before.
        saturates: whether products of 8 bits are added in pairs of 16 bits.
        most_macs: about how many multiply-adds a contraction may do: for timing, a larger one leaves tiles out.
        sorted_weights: those of the last contraction, by its output, the rows computed together and the parts.
    """

    plan: Plan
    constants: Constants
    numbers: Numbers
    looks: bool = False
    saturates: bool = False
    most_macs: float = math.inf
    sorted_weights: dict[tuple[int, int, int], Lists] = field(default_factory=dict)

    def output(self, operation: Operation) -> Indices:
        """Return where what an operation makes lies, of the shape of its box."""
        return self.plan.addresses(whole(operation.output, operation.box))

    def tape(self, target: Indices, sources: Sequence[View | Values], steps: Sequence[Step]) -> Call:
        """Return the call that applies functions to each element; without any, that copies the only source."""
        small = [_compact(source) if isinstance(source, numpy.ndarray) else None for source in sources]
        addresses = [
            self.plan.addresses(source) if isinstance(source, View) else compact[1]  # type: ignore[index]
            for source, compact in zip(sources, small, strict=True)
        ]
        spans = runs([target, *(address.reshape(target.shape) for address in addresses)])
        operands = b"".join(
            self._operand(None if compact is None else compact[0], spans.starts[place], spans.steps[place])
            for place, compact in enumerate(small, start=1)
        )
        packed = b"".join(
            arguments.STEP.pack(
                function=FUNCTIONS.index(step.function),
                first=step.operands[0],
                second=step.operands[-1],
                result=len(sources) + place,
                **dict(zip("ab", step.constants, strict=False)),
            )
            for place, step in enumerate(steps)
        )
        return self.call(
            "run_tape",
            arguments.TAPE,
            unit=self.plan.mode.block,
            runs=len(spans.starts[0]),
            length=spans.length,
            operands=len(sources),
            operands_at=self.constants.add_bytes(operands),
            steps=len(steps),
            steps_at=self.constants.add_bytes(packed),
            output_at=self.table(spans.starts[0]),
            output_step=spans.steps[0] if spans.length > 1 else self.plan.mode.block,
        )

    def _operand(self, numbers: Values | None, starts: Indices, step: int) -> bytes:
        if numbers is not None and numbers.size == 1:
            return arguments.OPERAND.pack(kind=_IS_NUMBER, number=float(numbers.flat[0]))
        if numbers is None:
            return arguments.OPERAND.pack(kind=_IN_WORK, starts_at=self.table(starts), step=step)
        places = {"starts_at": self.table(starts), "numbers_at": self.array(numbers)}
        return arguments.OPERAND.pack(kind=_IN_CONSTANTS, step=step, **places)

    def rows(
        self,
        kernel: str,
        source: View,
        target: Indices,
        scale: Values | None = None,
        shift: Values | None = None,
        eps: float = 0.0,
    ) -> Call:
        """Return the call of a kernel over the rows of a (rows, elements) view that lie alike."""
        addresses = self.plan.addresses(source)
        count = addresses.shape[1]
        norm = "norm" in kernel
        here, there = addresses[0] - addresses[0, 0], target[0] - target[0, 0]
        return self.call(
            f"{kernel}{self._width}",
            arguments.ROWS,
            unit=self.plan.mode.block,
            rows=len(addresses),
            count=count,
            sources_at=self.table(addresses[:, 0]),
            outputs_at=self.table(target[:, 0]),
            here_at=self.table(here),
            there_at=self.table(there),
            dense=self.plan.mode.single and all(bool((numpy.diff(line) == 1).all()) for line in (here, there)),
            scale_at=self.array(numpy.ones(count) if scale is None else scale) if norm else 0,
            shift_at=self.array(numpy.zeros(count) if shift is None else shift) if norm else 0,
            eps=eps,
        )

    def pool(self, operation: Pool) -> Call:
        """Return the call of a pooling."""
        source, target = self.plan.addresses(operation.source), self.output(operation)
        channels, rows, columns = operation.box
        right, side = step_along(source, 2), operation.source.index.shape[2]
        is_line = self.plan.mode.single and right == 1
        size, stride, before = (regular(operation.columns, side) if is_line else None) or (0, 0, 0)
        return self.call(
            f"pool_{operation.function}{self._width}",
            arguments.POOL,
            unit=self.plan.mode.block,
            channels=channels,
            rows=rows,
            columns=columns,
            corners_at=self.table(source[:, 0, 0]),
            down=step_along(source, 1),
            right=right,
            size=size,
            stride=stride,
            before=before,
            side=side,
            output=int(target.flat[0]),
            output_channel=step_along(target, 0),
            output_down=step_along(target, 1),
            output_right=step_along(target, 2),
            **self._windows("row", operation.rows),
            **self._windows("column", operation.columns),
        )

    def _windows(self, name: str, windows: Windows) -> dict[str, int]:
        tables = {"first": windows.start, "last": windows.stop, "divisor": windows.divisors}
        places = {f"{name}_{key}_at": self.table(numpy.array(table)) for key, table in tables.items()}
        return places | {f"{name}_step": windows.step}

    def contraction(self, contract: Contract, variant: Variant) -> Call:
        """Return the call of a convolution or a linear layer."""
        plan, unit = self.plan, self.plan.mode.block
        packed = self._lists(contract, variant)
        narrow = bool(packed.offsets.max(initial=0) < 1 << 16)
        if variant == DOT or variant.outer == "columns":
            kind = "dot" if variant == DOT else f"columns{variant.width}"
            kernel = f"{kind}_{'narrow' if narrow else 'wide'}"
        else:
            tile = tile_of(contract, plan, variant, narrow)
            kernel, narrow = tile.name, tile.narrow
        tiles = lists.tiles(contract, plan, variant)
        layout = plan.layouts[contract.output]
        groups = len(contract.weight) // variant.rows
        num_tiles, num_groups = self.num_timed(len(tiles), groups, contract, variant)
        call = self.call(
            kernel,
            arguments.CONTRACTION,
            starts_at=self.table(packed.starts),
            offsets_at=self.constants.add(packed.offsets.astype(numpy.uint16 if narrow else numpy.int32)),
            values_at=self.array(packed.values),
            bias_at=self.array(contract.bias),
            tiles_at=self.table(tiles),
            source=plan.places[contract.source.value],
            output=plan.places[contract.output] + layout.origin * unit,
            groups=num_groups,
            tiles=num_tiles,
            cuts=variant.parts,
            by_outputs=variant.outer == "outputs",
            down=plan.taps[contract.output].steps[0],
            output_down=layout.pitch * unit,
            output_channel=layout.plane * unit,
            **self.mask(contract, variant),
            **self.residual(contract, variant),
            **self._after(contract),
        )
        return call._replace(fraction=num_tiles * num_groups / (len(tiles) * groups))

    def _lists(self, contract: Contract, variant: Variant) -> Lists:
        """Return a contraction's weights, sorted once for all variants that read them in the same order."""
        key = contract.output, variant.rows, variant.parts
        if key not in self.sorted_weights:
            if any(output != contract.output for output, _, _ in self.sorted_weights):
                self.sorted_weights.clear()
            self.sorted_weights[key] = lists.lists(contract, self.plan, variant)
        return self.sorted_weights[key]

    def num_timed(self, num_tiles: int, num_groups: int, contract: Contract, variant: Variant) -> tuple[int, int]:
        """Return how many of the tiles, and of the groups of outputs, are computed."""
        if self.most_macs == math.inf:
            return num_tiles, num_groups
        fraction = self.most_macs / max(contract.macs * self.plan.mode.block, 1)
        fewer_tiles = min(num_tiles, max(_FEWEST_TIMED, math.ceil(fraction * num_tiles)))
        if variant.parts > 1:  # lists of several parts are counted from all groups
            return fewer_tiles, num_groups
        left = fraction * num_tiles / fewer_tiles
        return fewer_tiles, min(num_groups, max(_FEWEST_TIMED, math.ceil(left * num_groups)))

    def residual(self, contract: Contract, variant: Variant) -> dict[str, int]:
        """Return how what is added to a contraction's sums lies; nothing where nothing is."""
        if contract.residual is None:
            return {}
        plan = self.plan
        beside = plan.mode.single or plan.mode.block > variant.width  # vectors lie beside each other
        return {
            "has_residual": 1,
            "residual": plan.first_address(contract.residual),
            "residual_channel": plan.step_along(contract.residual, 0),
            "residual_down": plan.step_along(contract.residual, 1),
            "residual_right": variant.width if beside else plan.step_along(contract.residual, 2),
        }

    def mask(self, contract: Contract, variant: Variant) -> dict[str, int]:
        """Return how it is told where there have to be zeros, because vectors reach beyond the end of a row."""
        layout = self.plan.layouts[contract.output]
        if not self.plan.mode.single or not layout.halo or contract.pool is not None:
            return {}
        if contract.output not in self.plan.along:
            return {"masked": int(variant.width > 1 and layout.box[2] % variant.width != 0)}
        places = numpy.arange(layout.plane)
        inside = (places % layout.pitch < layout.box[2]) & (places < layout.pitch * layout.box[1])
        ones = numpy.where(inside, -1, 0).astype(numpy.int32 if self.numbers.bytes == 4 else numpy.int64)
        return {"masked": MASKED_ALONG, "mask_at": self.constants.add(ones)}

    def _after(self, contract: Contract) -> dict[str, float]:
        """Return what follows the sums: activation and pooling."""
        after: dict[str, float] = {}
        if contract.activation is not None:
            function, constants = kernel_activation(contract.activation)
            after |= {"activation": ACTIVATIONS.index(function), **dict(zip(("low", "high"), constants, strict=False))}
        if contract.pool is not None:
            assert contract.pool[1:] == (POOL_SIDE, POOL_SIDE)
            after["pool"] = POOLS.index(f"{contract.pool[0]} {'row' if self.plan.mode.single else 'blocks'}")
        return after

    def look(self, operation: Operation, source: View) -> list[Call]:
        """Return the call that looks for infinities and NaN in what an operation reads, if that is wanted."""
        if not self.looks:
            return []
        spans = runs([self.plan.addresses(source)])
        return [
            self.call(
                "look_for_nonfinite",
                arguments.LOOK,
                unit=self.plan.mode.block,
                runs=len(spans.starts[0]),
                length=spans.length,
                starts_at=self.table(spans.starts[0]),
                step=spans.steps[0],
                layer=operation.output + 1,
            )
        ]

    def transfers(self) -> tuple[list[Call], list[Call]]:
        """Return the calls that load the inputs, and those that store the outputs."""
        inputs, outputs = self.plan.net.inputs.values(), self.plan.net.outputs
        types = [self.plan.net.integers.get(name) for name in self.plan.net.inputs]
        loads = [
            self._transfer(
                "load_input" if kind is None else "load_integers",
                place,
                View(number, in_order(math.prod(shape)).reshape(shape)),
                0 if kind is None else INTEGER_TYPES.index(kind),
            )
            for place, ((number, shape), kind) in enumerate(zip(inputs, types, strict=True))
        ]
        return loads, [self._transfer("store_output", place, view) for place, view in enumerate(outputs)]

    def _transfer(self, kernel: str, array: int, view: View, integer_type: int = 0) -> Call:
        order = numpy.arange(view.index.size, dtype=numpy.int64).reshape(view.index.shape)
        spans = runs([self.plan.addresses(view), order])
        return self.call(
            kernel,
            arguments.TRANSFER,
            unit=self.plan.mode.block,
            array=array,
            size=view.index.size,
            runs=len(spans.starts[0]),
            length=spans.length,
            here_at=self.table(spans.starts[0]),
            there_at=self.table(spans.starts[1]),
            here_step=spans.steps[0],
            there_step=spans.steps[1],
            integer_type=integer_type,
        )

    def look_up(self, operation: Lookup) -> Call:
        """Return the call that takes rows of a table."""
        target = self.output(operation)
        rows, width = operation.table.shape
        return self.call(
            "look_up",
            arguments.LOOKUP,
            unit=self.plan.mode.block,
            count=target.shape[2],
            rows=rows,
            width=width,
            sources_at=self.table(self.plan.addresses(operation.source)),
            outputs_at=self.table(target[0, 0]),
            step=step_along(target, 0),
            table_at=self.array(operation.table),
            layer=operation.output + 1,
        )

    def table(self, array: Indices) -> int:
        """Return where a table of whole numbers is kept."""
        return self.constants.add(array.astype(numpy.int32))

    def array(self, values: Values) -> int:
        """Return where numbers are kept, in what is computed in."""
        return self.constants.add(values.astype(numpy.float32 if self.numbers.bytes == 4 else numpy.float64))

    @property
    def _width(self) -> int:
        """How many numbers kernels of rows and windows compute at once."""
        return 1 if self.plan.mode.single else self.plan.mode.vector

    def call(self, kernel: str, kind: arguments.Arguments, **values: float) -> Call:
        """Return a call, its arguments being kept."""
        return Call(kernel, self.constants.add_bytes(kind.pack(**values)))


def _compact(numbers: Values) -> tuple[Values, Indices]:
    """Return numbers without dimensions along which they repeat, and the place of each in what is left."""
    small = numbers
    for dim in range(numbers.ndim):
        first = small.take([0], dim)
        if bool(((small == first) | (numpy.isnan(small) & numpy.isnan(first))).all()):
            small = first
    places = numpy.arange(small.size, dtype=numpy.int64).reshape(small.shape)
    return small, numpy.broadcast_to(places, numbers.shape)
