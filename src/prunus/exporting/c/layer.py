"""A convolution or a linear layer in C: loops over its positions, where a window lies, what is done with its sum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prunus.compiling.kernels.numbers import RISING
from prunus.compiling.kernels.writing import Writer, sum_of, times
from prunus.compiling.net import Pointwise
from prunus.compiling.operations import Contract
from prunus.exporting.c.arranging import Reading, steps
from prunus.exporting.c.arrays import Constants, number
from prunus.exporting.c.functions import Functions
from prunus.exporting.c.loops import loop, term
from prunus.exporting.c.scratch import Scratch
from prunus.exporting.c.storage import Stored

_POOLED = {"max": "most", "avg": "total"}


@dataclass
class Parts:
    """What the functions of a file need beside themselves."""

    functions: Functions = field(default_factory=Functions)
    constants: Constants = field(default_factory=Constants)
    scratch: Scratch = field(default_factory=Scratch)


@dataclass(frozen=True)
class Edge:
    """Along rows or columns, where windows reach over the edge of the source.

    Attributes:
        corner: name of where a window begins: ``top`` or ``left``.
        tap: counter of the kernel's rows or columns: ``i`` or ``j``.
        places: name of the array that tells the row, or the column, of each weight.
        side: how many rows or columns there are.
        size: how many the kernel has.
        gap: from one of the kernel to the next, in the source.
        pad: how far the first window begins outside.
    """

    corner: str
    tap: str
    places: str
    side: int
    size: int
    gap: int
    pad: int

    @property
    def reach(self) -> int:
        """How many rows or columns a window covers."""
        return self.gap * (self.size - 1) + 1


@dataclass(frozen=True)
class Layer:
    """What the C of a layer is made from; in it, `o` counts outputs, `y` and `x` positions.

    Attributes:
        contract: the layer.
        reading: how it reads its source.
        stored: its weights.
        prefix: what its arrays are called after.
        source, residual: names of the arguments that point to what it reads and what it adds.
        file: takes what the file needs.
    """

    contract: Contract
    reading: Reading
    stored: Stored
    prefix: str
    source: str
    residual: str
    file: Parts

    @property
    def outputs(self) -> int:
        """How many output channels there are."""
        return len(self.contract.weight)

    @property
    def number(self) -> str:
        """The number of an output, as an index."""
        return "o" if self.outputs > 1 else "0"

    @property
    def has_bias(self) -> bool:
        """Whether a bias is not zero."""
        return bool(self.contract.bias.any())

    @property
    def channels(self) -> int:
        """How many channels each output reads."""
        return int(self.contract.weight.shape[1])

    @property
    def kernel(self) -> tuple[int, int]:
        """Rows and columns of a kernel."""
        return int(self.contract.weight.shape[2]), int(self.contract.weight.shape[3])

    @property
    def tap_steps(self) -> tuple[int, int]:
        """How far it is in the source to what the next row, and the next column, of a kernel reads."""
        source = self.reading.steps
        return self.contract.dilation[0] * source.row, self.contract.dilation[1] * source.column

    @property
    def edges(self) -> list[Edge]:
        """Where windows reach over the edge: along rows, along columns, both or neither."""
        contract = self.contract
        sizes = zip(contract.source.index.shape[1:], self.kernel, contract.dilation, contract.padding, strict=True)
        rows, columns = sizes
        both = (Edge("top", "i", "rows", *rows), Edge("left", "j", "columns", *columns))
        return [edge for edge in both if edge.pad > 0]

    def corner(self, write: Writer) -> None:
        """Write where the window of a position begins: `top` and `left` where it may be outside, and `corner`."""
        source, contract = self.reading.steps, self.contract
        edges = {edge.corner: edge for edge in self.edges}
        at = []
        for name, position, stride, step in zip(
            ("top", "left"), self._position(), contract.stride, (source.row, source.column), strict=True
        ):
            place = f"{_wrapped(position)} * {stride}" if position and stride > 1 else position
            if name in edges:
                write(f"const long {name} = {place or 0} - {edges[name].pad};")
                place = name
            if place:
                at.append(times(_wrapped(place) if step != 1 else place, step))
        each_group = self.outputs // contract.groups
        group = "o" if each_group == 1 else f"o / {each_group}"
        moving = times(group, source.group) if contract.groups > 1 else ""
        write(f"const long corner = {sum_of(source.base, moving, *at)};")

    def _position(self) -> tuple[str, str]:
        """Return the row and the column before pooling, as C writes them; empty where there is one only."""
        names = []
        _, rows, columns = self.contract.box
        sizes = (1, 1) if self.contract.pool is None else self.contract.pool[1:]
        for outer, count, within, size in zip("yx", (rows, columns), "vu", sizes, strict=True):
            names.append(sum_of(term(outer, size, count), term(within, 1, size)))
        return tuple("" if name == "0" else name for name in names)  # type: ignore[return-value]

    @contextmanager
    def loops(self, write: Writer) -> Iterator[None]:
        """Write loops over positions, and over those of a pooling window."""
        pool = self.contract.pool
        _, rows, columns = self.contract.box
        with loop(write, "y", rows), loop(write, "x", columns):
            if pool is None:
                yield
                return
            function, height, width = pool
            write(f"float {_POOLED[function]} = {'-INFINITY' if function == 'max' else '0'};")
            with loop(write, "v", height), loop(write, "u", width):
                yield
            pooled = "most" if function == "max" else f"total / {number(height * width)}"
            write(f"out[{self._out()}] = {self.file.functions.call(self._after(), pooled)};")

    def _after(self) -> Pointwise | None:
        activation, pool = self.contract.activation, self.contract.pool
        return activation if activation and pool and pool[0] == "max" and _rises(activation) else None

    def finish(self, write: Writer, value: str) -> None:
        """Write what is done with the sum of a position: scale, bias, residual, activation, pooling."""
        if self.stored.scales is not None and self.stored.nonzero:
            value = f"{value} * {self.prefix}_scale[{self.number}]"
        contract = self.contract
        if self.has_bias:
            value = sum_of(value, f"{self.prefix}_bias[{self.number}]")
        if contract.residual is not None:
            value = sum_of(value, f"{self.residual}[{self._beside()}]")
        if self._after() is None:
            value = self.file.functions.call(contract.activation, value)
        if contract.pool is None:
            write(f"out[{self._out()}] = {value};")
        elif contract.pool[0] == "max":
            write(f"most = {self.file.functions.larger('most', value)};")
        else:
            write(f"total += {value};")

    def _out(self) -> str:
        outputs, rows, columns = self.contract.box
        return sum_of(term("o", rows * columns, outputs), term("y", columns, rows), term("x", 1, columns))

    def _beside(self) -> str:
        assert self.contract.residual is not None
        residual = steps(self.contract.residual.index, 1)
        assert residual is not None, "arranging puts a copy before one that is not even"
        y, x = (_wrapped(position) for position in self._position())
        return sum_of(
            residual.base,
            term("o", residual.channel, self.outputs),
            times(y, residual.row) if y else "",
            times(x, residual.column) if x else "",
        )


def _rises(activation: Pointwise) -> bool:
    """Tell whether a function never falls: it may be applied to a maximum instead of to all that it is taken of."""
    falls = activation.function == "leaky_relu" and activation.constants[0] < 0
    return activation.function in RISING and not falls


def _wrapped(expression: str) -> str:
    """Return an expression that may be multiplied."""
    return f"({expression})" if " + " in expression else expression
