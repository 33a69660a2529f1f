"""The C of every operation but contractions: loops over addresses, in blocks with a vector for each element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy

from prunus.compiling.codegen.numbers import COMBINED
from prunus.compiling.codegen.writing import Constants, Needs, Writer, counters, sum_of, times
from prunus.compiling.layout import Nest, nest
from prunus.compiling.net import (
    Combine,
    Contract,
    Indices,
    Join,
    Map,
    Normalize,
    Operation,
    Pointwise,
    Pool,
    Reduce,
    View,
    Windows,
)
from prunus.compiling.planning import Plan
from prunus.compiling.taps import step_along


@dataclass
class Emitter:
    """Writes the bodies of step functions; in each there are `weights`, `work`, `part` and `parts`."""

    plan: Plan
    needs: Needs
    constants: Constants

    @property
    def width(self) -> int:
        """Numbers computed at once: a vector in blocks, one singly."""
        return 1 if self.plan.mode.single else self.plan.mode.vector

    @property
    def type(self) -> str:
        """The C type of what is computed at once."""
        return "real" if self.width == 1 else f"vec{self.width}"

    def body(self, operation: Operation) -> str:
        """Return the lines of a step's function."""
        write = Writer(depth=1)
        self.needs.widths.add(self.width)
        if isinstance(operation, Map):
            self._map(write, operation)
        elif isinstance(operation, Combine):
            self._combine(write, operation)
        elif isinstance(operation, Join):
            self._join(write, operation)
        elif isinstance(operation, Pool):
            self._pool(write, operation)
        elif isinstance(operation, Reduce):
            self._reduce(write, operation)
        else:
            assert isinstance(operation, Normalize)
            self._normalize(write, operation)
        return write.text()

    def nonfinite(self, operation: Contract) -> str:
        """Return lines that return its output, counted from 1, if it reads an infinity or NaN, else 0."""
        write = Writer(depth=1)
        kind = "int" if self.width == 1 else f"mask{self.width}"
        write("const long part = 0, parts = 1;", f"{kind} bad = {'0' if self.width == 1 else '{0}'};")
        with self._over(write, [self.plan.addresses(operation.source)]) as (source,):
            write(f"bad |= nonfinite{self.width}({self._load(source)});")
        if self.width == 1:
            write(f"return bad ? {operation.output + 1} : 0;")
        else:
            write(f"for (int i = 0; i < {self.width}; ++i) if (bad[i]) return {operation.output + 1};", "return 0;")
        return write.text()

    def _out(self, operation: Operation) -> Indices:
        box = operation.box
        index = numpy.arange(numpy.prod(box), dtype=numpy.int64).reshape(box)
        return self.plan.addresses(View(operation.output, index))

    def _map(self, write: Writer, operation: Map) -> None:
        with self._over(write, [self._out(operation), self.plan.addresses(operation.source)]) as (to, source):
            value = self.needs.call(operation.pointwise, self._load(source), self.width)
            write(self._store(to, value))

    def _combine(self, write: Writer, operation: Combine) -> None:
        addresses = [self._out(operation), self.plan.addresses(operation.first)]
        second = operation.second
        if isinstance(second, View):
            addresses.append(self.plan.addresses(second))
        elif not (second == second.flat[0]).all():
            addresses.append(numpy.arange(second.size, dtype=numpy.int64).reshape(second.shape))
        with self._over(write, addresses, numbers=None if isinstance(second, View) else second) as found:
            to, first, *others = found
            if isinstance(second, View):
                other = self._load(others[0])
            else:
                other = self._splat(others[0] if others else self.needs.numbers.constant(float(second.flat[0])))
            value = COMBINED[operation.function].format(x=self._load(first), y=other, n=self.width)
            if operation.activation is not None:
                value = self.needs.call(operation.activation, value, self.width)
            write(self._store(to, value))

    def _join(self, write: Writer, operation: Join) -> None:
        everywhere = self._out(operation).reshape(-1)
        for piece, places in operation.pieces:
            if places.size == 0:
                continue
            target = everywhere[places]
            if isinstance(piece, View):
                with self._over(write, [target, self.plan.addresses(piece)]) as (to, source):
                    write(self._store(to, self._load(source)))
                continue
            same = bool((piece == piece.flat[0]).all())
            order = [] if same else [numpy.arange(piece.size, dtype=numpy.int64).reshape(piece.shape)]
            with self._over(write, [target, *order], numbers=piece) as (to, *where):
                value = where[0] if where else self.needs.numbers.constant(float(piece.flat[0]))
                write(self._store(to, self._splat(value)))

    def _pool(self, write: Writer, operation: Pool) -> None:
        source = self.plan.addresses(operation.source)
        down, right = (step_along(source, dim) for dim in (1, 2))
        outputs = self._out(operation)
        corners = numpy.broadcast_to(source[:, :1, :1], outputs.shape)
        index = numpy.arange(outputs.size, dtype=numpy.int64).reshape(outputs.shape)
        with self._channels(write, [outputs, corners, index], operation.box) as (to, corner):
            bounds = self._bounds(write, "y", operation.rows), self._bounds(write, "x", operation.columns)
            start = sum_of(times("v", down), times("u", right))
            load = self._load(f"{corner} + {start}")
            first = "-INFINITY" if operation.function == "max" else "0"
            write(f"{self.type} found = {self._splat(f'({self.needs.numbers.real}){first}')};")
            with (
                write.block(f"for (long v = {bounds[0][0]}; v < {bounds[0][1]}; v += {operation.rows.step})"),
                write.block(f"for (long u = {bounds[1][0]}; u < {bounds[1][1]}; u += {operation.columns.step})"),
            ):
                write(
                    f"found = larger{self.width}(found, {load});"
                    if operation.function == "max"
                    else f"found = found + {load};"
                )
            if operation.function == "avg":
                write(f"found = found / (real)({bounds[0][2]} * {bounds[1][2]});")
            write(self._store(to, "found"))

    @contextmanager
    def _channels(
        self, write: Writer, addresses: Sequence[Indices], box: tuple[int, int, int]
    ) -> Iterator[tuple[str, str]]:
        """Loop over channels, rows and columns of an output (y, x) and give where it and the source's channel lie."""
        outputs, corners, _ = addresses
        steps = [step_along(outputs, dim) for dim in range(3)]
        channels = corners[:, 0, 0]
        even = len(channels) < 2 or bool((numpy.diff(channels) == channels[1] - channels[0]).all())
        write(self._share(box[0]))
        with write.block("for (long c = first; c < last; ++c)"), write.loops(("y", "x"), box[1:]), self._lanes(write):
            to = sum_of(
                f"work + {int(outputs.flat[0])}",
                *(times(name, step) for name, step in zip("cyx", steps, strict=True)),
                self._lane(),
            )
            if even:
                stride = int(channels[1] - channels[0]) if len(channels) > 1 else 0
                corner = sum_of(f"work + {int(channels[0])}", times("c", stride), self._lane())
            else:
                corner = sum_of(f"work + {self._table(channels)}[c]", self._lane())
            yield to, corner

    def _bounds(self, write: Writer, counter: str, windows: Windows) -> tuple[str, str, str]:
        """Return the C of where a window starts and stops, and of what an average divides by."""

        def line(numbers: Sequence[int]) -> str:
            array = numpy.array(numbers, dtype=numpy.int64)
            step = int(array[1] - array[0]) if len(array) > 1 else 0
            if bool((array == array[0] + step * numpy.arange(len(array))).all()):
                return sum_of(times(counter, step), int(array[0]))
            return f"{self._table(array)}[{counter}]"

        return line(windows.start), line(windows.stop), line(windows.divisors)

    def _reduce(self, write: Writer, operation: Reduce) -> None:
        function = operation.function
        with self._rows(write, operation.source, self._out(operation).reshape(-1, 1)) as (source, to, inner):
            start = f"({self.needs.numbers.real})" + {"amax": "-INFINITY", "amin": "INFINITY"}.get(function, "0")
            write(f"{self.type} found = {self._splat(start)};")
            with self._inner(write, inner) as (here, _):
                load = self._load(f"{source} + {here}")
                combined = {"amax": f"larger{self.width}(found, {load})", "amin": f"smaller{self.width}(found, {load})"}
                write(f"found = {combined.get(function, f'found + {load}')};")
            if function == "mean":
                write(f"found = found / {self._number(operation.source.index.shape[1])};")
            write(self._store(to, "found"))

    def _normalize(self, write: Writer, operation: Normalize) -> None:
        places = self._out(operation).reshape(operation.source.index.shape)
        with self._rows(write, operation.source, places) as (source, to, inner):
            norm = operation.function in ("layer_norm", "rms_norm")
            (self._norm if norm else self._softmax)(write, operation, source, to, inner)

    def _softmax(self, write: Writer, operation: Normalize, source: str, to: str, inner: Nest) -> None:
        """Write exp(x - max) / sum, or x - max - log(sum), from left to right: max may be much larger than the sum."""
        log = operation.function == "log_softmax"
        write(f"{self.type} most = {self._splat(f'({self.needs.numbers.real})-INFINITY')};")
        with self._inner(write, inner) as (here, _):
            write(f"most = larger{self.width}(most, {self._load(f'{source} + {here}')});")
        write(f"{self.type} total = {self._splat('0')};")
        with self._inner(write, inner) as (here, there):
            value = self.needs.call(Pointwise("exp"), f"{self._load(f'{source} + {here}')} - most", self.width)
            write(f"const {self.type} power = {value};", "total = total + power;")
            if not log:
                write(self._store(f"{to} + {there}", "power"))
        if log:
            write(f"total = {self.needs.call(Pointwise('log'), 'total', self.width)};")
        with self._inner(write, inner) as (here, there):
            apart = f"{self._load(f'{source} + {here}')} - most - total"
            write(self._store(f"{to} + {there}", apart if log else f"{self._load(f'{to} + {there}')} / total"))

    def _norm(self, write: Writer, operation: Normalize, source: str, to: str, inner: Nest) -> None:
        """Write (x - mean) / sqrt(variance + eps) * scale + shift; the root mean square norm takes no mean.

        A variance that overflows makes NaN: zeros would hide it, and PyTorch makes NaN of it in most rows.
        """
        count = self._number(operation.source.index.shape[1])
        write(f"{self.type} mean = {self._splat('0')}, variance = {self._splat('0')};")
        if operation.function == "layer_norm":
            with self._inner(write, inner) as (here, _):
                write(f"mean = mean + {self._load(f'{source} + {here}')};")
            write(f"mean = mean / {count};")
        with self._inner(write, inner) as (here, _):
            write(f"const {self.type} apart = {self._load(f'{source} + {here}')} - mean;")
            write("variance = variance + apart * apart;")
        variance = f"variance / {count} + {self.needs.numbers.constant(operation.eps)}"
        write(f"const {self.type} root = {self.needs.call(Pointwise('sqrt'), variance, self.width)};")
        write(f"const {self.type} factor = 1 / root{' + (root - root)' if operation.function == 'layer_norm' else ''};")
        with self._inner(write, inner, index=True) as (here, there):
            value = f"({self._load(f'{source} + {here}')} - mean) * factor"
            if operation.scale is not None:
                value = f"{value} * {self._array(operation.scale)}[element]"
            if operation.shift is not None:
                value = f"{value} + {self._array(operation.shift)}[element]"
            write(self._store(f"{to} + {there}", value))

    @contextmanager
    def _rows(self, write: Writer, source: View, places: Indices) -> Iterator[tuple[str, str, Nest]]:
        """Loop over rows and give where one begins in source and output, and the loops over its elements in both."""
        addresses = self.plan.addresses(source)
        relative = addresses[0] - addresses[0, 0]
        outward = places[0] - places[0, 0] if places.shape[1] > 1 else numpy.zeros_like(relative)
        inner = nest([relative, outward, numpy.arange(len(relative), dtype=numpy.int64)])
        with self._over(write, [addresses[:, 0], places[:, 0]]) as (begin, to):
            yield begin, to, inner

    @contextmanager
    def _inner(self, write: Writer, inner: Nest, index: bool = False) -> Iterator[tuple[str, str]]:
        names = [f"e{i}" for i in range(len(inner.counts))]
        with write.loops(names, inner.counts):
            here, there, element = (self._place(inner, buffer, names) for buffer in range(3))
            if index:
                write(f"const long element = {element};")
            yield here, there

    @contextmanager
    def _over(
        self, write: Writer, addresses: Sequence[Indices], numbers: numpy.ndarray | None = None
    ) -> Iterator[list[str]]:
        """Loop over addresses in several buffers, the outermost loop shared among threads, and give where each lies.

        With `numbers`, the last addresses are places in that array of constants.
        """
        found = nest(addresses)
        names = counters(len(found.counts))
        with write.block(""):
            write(self._share(found.counts[0]))
            with (
                write.block(f"for (long {names[0]} = first; {names[0]} < last; ++{names[0]})"),
                write.loops(names[1:], found.counts[1:]),
                self._lanes(write),
            ):
                places = [self._place(found, buffer, names) for buffer in range(len(addresses))]
                constant = numbers is not None and not (numbers == numbers.flat[0]).all()
                yield [
                    f"{self._array(numbers)}[{place}]"  # type: ignore[arg-type]
                    if constant and buffer == len(places) - 1
                    else sum_of("work", place, self._lane())
                    for buffer, place in enumerate(places)
                ]

    @contextmanager
    def _lanes(self, write: Writer) -> Iterator[None]:
        """Loop over the vectors of an element, if there are several."""
        mode = self.plan.mode
        if mode.single or mode.block == mode.vector:
            yield
        else:
            with write.block(f"for (long lane = 0; lane < {mode.block}; lane += {mode.vector})"):
                yield

    def _lane(self) -> str:
        mode = self.plan.mode
        return "" if mode.single or mode.block == mode.vector else "lane"

    def _place(self, found: Nest, buffer: int, names: Sequence[str]) -> str:
        table = "" if found.tables is None else f"{self._table(found.tables[buffer])}[{names[0]}]"
        strides = zip(names, found.strides[buffer], strict=True)
        return sum_of(found.bases[buffer], table, *(times(name, stride) for name, stride in strides))

    def _share(self, count: int) -> str:
        return f"const long first = {count} * part / parts, last = {count} * (part + 1) / parts;"

    def _table(self, array: Indices) -> str:
        return f"((const int32_t *)(weights + {self.constants.add(array.astype(numpy.int32))}))"

    def _array(self, array: numpy.ndarray) -> str:
        dtype = numpy.float32 if self.needs.numbers.bytes == 4 else numpy.float64
        return f"((const real *)(weights + {self.constants.add(array.astype(dtype))}))"

    def _number(self, value: float) -> str:
        return self.needs.numbers.constant(value)

    def _load(self, place: str) -> str:
        return f"*(const {self.type} *)({place})"

    def _store(self, place: str, value: str) -> str:
        return f"*({self.type} *)({place}) = {value};"

    def _splat(self, value: str) -> str:
        return value if self.width == 1 else f"splat{self.width}({value})"
