"""Loops in C over elements that lie somewhere in arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy

from prunus.compiling.kernels.writing import Writer, sum_of, times
from prunus.compiling.layout import Nest, nest, shaped
from prunus.compiling.net import Indices
from prunus.exporting.c.arrays import Constants, unsigned

_COUNTERS = "ijklmnpqrst"  # no o: it looks like a zero

# (name of an array, where in it each element lies)
Place: TypeAlias = tuple[str, Indices]


@contextmanager
def loop(write: Writer, name: str, count: int) -> Iterator[None]:
    """Write a loop around what is written inside; one that runs once is none."""
    if count == 1:
        yield
    else:
        with write.block(f"for (long {name} = 0; {name} < {count}; ++{name})"):
            yield


def term(name: str, step: int, count: int) -> str:
    """Return what a counter adds to a place; nothing where it is always 0.

    >>> term("y", 28, 5), term("y", 28, 1)
    ('y * 28', '')
    """
    return "" if count == 1 else times(name, step)


@contextmanager
def over(write: Writer, constants: Constants, prefix: str, places: Sequence[Place]) -> Iterator[list[str]]:
    """Loop over elements in several arrays and give each as C writes it.

    Args:
        write: takes the loops.
        constants: take tables of places, where no steps tell them.
        prefix: what those are called after.
        places: for each array its name and where each element lies in it; of one shape.
    """
    loops = nest(shaped([index for _, index in places]))
    names = list(_COUNTERS[: len(loops.counts)])
    with _nested(write, names, loops.counts):
        yield [
            f"{array}[{place_in(loops, buffer, names, constants, f'{prefix}_at{buffer}')}]"
            for buffer, (array, _) in enumerate(places)
        ]


@contextmanager
def _nested(write: Writer, names: Sequence[str], counts: Sequence[int]) -> Iterator[None]:
    if not names:
        yield
        return
    with loop(write, names[0], counts[0]), _nested(write, names[1:], counts[1:]):
        yield


@contextmanager
def inner(write: Writer, loops: Nest, letter: str) -> Iterator[list[str]]:
    """Write the loops of a nest and give the names of their counters."""
    names = [letter if len(loops.counts) == 1 else f"{letter}{number}" for number in range(len(loops.counts))]
    with _nested(write, names, loops.counts):
        yield names


def place_in(loops: Nest, buffer: int, names: Sequence[str], constants: Constants, table: str) -> str:
    """Return where in an array an element lies, as C writes it; a table takes the name given."""
    strides = zip(names, loops.strides[buffer], loops.counts, strict=True)
    moving = [term(name, stride, count) for name, stride, count in strides]
    return sum_of(loops.bases[buffer], _outermost(loops, buffer, names, constants, table), *moving)


def _outermost(loops: Nest, buffer: int, names: Sequence[str], constants: Constants, table: str) -> str:
    if loops.tables is None:
        return ""
    return entry(loops.tables[buffer], names[0], constants, table)


def entry(array: Indices, counter: str, constants: Constants, table: str) -> str:
    """Return an array's element at a counter: as steps where they are even, else from a table that is entered."""
    step = int(array[1] - array[0]) if len(array) > 1 else 0
    if bool((array == array[0] + step * numpy.arange(len(array))).all()):
        return sum_of(int(array[0]), term(counter, step, len(array)))
    if table not in constants.arrays:
        constants.add(table, unsigned(array) if array.min() >= 0 else array.astype(numpy.int32))
    return f"{table}[{counter}]"
