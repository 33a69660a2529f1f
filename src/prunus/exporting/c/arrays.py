"""Constant arrays of a C file: their text, and how many bytes they take."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray

_TYPES = {
    "float32": "float",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
    "int32": "int32_t",
}
_WIDTH = 100


@dataclass
class Constants:
    """The arrays of a file, in the order they are needed.

    Attributes:
        arrays: name -> array.
    """

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, name: str, array: NDArray[Any]) -> str:
        """Enter an array and return its name; the same name twice is a mistake."""
        assert name not in self.arrays, name
        self.arrays[name] = array
        return name

    @property
    def bytes(self) -> int:
        """What all of them take, without what an alignment may leave free between them."""
        return sum(array.nbytes for array in self.arrays.values())

    def take(self) -> str:
        """Return the text of the arrays entered since the last time."""
        fresh = list(self.arrays)[self._written :]
        self._written = len(self.arrays)
        return "\n".join(text(name, self.arrays[name]) for name in fresh)

    _written: int = field(default=0, init=False)


def ctype(array: NDArray[Any]) -> str:
    """Return the C type of an array's elements."""
    return _TYPES[array.dtype.name]


def text(name: str, array: NDArray[Any]) -> str:
    """Return an array's definition in C.

    >>> print(text("gaps", numpy.array([3, 255], dtype=numpy.uint8)), end="")
    static const uint8_t gaps[2] = {
        3, 255
    };
    """
    flat = array.reshape(-1)
    written = map(number, flat) if flat.dtype.kind == "f" else map(str, flat.tolist())
    lines = textwrap.fill(", ".join(written), _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"static const {ctype(array)} {name}[{flat.size}] = {{\n{lines}\n}};\n"


def number(value: float | numpy.floating[Any]) -> str:
    """Return the shortest C constant that is read as the same float.

    >>> number(numpy.float32(0.1)), number(2.0), number(float("-inf"))
    ('0.1f', '2.0f', '-INFINITY')
    """
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{numpy.float32(value)!s}f"


def unsigned(array: NDArray[Any]) -> NDArray[Any]:
    """Return whole numbers that are not negative in the smallest type that holds them all.

    >>> unsigned(numpy.array([1, 256])).dtype.name
    'uint16'
    """
    most = int(array.max(initial=0))
    return array.astype(numpy.uint8 if most < 2**8 else numpy.uint16 if most < 2**16 else numpy.uint32)
