"""The dialect of kernels: sizes, strides and tables are arguments, and a number is a vector of several samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prunus.compiling.kernels import lines
from prunus.compiling.kernels.numbers import FLOAT, Numbers
from prunus.compiling.kernels.writing import Writer
from prunus.compiling.loops import GATHERED_FROM, Element
from prunus.compiling.net import Pointwise
from prunus.compiling.operations import normalize, pool, reduce

_HEAD = "void {name}(const prunus_frame *frame, const {arguments} *a, long part, long parts)"
# So many elements are summed up before they are added to the sum of those before.
_PART = 64
_SHARE = "for (long {0} = a->{1} * part / parts; {0} < a->{1} * (part + 1) / parts; ++{0})"


def kernels(numbers: Numbers, width: int, widths: list[int]) -> Iterator[str]:
    """Yield the C of every reduction, softmax, norm and pooling for vectors of so many numbers; 1: for single ones.

    Args:
        numbers: what is computed in.
        width: numbers of one element that lie beside each other, and are computed at once.
        widths: sizes of vectors for the elements of single samples.
    """
    for kind in (reduce, normalize):
        prefix = "reduce_" if kind is reduce else ""
        for function in kind.FUNCTIONS:
            write = Writer()
            with write.block(_HEAD.format(name=f"{prefix}{function}{width}", arguments="rows")):
                kind.loop(function, write, _Rows(numbers, width) if width > 1 else _Along(numbers, widths[0]))
            yield write.text()
    for function in pool.FUNCTIONS if numbers == FLOAT else pool.FUNCTIONS[:-1]:
        dialect = _ByteWindows if function == "max_bytes" else _Windows
        write = Writer()
        if width == 1:
            yield lines.pool(function, numbers, widths)
        with write.block(_HEAD.format(name=f"pool_{function}{width}", arguments="pool")):
            pool.loop(function, write, dialect(numbers, width, f"pool_{function}_line"))
        yield write.text()


class _Vectors:
    """How numbers are written in kernels."""

    def __init__(self, numbers: Numbers, width: int) -> None:
        self.numbers, self.width = numbers, width
        self.type = "real" if width == 1 else f"vec{width}"
        self._memory = "real" if width == 1 else f"loose{width}"

    def constant(self, value: float) -> str:
        text = self.numbers.constant(value)
        return text if self.width == 1 else f"splat{self.width}({text})"

    def load(self, pointer: str, place: str) -> str:
        return f"*(const {self._memory} *)({pointer} + {place})"

    def store(self, pointer: str, place: str, value: str) -> str:
        return f"*({self._memory} *)({pointer} + {place}) = {value};"

    def larger(self, one: str, other: str) -> str:
        return f"larger{self.width}({one}, {other})"

    def smaller(self, one: str, other: str) -> str:
        return f"smaller{self.width}({one}, {other})"

    def call(self, pointwise: Pointwise, argument: str) -> str:
        return f"{pointwise.function}{self.width}({argument})"

    @contextmanager
    def lanes(self, write: Writer) -> Iterator[None]:
        """Loop over the vectors of an element."""
        with write.block(f"for (long lane = 0; lane < a->unit; lane += {self.width})"):
            yield


class _Rows(_Vectors):
    """Loops over rows: where each begins is a table, and so is where its elements lie from there."""

    count = "(real)a->count"
    eps = "(real)a->eps"

    def __init__(self, numbers: Numbers, width: int) -> None:
        super().__init__(numbers, width)
        self._gathering: dict[str, str] = {}  # names -> functions

    @contextmanager
    def rows(self, write: Writer) -> Iterator[tuple[str, str]]:
        for name in ("sources", "outputs", "here", "there"):
            write(f"const int32_t *{name} = CONSTANTS(int32_t, {name}_at);")
        write("const real *scale = CONSTANTS(real, scale_at), *shift = CONSTANTS(real, shift_at);")
        write("(void)scale, (void)shift, (void)there;")
        with write.block(_SHARE.format("row", "rows")), self.lanes(write):
            write("const real *from = WORK + sources[row] + lane;", "real *to = WORK + outputs[row] + lane;")
            yield "from", "to"

    def gather(self, write: Writer, name: str, function: str) -> None:
        """Begin a sum of parts, and a part: rounding grows with the longer of both, not with the row."""
        begin = self.constant(GATHERED_FROM[function])
        write(f"{self.type} {name} = {begin}, {name}part = {begin};")
        self._gathering[name] = function

    def elements(self, write: Writer) -> Iterator[Element]:
        with write.block(f"for (long first = 0; first < a->count; first += {_PART})"):
            write(f"const long last = first + {_PART} < a->count ? first + {_PART} : a->count;")
            with write.block("for (long e = first; e < last; ++e)"):
                yield Element(self, "here[e]", "there[e]", "e", "part")
            self._add_parts(write)

    def _add_parts(self, write: Writer) -> None:
        for name, function in self._gathering.items():
            begin = self.constant(GATHERED_FROM[function])
            write(f"{name} = {self._combined(function, name, f'{name}part')};", f"{name}part = {begin};")

    def _combined(self, function: str, one: str, other: str) -> str:
        combined = {"amax": self.larger(one, other), "amin": self.smaller(one, other)}
        return combined.get(function, f"{one} + {other}")

    def gathered(self, write: Writer, name: str) -> None:
        del self._gathering[name]

    def of_element(self, name: str, element: Element) -> str:
        return f"{name}[{element.place}]"


class _Along(_Rows):
    """Loops over rows of one sample: as many elements at once as a vector has where they lie side by side."""

    def __init__(self, numbers: Numbers, width: int) -> None:
        super().__init__(numbers, 1)
        self._vectors = _Vectors(numbers, width)

    def gather(self, write: Writer, name: str, function: str) -> None:
        super().gather(write, name, function)
        begin = self._vectors.constant(GATHERED_FROM[function])
        write(f"{self._vectors.type} {name}s = {begin};")

    def elements(self, write: Writer) -> Iterator[Element]:
        width = self._vectors.width
        with write.block(f"for (long first = 0; first < a->count; first += {_PART * width})"):
            write(f"const long last = first + {_PART * width} < a->count ? first + {_PART * width} : a->count;")
            write("long e = first;", "if (a->dense)")
            with write.block(f"for (; e + {width} <= last; e += {width})"):
                yield Element(self._vectors, "e", "e", "e", "s")
            with write.block("for (; e < last; ++e)"):
                yield Element(self, "here[e]", "there[e]", "e", "part")
            for name, function in self._gathering.items():
                combined = self._combined(function, f"{name}part", f"{name}s[lane]")
                write(f"if (a->dense) for (int lane = 0; lane < {width}; ++lane) {name}part = {combined};")
                write(f"{name}s = {self._vectors.constant(GATHERED_FROM[function])};")
            self._add_parts(write)

    def of_element(self, name: str, element: Element) -> str:
        return element.numbers.load(name, element.place)


class _Windows(_Vectors):
    """Loops over windows: the first and the last row and column of each are tables."""

    area = "(real)(row_divisor[y] * column_divisor[x])"

    def __init__(self, numbers: Numbers, width: int, line: str) -> None:
        super().__init__(numbers, width)
        self._line = line

    @contextmanager
    def outputs(self, write: Writer) -> Iterator[tuple[str, str]]:
        for name in (
            "corners",
            *(f"{side}_{end}" for side in ("row", "column") for end in ("first", "last", "divisor")),
        ):
            write(f"const int32_t *{name} = CONSTANTS(int32_t, {name}_at);")
        write("(void)row_divisor, (void)column_divisor;")
        with write.block(_SHARE.format("c", "channels")), write.block("for (long y = 0; y < a->rows; ++y)"):
            write("real *line = WORK + a->output + c * a->output_channel + y * a->output_down;")
            if self.width == 1:
                with write.block("if (a->size)"):
                    write(f"{self._line}(frame, a, c, y, line);", "continue;")
            with write.block("for (long x = 0; x < a->columns; ++x)"), self.lanes(write):
                write("const real *corner = WORK + corners[c] + lane;")
                write("real *to = line + lane + x * a->output_right;")
                yield "to", "corner"

    @contextmanager
    def window(self, write: Writer) -> Iterator[str]:
        with (
            write.block("for (long v = row_first[y]; v < row_last[y]; v += a->row_step)"),
            write.block("for (long u = column_first[x]; u < column_last[x]; u += a->column_step)"),
        ):
            yield "v * a->down + u * a->right"


class _ByteWindows(_Windows):
    """The same where a number is four of 8 bits."""

    def larger(self, one: str, other: str) -> str:
        return f"larger_bytes{self.width}({one}, {other})"
