"""The C of every operation but contractions: loops over elements where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy

from prunus.compiling.codegen.writing import Writer, sum_of, times
from prunus.compiling.layout import Nest, nest
from prunus.compiling.net import (
    Combine,
    Indices,
    Join,
    Map,
    Normalize,
    Numbers,
    Operation,
    Pointwise,
    Pool,
    Reduce,
    View,
)
from prunus.exporting.c.arranging import step_along
from prunus.exporting.c.arrays import Constants, number
from prunus.exporting.c.functions import Functions
from prunus.exporting.c.loops import Place, each, entry, inner, over, place_in, shaped, term


@dataclass
class Steps:
    """Writes the functions of operations.

    Attributes:
        functions, constants: take what the whole file needs.
        prefix: what this operation's arrays are called after.
        arguments: value -> name of the argument that points to it.
    """

    functions: Functions
    constants: Constants
    prefix: str
    arguments: Mapping[int, str]

    def body(self, operation: Operation) -> str:
        """Return the lines of the function; `out` points to what it makes."""
        write = Writer(depth=1)
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

    def copy(self, view: View) -> str:
        """Return the lines of a function that copies a view, element by element in its order."""
        write = Writer(depth=1)
        places = [("out", _order(view.index.shape)), self._read(view)]
        with over(write, self.constants, self.prefix, places) as (to, source):
            write(f"{to} = {source};")
        return write.text()

    def _read(self, view: View) -> Place:
        return self.arguments[view.value], view.index

    def _map(self, write: Writer, operation: Map) -> None:
        places = [("out", _order(operation.source.index.shape)), self._read(operation.source)]
        with over(write, self.constants, self.prefix, places) as (to, source):
            write(f"{to} = {self.functions.call(operation.pointwise, source)};")

    def _combine(self, write: Writer, operation: Combine) -> None:
        shape, second = operation.first.index.shape, operation.second
        other = self._read(second) if isinstance(second, View) else self._constant("second", second)
        same = isinstance(other, str)
        places = [("out", _order(shape)), self._read(operation.first), *([] if isinstance(other, str) else [other])]
        with over(write, self.constants, self.prefix, places) as (to, first, *others):
            value = self.functions.combine(operation.function, first, str(other) if same else others[0])
            write(f"{to} = {self.functions.call(operation.activation, value)};")

    def _join(self, write: Writer, operation: Join) -> None:
        """Write each piece to its place; a single number goes everywhere before the others do."""
        pieces = [(piece, where) for piece, where in operation.pieces if where.size]
        numbers = {float(piece.flat[0]) for piece, _ in pieces if not isinstance(piece, View) and _is_single(piece)}
        if len(numbers) == 1:
            size = int(numpy.prod(operation.box))
            write(f"for (long i = 0; i < {size}; ++i) out[i] = {number(numbers.pop())};")
            pieces = [(piece, where) for piece, where in pieces if isinstance(piece, View) or not _is_single(piece)]
        for place, (piece, where) in enumerate(pieces):
            prefix = f"{self.prefix}_{place}"
            source = self._read(piece) if isinstance(piece, View) else self._constant(f"{place}", piece)
            both = [("out", where)] if isinstance(source, str) else [("out", where), source]
            with over(write, self.constants, prefix, both) as (to, *found):
                write(f"{to} = {source if isinstance(source, str) else found[0]};")

    def _constant(self, name: str, array: Numbers) -> str | Place:
        """Enter an array of constants without what repeats; a single number is told."""
        if _is_single(array):
            return number(float(array.flat[0]))
        flat = array.reshape(-1)
        run, period = repeats(flat)
        name = self.constants.add(f"{self.prefix}_{name}", flat[: run * period : run].astype(numpy.float32))
        places = numpy.tile(numpy.repeat(_order((period,)), run), flat.size // (run * period))
        return name, places.reshape(array.shape)

    def _pool(self, write: Writer, operation: Pool) -> None:
        index, (channels, height, width) = operation.source.index, operation.box
        down, right = step_along(index, 1), step_along(index, 2)
        most = operation.function == "max"
        with each(write, "c", channels), each(write, "y", height), each(write, "x", width):
            write(f"const long corner = {entry(index[:, 0, 0], 'c', self.constants, f'{self.prefix}_channel')};")
            rows, columns = (
                [entry(numpy.array(numbers), counter, self.constants, f"{self.prefix}_{counter}_{name}")
                 for name, numbers in (("first", windows.start), ("last", windows.stop), ("count", windows.divisors))]
                for counter, windows in (("y", operation.rows), ("x", operation.columns))
            )  # fmt: skip
            write(f"float found = {'-INFINITY' if most else '0'};")
            with (
                write.block(f"for (long v = {rows[0]}; v < {rows[1]}; v += {operation.rows.step})"),
                write.block(f"for (long u = {columns[0]}; u < {columns[1]}; u += {operation.columns.step})"),
            ):
                value = (
                    f"{self.arguments[operation.source.value]}[{sum_of('corner', times('v', down), times('u', right))}]"
                )
                write(f"found = {self.functions.larger('found', value)};" if most else f"found += {value};")
            at = sum_of(term("c", height * width, channels), term("y", width, height), term("x", 1, width))
            count = (
                f"({rows[2]}) * ({columns[2]})"
                if not (rows[2] + columns[2]).isdigit()
                else int(rows[2]) * int(columns[2])
            )
            write(f"out[{at}] = found;" if most else f"out[{at}] = found / (float)({count});")

    def _reduce(self, write: Writer, operation: Reduce) -> None:
        function, count = operation.function, operation.source.index.shape[1]
        with self._rows(write, operation.source, _order((len(operation.source.index), 1))) as (source, to, elements):
            write(f"float found = {_BEGIN.get(function, '0')};")
            with self._elements(write, elements) as (here, _, _):
                value = f"{source}[{here}]"
                if function == "amax":
                    write(f"found = {self.functions.larger('found', value)};")
                elif function == "amin":
                    write(f"found = {self.functions.smaller('found', value)};")
                else:
                    write(f"found += {value};")
            write(f"{to}[0] = found{f' / {number(count)}' if function == 'mean' else ''};")

    def _normalize(self, write: Writer, operation: Normalize) -> None:
        places = _order(operation.source.index.shape)
        with self._rows(write, operation.source, places) as (source, to, elements):
            norm = operation.function in ("layer_norm", "rms_norm")
            (self._norm if norm else self._softmax)(write, operation, source, to, elements)

    def _softmax(self, write: Writer, operation: Normalize, source: str, to: str, elements: Nest) -> None:
        """Write exp(x - max) / sum, or x - max - log(sum), from left to right: max may be much larger than the sum."""
        log = operation.function == "log_softmax"
        write("float most = -INFINITY, total = 0;")
        with self._elements(write, elements) as (here, _, _):
            write(f"most = {self.functions.larger('most', f'{source}[{here}]')};")
        with self._elements(write, elements) as (here, there, _):
            write(f"const float power = {self.functions.call(Pointwise('exp'), f'{source}[{here}] - most')};")
            write("total += power;", *([] if log else [f"{to}[{there}] = power;"]))
        if log:
            write(f"total = {self.functions.call(Pointwise('log'), 'total')};")
        with self._elements(write, elements) as (here, there, _):
            write(f"{to}[{there}] = {source}[{here}] - most - total;" if log else f"{to}[{there}] /= total;")

    def _norm(self, write: Writer, operation: Normalize, source: str, to: str, elements: Nest) -> None:
        """Write (x - mean) / sqrt(variance + eps) * scale + shift; the root mean square norm takes no mean.

        A variance that overflows makes NaN: zeros would hide it, and PyTorch makes NaN of it in most rows.
        """
        count, centred = number(operation.source.index.shape[1]), operation.function == "layer_norm"
        mean = " - mean" if centred else ""
        if centred:
            write("float mean = 0;")
            with self._elements(write, elements) as (here, _, _):
                write(f"mean += {source}[{here}];")
            write(f"mean /= {count};")
        write("float squares = 0;")
        with self._elements(write, elements) as (here, _, _):
            write(f"const float apart = {source}[{here}]{mean};", "squares += apart * apart;")
        root = self.functions.call(Pointwise("sqrt"), f"squares / {count} + {number(operation.eps)}")
        write(f"const float root = {root};", f"const float factor = 1 / root{' + (root - root)' if centred else ''};")
        names = {name: self._of_elements(name, getattr(operation, name)) for name in ("scale", "shift")}
        with self._elements(write, elements) as (here, there, element):
            value = f"({source}[{here}]{mean}) * factor"
            value += f" * {names['scale']}[{element}]" if names["scale"] else ""
            value += f" + {names['shift']}[{element}]" if names["shift"] else ""
            write(f"{to}[{there}] = {value};")

    def _of_elements(self, name: str, array: Numbers | None) -> str:
        """Enter a scale or a shift and return its name; none for one that changes nothing."""
        if array is None or bool((array == {"scale": 1.0, "shift": 0.0}[name]).all()):
            return ""
        return self.constants.add(f"{self.prefix}_{name}", array.astype(numpy.float32))

    @contextmanager
    def _rows(self, write: Writer, source: View, places: Indices) -> Iterator[tuple[str, str, Nest]]:
        """Loop over rows: `from` and `to` are where one begins; give these, and the loops over its elements."""
        index = source.index
        relative = index[0] - index[0, 0]
        outward = places[0] - places[0, 0] if places.shape[1] > 1 else numpy.zeros_like(relative)
        elements = nest(shaped([relative, outward, numpy.arange(len(relative), dtype=numpy.int64)]))
        begins = [(self.arguments[source.value], index[:, 0]), ("out", places[:, 0])]
        with over(write, self.constants, f"{self.prefix}_row", begins) as (begin, to):
            write(f"const float *from = &{begin};", f"float *to = &{to};")
            yield "from", "to", elements

    @contextmanager
    def _elements(self, write: Writer, found: Nest) -> Iterator[list[str]]:
        """Loop over a row's elements and give where each lies in the source, in the output, and its number."""
        with inner(write, found, "e") as names:
            yield [place_in(found, b, names, self.constants, f"{self.prefix}_element{b}") for b in range(3)]


_BEGIN = {"amax": "-INFINITY", "amin": "INFINITY"}


def _order(shape: tuple[int, ...]) -> Indices:
    return numpy.arange(numpy.prod(shape), dtype=numpy.int64).reshape(shape)


def repeats(flat: Numbers) -> tuple[int, int]:
    """Return how often each number is repeated at once, and after how many such runs everything is repeated.

    >>> repeats(numpy.array([1, 1, 2, 2, 1, 1, 2, 2]))
    (2, 2)
    """
    changes = numpy.flatnonzero(flat[1:] != flat[:-1]) + 1
    run = int(numpy.gcd.reduce(changes, initial=flat.size))
    small = flat[::run]
    lengths = (length for length in range(1, small.size + 1) if small.size % length == 0)
    return run, next(each for each in lengths if _repeats_every(small, each))


def _repeats_every(numbers: Numbers, length: int) -> bool:
    rows = numbers.reshape(-1, length)
    return bool(((rows == rows[0]) | (numpy.isnan(rows) & numpy.isnan(rows[0]))).all())


def _is_single(array: Numbers) -> bool:
    return bool((array == array.flat[0]).all())
