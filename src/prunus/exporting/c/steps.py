"""The C of every operation but contractions: loops over elements where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy

from prunus.compiling.kernels.numbers import COMBINED
from prunus.compiling.kernels.writing import Writer, sum_of, times
from prunus.compiling.layout import nest, shaped
from prunus.compiling.loops import GATHERED_FROM, Element
from prunus.compiling.net import Indices, Numbers, Operation, Pointwise, View
from prunus.compiling.operations import Elementwise, Join, Normalize, Pool, Reduce, normalize, pool, reduce
from prunus.compiling.taps import step_along
from prunus.exporting.c.arrays import Constants, number
from prunus.exporting.c.functions import Functions
from prunus.exporting.c.loops import Place, entry, inner, loop, over, place_in, term


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
        if isinstance(operation, Elementwise):
            self._elementwise(write, operation)
        elif isinstance(operation, Join):
            self._join(write, operation)
        elif isinstance(operation, Pool):
            pool.loop(operation.function, write, _Windows(self, operation))
        else:
            assert isinstance(operation, (Reduce, Normalize))
            kind = reduce if isinstance(operation, Reduce) else normalize
            kind.loop(operation.function, write, _Rows(self, operation))
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

    def _elementwise(self, write: Writer, operation: Elementwise) -> None:
        sources = [
            self._read(source) if isinstance(source, View) else self._constant(f"operand{number}", source)
            for number, source in enumerate(operation.sources)
        ]
        places = [("out", _order(operation.box)), *(source for source in sources if not isinstance(source, str))]
        with over(write, self.constants, self.prefix, places) as (to, *elements):
            read = iter(elements)
            values = [source if isinstance(source, str) else next(read) for source in sources]
            for number, step in enumerate(operation.steps):
                operands = [values[operand] for operand in step.operands]
                if step.function in COMBINED:
                    value = self.functions.combine(step.function, operands[0], operands[1])
                else:
                    value = self.functions.call(Pointwise(step.function, step.constants), operands[0])
                if number < len(operation.steps) - 1:
                    write(f"const float value{number} = {value};")
                    value = f"value{number}"
                values.append(value)
            write(f"{to} = {values[-1]};")

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
            with over(write, self.constants, prefix, both) as (to, *read):
                write(f"{to} = {source if isinstance(source, str) else read[0]};")

    def _constant(self, name: str, array: Numbers) -> str | Place:
        """Enter an array of constants without what repeats; a single number is told."""
        if _is_single(array):
            return number(float(array.flat[0]))
        flat = array.reshape(-1)
        run, period = repeats(flat)
        name = self.constants.add(f"{self.prefix}_{name}", flat[: run * period : run].astype(numpy.float32))
        places = numpy.tile(numpy.repeat(_order((period,)), run), flat.size // (run * period))
        return name, places.reshape(array.shape)


class _Floats:
    """How numbers are written in plain C: sizes, strides and tables are constants of the text."""

    type = "float"

    def __init__(self, file: Steps) -> None:
        self.file = file

    def constant(self, value: float) -> str:
        return number(value)

    def load(self, pointer: str, place: str) -> str:
        return f"{pointer}[{place}]"

    def store(self, pointer: str, place: str, value: str) -> str:
        return f"{pointer}[{place}] = {value};"

    def larger(self, one: str, other: str) -> str:
        return self.file.functions.larger(one, other)

    def smaller(self, one: str, other: str) -> str:
        return self.file.functions.smaller(one, other)

    def call(self, pointwise: Pointwise, argument: str) -> str:
        return self.file.functions.call(pointwise, argument)


class _Rows(_Floats):
    """Loops over the rows of a reduction, a softmax or a norm."""

    def __init__(self, file: Steps, operation: Reduce | Normalize) -> None:
        super().__init__(file)
        self.operation = operation
        self.count = number(operation.source.index.shape[1])
        self.eps = number(operation.eps) if isinstance(operation, Normalize) else ""
        self._arrays: dict[str, str] = {}

    @contextmanager
    def rows(self, write: Writer) -> Iterator[tuple[str, str]]:
        source = self.operation.source
        index = source.index
        places = _order(index.shape if isinstance(self.operation, Normalize) else (len(index), 1))
        begins = [(self.file.arguments[source.value], index[:, 0]), ("out", places[:, 0])]
        with over(write, self.file.constants, f"{self.file.prefix}_row", begins) as (begin, to):
            write(f"const float *from = &{begin};", f"float *to = &{to};")
            yield "from", "to"

    def gather(self, write: Writer, name: str, function: str) -> None:
        write(f"float {name} = {number(GATHERED_FROM[function])};")

    def gathered(self, write: Writer, name: str) -> None:
        pass

    def elements(self, write: Writer) -> Iterator[Element]:
        index = self.operation.source.index
        order = numpy.arange(index.shape[1], dtype=numpy.int64)
        loops = nest(shaped([index[0] - index[0, 0], order]))
        with inner(write, loops, "e") as names:
            here, element = (
                place_in(loops, b, names, self.file.constants, f"{self.file.prefix}_element{b}") for b in range(2)
            )
            yield Element(self, here, element, element)

    def of_element(self, name: str, element: Element) -> str:
        array: Numbers | None = getattr(self.operation, name)
        if array is None or bool((array == {"scale": 1.0, "shift": 0.0}[name]).all()):
            return ""
        if name not in self._arrays:
            title = f"{self.file.prefix}_{name}"
            self._arrays[name] = self.file.constants.add(title, array.astype(numpy.float32))
        return f"{self._arrays[name]}[{element.place}]"


class _Windows(_Floats):
    """Loops over the windows of a pooling."""

    area = ""

    def __init__(self, file: Steps, operation: Pool) -> None:
        super().__init__(file)
        self.operation = operation

    @contextmanager
    def outputs(self, write: Writer) -> Iterator[tuple[str, str]]:
        channels, height, width = self.operation.box
        index = self.operation.source.index
        with loop(write, "c", channels), loop(write, "y", height), loop(write, "x", width):
            corner = self._entry(index[:, 0, 0], "c", "channel")
            rows, columns = self.operation.rows.divisors, self.operation.columns.divisors
            counts = self._entry(rows, "y", "y_count"), self._entry(columns, "x", "x_count")
            plain = (counts[0] + counts[1]).isdigit()
            area = str(int(counts[0]) * int(counts[1])) if plain else f"({counts[0]}) * ({counts[1]})"
            self.area = f"(float)({area})"
            at = sum_of(term("c", height * width, channels), term("y", width, height), term("x", 1, width))
            write(f"const float *from = {self.file.arguments[self.operation.source.value]} + {corner};")
            write(f"float *to = out + {at};")
            yield "to", "from"

    @contextmanager
    def window(self, write: Writer) -> Iterator[str]:
        operation, index = self.operation, self.operation.source.index
        loops = []
        for counter, outer, windows in (("v", "y", operation.rows), ("u", "x", operation.columns)):
            first, last = (
                self._entry(table, outer, f"{outer}_{name}")
                for name, table in (("first", windows.start), ("last", windows.stop))
            )
            loops.append(f"for (long {counter} = {first}; {counter} < {last}; {counter} += {windows.step})")
        with write.block(loops[0]), write.block(loops[1]):
            yield sum_of(times("v", step_along(index, 1)), times("u", step_along(index, 2)))

    def _entry(self, table: Sequence[int] | Indices, counter: str, name: str) -> str:
        return entry(numpy.array(table), counter, self.file.constants, f"{self.file.prefix}_{name}")


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
    return run, next(count for count in lengths if _repeats_every(small, count))


def _repeats_every(numbers: Numbers, length: int) -> bool:
    rows = numbers.reshape(-1, length)
    return bool(((rows == rows[0]) | (numpy.isnan(rows) & numpy.isnan(rows[0]))).all())


def _is_single(array: Numbers) -> bool:
    return bool((array == array.flat[0]).all())
