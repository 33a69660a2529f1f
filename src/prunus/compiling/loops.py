"""How the text of a loop is written: as a kernel that is given its sizes, or as plain C with the sizes in it.

An operation writes its loop once, in terms of a dialect. In programs a number is a vector of one element of several
samples, and sizes, strides and tables are arguments; in C for microcontrollers a number is a float, and they are
constants of the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from prunus.compiling.kernels.writing import Writer
from prunus.compiling.net import Pointwise


class Dialect(Protocol):
    """How numbers are written.

    Attributes:
        type: the C type of what is computed at once.
    """

    type: str

    def constant(self, value: float) -> str:
        """Return a number that the text holds."""

    def load(self, pointer: str, place: str) -> str:
        """Return what lies so many numbers behind a pointer."""

    def store(self, pointer: str, place: str, value: str) -> str:
        """Return the statement that writes it."""

    def larger(self, one: str, other: str) -> str:
        """Return a maximum; NaN goes through."""

    def smaller(self, one: str, other: str) -> str:
        """Return a minimum; NaN goes through."""

    def call(self, pointwise: Pointwise, argument: str) -> str:
        """Return a function of a number."""


# What is gathered over elements, and from where.
GATHERED_FROM = {"sum": 0.0, "amax": -math.inf, "amin": math.inf}


class Element(NamedTuple):
    """An element of a row in the text of a loop, or several at once.

    Attributes:
        numbers: how it is written.
        here, there: where it lies behind the row's pointers to the source and to the output.
        place: its number.
        suffix: behind the name of what is gathered over the elements.
    """

    numbers: Dialect
    here: str
    there: str
    place: str
    suffix: str = ""


class RowLoops(Dialect, Protocol):
    """A dialect with loops over rows that are alike, and over the elements of a row.

    Attributes:
        count: how many elements a row has, as a number of C.
        eps: what a norm adds to the variance.
    """

    count: str
    eps: str

    def rows(self, write: Writer) -> AbstractContextManager[tuple[str, str]]:
        """Loop over rows and give pointers to where one begins in the source and in the output."""

    def gather(self, write: Writer, name: str, function: str) -> None:
        """Begin what is gathered over the elements, by a function of `GATHERED_FROM`."""

    def elements(self, write: Writer) -> Iterator[Element]:
        """Loop over a row's elements: once for several at a time where a dialect can, and once for single ones."""

    def gathered(self, write: Writer, name: str) -> None:
        """End what was gathered: `name` holds it."""

    def of_element(self, name: str, element: Element) -> str:
        """Return an element's scale or shift; nothing where it changes nothing."""


class WindowLoops(Dialect, Protocol):
    """A dialect with loops over the outputs of a pooling and over a window's elements.

    Attributes:
        area: what an average divides by, inside of `outputs`.
    """

    area: str

    def outputs(self, write: Writer) -> AbstractContextManager[tuple[str, str]]:
        """Loop over outputs and give pointers to the output and to the first element of its channel in the source."""

    def window(self, write: Writer) -> AbstractContextManager[str]:
        """Loop over a window's elements and give where each lies behind the channel's first."""
