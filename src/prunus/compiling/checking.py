"""Whether a net can be computed: what a file tells is not trusted, since C would read whatever memory it names."""

from __future__ import annotations

import math
from typing import Any

import numpy

from prunus.compiling.net import INTEGER_TYPES, Net, View, box_of, require
from prunus.compiling.operations import Contract
from prunus.errors import ProgramError

# Values of more elements than this can't be addressed by 32 bits in blocks of 64 samples.
_MOST_ELEMENTS = 1 << 24


def check(net: Net) -> None:
    """Make sure that a net reads only what was computed before it, and only inside of it.

    Raises:
        ProgramError: it does not; the message says where.
    """
    try:
        _check(net)
    except ProgramError:
        raise
    except (AttributeError, TypeError, ValueError, IndexError) as error:  # a field that is of another kind altogether
        raise ProgramError(f"it holds what it should not: {type(error).__name__}: {str(error)[:100]}") from error


def num_bytes_to_plan(net: Net) -> int:
    """Return how much memory the indices of what contractions read take, zeros around and columns of strides included.

    A file of few bytes can tell any padding and stride.
    """
    count = 0
    for operation in net.operations:
        if isinstance(operation, Contract):
            channels, *sides = operation.source.index.shape
            steps = zip(sides, operation.padding, operation.stride, strict=True)
            count += channels * math.prod(side + 2 * padding + stride for side, padding, stride in steps)
    return 8 * count


def _check(net: Net) -> None:
    sizes: dict[int, int] = {}
    require(bool(net.inputs), "it has no input")
    for name, (number, shape) in net.inputs.items():
        require(
            all(type(side) is int and side > 0 for side in shape),
            f"a sample of the input {name!r:.40} has the shape {shape!r:.40}",
        )
        _define(net, sizes, number, box_of(shape), name)
    known = all(name in net.inputs and kind in INTEGER_TYPES for name, kind in net.integers.items())
    require(known, "an input is of whole numbers that no program takes")
    for operation in net.operations:
        require(isinstance(operation.name, str), "an operation has no name")
        _box(operation.box, operation.name)
        for view in operation.views:
            _view(view, sizes, operation.name)
        operation.check()
        _define(net, sizes, operation.output, operation.box, operation.name)
    require(set(net.boxes) == set(sizes), "it lists values that nothing makes")
    require(bool(net.outputs), "it has no output")
    for view in net.outputs:
        _view(view, sizes, "an output")


def _box(box: Any, name: str) -> None:
    sides = isinstance(box, tuple) and len(box) == 3 and all(type(side) is int and side > 0 for side in box)
    require(sides, f"{name!r:.40} makes no box: {box!r:.60}")


def _define(net: Net, sizes: dict[int, int], number: Any, box: Any, name: str) -> None:
    _box(box, name)
    require(type(number) is int, f"{name!r:.40} has no number")
    size = math.prod(box)
    require(size <= _MOST_ELEMENTS, f"{name!r:.40} makes {size:,} elements a sample, more than {_MOST_ELEMENTS:,}")
    require(number not in sizes and net.boxes.get(number) == box, f"{name!r:.40} makes a value that is there already")
    sizes[number] = size


def _view(view: View, sizes: dict[int, int], name: str) -> None:
    require(view.value in sizes, f"{name!r:.40} reads a value that is not computed before it")
    index = view.index
    require(_is_index(index) and index.size > 0, f"{name!r:.40} reads no elements")
    inside = int(index.min()) >= 0 and int(index.max()) < sizes[view.value]
    require(inside, f"{name!r:.40} reads outside of a value")


def _is_index(array: Any) -> bool:
    return isinstance(array, numpy.ndarray) and array.dtype == numpy.int64
