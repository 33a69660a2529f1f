"""What kernels are given: numbers of one C struct for each kind of kernel, packed here and read there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy


@dataclass(frozen=True)
class Arguments:
    """The fields of one kind of kernel's arguments, of 64 bits each, in the order of its C struct.

    A field that ends in ``_at`` says where an array begins in the program's constants, in bytes.

    Attributes:
        name: what the C calls the struct.
        whole: names of whole numbers.
        real: names of floating-point numbers, which come last.
    """

    name: str
    whole: tuple[str, ...]
    real: tuple[str, ...] = ()

    def typedef(self) -> str:
        """Return the struct's definition in C."""
        real = f" double {', '.join(self.real)};" if self.real else ""
        return f"typedef struct {{ int64_t {', '.join(self.whole)};{real} }} {self.name};\n"

    def pack(self, **values: float) -> bytes:
        """Return the struct's bytes; a field that is not given is 0.

        >>> Arguments("pair", ("first", "second"), ("share",)).pack(first=1, share=0.5).hex()
        '01000000000000000000000000000000000000000000e03f'
        """
        assert values.keys() <= {*self.whole, *self.real}, f"{self.name} has no {sorted(values)}"
        whole = numpy.array([values.get(name, 0) for name in self.whole], dtype=numpy.int64)
        real = numpy.array([values.get(name, 0.0) for name in self.real], dtype=numpy.float64)
        return whole.tobytes() + real.tobytes()


# `unit`: the numbers of one element (the samples of a block beside each other; 1 where samples run one by one).
# `dense`: whether a row's elements lie side by side, in the source and in the output.
# `size`: of windows of columns that are alike (else 0), `stride` from one to the next, `before` the `side` columns.
CONTRACTION = Arguments(
    "contraction",
    (
        *("starts_at", "offsets_at", "values_at", "bias_at", "tiles_at"),
        *("source", "output", "residual"),
        *("groups", "tiles", "cuts", "by_outputs"),
        *("down", "output_down", "output_channel"),
        *("has_residual", "residual_down", "residual_right", "residual_channel"),
        *("activation", "pool", "masked", "mask_at"),
    ),
    ("low", "high"),
)
TAPE = Arguments(
    "tape", ("unit", "runs", "length", "operands", "operands_at", "steps", "steps_at", "output_at", "output_step")
)
OPERAND = Arguments("operand", ("kind", "starts_at", "numbers_at", "step"), ("number",))
STEP = Arguments("step", ("function", "first", "second", "result"), ("a", "b"))
POOL = Arguments(
    "pool",
    (
        *("unit", "channels", "rows", "columns", "corners_at", "down", "right"),
        *("output", "output_channel", "output_down", "output_right"),
        *("row_first_at", "row_last_at", "row_divisor_at", "row_step"),
        *("column_first_at", "column_last_at", "column_divisor_at", "column_step"),
        *("size", "stride", "before", "side"),
    ),
)
ROWS = Arguments(
    "rows",
    (
        *("unit", "rows", "count", "sources_at", "outputs_at", "here_at", "there_at"),
        *("scale_at", "shift_at", "dense"),
    ),
    ("eps",),
)
TRANSFER = Arguments(
    "transfer",
    ("unit", "array", "size", "runs", "length", "here_at", "there_at", "here_step", "there_step", "integer_type"),
)
LOOKUP = Arguments(
    "lookup", ("unit", "count", "rows", "width", "sources_at", "outputs_at", "step", "table_at", "layer")
)
LOOK = Arguments("look", ("unit", "runs", "length", "starts_at", "step", "layer"))
# `words_at`, `reals_at`: where each run of words begins, and where the numbers of its four channels do.
WORDS = Arguments(
    "words", ("unit", "runs", "length", "words_at", "reals_at", "words_step", "reals_step", "zero"), ("factor",)
)
# `table_at`: of each run of words where it begins, its length, and for each channel where that lies, and by how many
# bits it is shifted there; -1: it is zero.
REGROUP = Arguments("regrouping", ("unit", "runs", "table_at", "zero"))
FILL = Arguments("fill", ("output", "size", "word"))
# `right`: from one vector of a row to the next in the source of a depthwise convolution.
QUANTIZED = Arguments(
    "quantized",
    (
        *("starts_at", "offsets_at", "values_at", "bias_at", "factors_at", "tiles_at"),
        *("source", "output", "residual", "outputs", "groups", "tiles", "by_outputs"),
        *("down", "output_down", "output_channel", "in_words", "zero", "least", "largest"),
        *("has_residual", "residual_down", "residual_right", "residual_channel", "residual_zero"),
        *("activation", "masked", "mask_at", "padding", "right"),
    ),
    ("low", "high", "inverse", "residual_factor"),
)
# `runs`: of each word; `from_at`, `to_at`: where they begin, word by word.
PLANES = Arguments(
    "planes",
    (
        *("unit", "words", "runs", "length", "from_at", "to_at", "from_step", "to_step", "from_zero", "to_zero"),
        *("factors_at", "table_at"),
    ),
    ("factor",),
)
ALL = (CONTRACTION, TAPE, OPERAND, STEP, POOL, ROWS, TRANSFER, LOOKUP, LOOK, WORDS, REGROUP, FILL, QUANTIZED, PLANES)
