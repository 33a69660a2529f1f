"""Loops in C over elements that lie somewhere in arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy

from prunus.compiling.codegen.writing import Writer, sum_of, times
from prunus.compiling.layout import Nest, nest
from prunus.compiling.net import Indices
from prunus.exporting.c.arrays import Constants, unsigned

_COUNTERS = "ijklmnpqrst"  # no o: it looks like a zero

# (name of an array, where in it each element lies)
Place: TypeAlias = tuple[str, Indices]


@contextmanager
def each(write: Writer, name: str, count: int) -> Iterator[None]:
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
    found = nest(shaped([index for _, index in places]))
    names = list(_COUNTERS[: len(found.counts)])
    with _nested(write, names, found.counts):
        yield [
            f"{array}[{place_in(found, buffer, names, constants, f'{prefix}_at{buffer}')}]"
            for buffer, (array, _) in enumerate(places)
        ]


@contextmanager
def _nested(write: Writer, names: Sequence[str], counts: Sequence[int]) -> Iterator[None]:
    if not names:
        yield
        return
    with each(write, names[0], counts[0]), _nested(write, names[1:], counts[1:]):
        yield


@contextmanager
def inner(write: Writer, found: Nest, letter: str) -> Iterator[list[str]]:
    """Write the loops of a nest and give the names of their counters."""
    names = [letter if len(found.counts) == 1 else f"{letter}{number}" for number in range(len(found.counts))]
    with _nested(write, names, found.counts):
        yield names


def place_in(found: Nest, buffer: int, names: Sequence[str], constants: Constants, table: str) -> str:
    """Return where in an array an element lies, as C writes it; a table takes the name given."""
    strides = zip(names, found.strides[buffer], found.counts, strict=True)
    moving = [term(name, stride, count) for name, stride, count in strides]
    return sum_of(found.bases[buffer], _outermost(found, buffer, names, constants, table), *moving)


def _outermost(found: Nest, buffer: int, names: Sequence[str], constants: Constants, table: str) -> str:
    if found.tables is None:
        return ""
    return entry(found.tables[buffer], names[0], constants, table)


def entry(array: Indices, counter: str, constants: Constants, table: str) -> str:
    """Return an array's element at a counter: as steps where they are even, else from a table that is entered."""
    step = int(array[1] - array[0]) if len(array) > 1 else 0
    if bool((array == array[0] + step * numpy.arange(len(array))).all()):
        return sum_of(int(array[0]), term(counter, step, len(array)))
    if table not in constants.arrays:
        constants.add(table, unsigned(array) if array.min() >= 0 else array.astype(numpy.int32))
    return f"{table}[{counter}]"


def shaped(addresses: Sequence[Indices]) -> list[Indices]:
    """Return arrays of one shape as others of one shape, in which loops are easier to find: equal runs are split off.

    >>> [each.tolist() for each in shaped([numpy.array([0, 1, 4, 5, 8, 9])])]
    [[[[0, 1], [4, 5], [8, 9]]]]
    """
    flat = numpy.stack([array.reshape(-1) for array in addresses])
    inner_shape: list[int] = []
    starts = flat
    while starts.shape[1] > 1:
        run = _run(starts)
        if run == 1:
            break
        inner_shape.insert(0, run)
        starts = starts[:, ::run]
    return [array.reshape(-1, *inner_shape) if inner_shape else array.reshape(-1) for array in flat]


def _run(rows: Indices) -> int:
    """Return the length of equal runs of even steps that rows fall into; 1 where they fall into none."""
    change = numpy.diff(rows, axis=1)
    other = numpy.flatnonzero((change != change[:, :1]).any(axis=0))
    count = rows.shape[1]
    run = int(other[0]) + 1 if other.size else count
    if count % run:
        return 1
    within = numpy.arange(count - 1) % run != run - 1
    return run if bool((change[:, within] == change[:, :1]).all()) else 1
