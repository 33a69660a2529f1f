"""Whether a net can be computed: what a file tells is not trusted, since C would read whatever memory it names."""

from __future__ import annotations

import math
from typing import Any

import numpy

from prunus.compiling.codegen.numbers import COMBINED, SCALARS, constants_of
from prunus.compiling.net import (
    Combine,
    Contract,
    Join,
    Map,
    Net,
    Normalize,
    Operation,
    Pointwise,
    Pool,
    Reduce,
    View,
    box_of,
    views_of,
)
from prunus.errors import ProgramError

# Values of more elements than this can't be addressed by 32 bits in blocks of 64 samples.
_MOST_ELEMENTS = 1 << 24

# Tables of numbers have 32 bits: a larger one would come out as another.
_MOST_NUMBER = 1 << 31


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
    known: dict[int, int] = {}
    _require(bool(net.inputs), "it has no input")
    for name, (number, shape) in net.inputs.items():
        _require(
            all(type(side) is int and side > 0 for side in shape),
            f"a sample of the input {name!r:.40} has the shape {shape!r:.40}",
        )
        _define(net, known, number, box_of(shape), name)
    for operation in net.operations:
        _require(isinstance(operation.name, str), "an operation has no name")
        _box(operation.box, operation.name)
        for view in views_of(operation):
            _view(view, known, operation.name)
        _CHECKS[type(operation)](operation)
        _define(net, known, operation.output, operation.box, operation.name)
    _require(set(net.boxes) == set(known), "it lists values that nothing makes")
    _require(bool(net.outputs), "it has no output")
    for view in net.outputs:
        _view(view, known, "an output")


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise ProgramError(message)


def _box(box: Any, name: str) -> None:
    sides = isinstance(box, tuple) and len(box) == 3 and all(type(side) is int and side > 0 for side in box)
    _require(sides, f"{name!r:.40} makes no box: {box!r:.60}")


def _define(net: Net, known: dict[int, int], number: Any, box: Any, name: str) -> None:
    _box(box, name)
    _require(type(number) is int, f"{name!r:.40} has no number")
    size = math.prod(box)
    _require(size <= _MOST_ELEMENTS, f"{name!r:.40} makes {size:,} elements a sample, more than {_MOST_ELEMENTS:,}")
    _require(number not in known and net.boxes.get(number) == box, f"{name!r:.40} makes a value that is there already")
    known[number] = size


def _view(view: View, known: dict[int, int], name: str) -> None:
    _require(view.value in known, f"{name!r:.40} reads a value that is not computed before it")
    index = view.index
    _require(_is_index(index) and index.size > 0, f"{name!r:.40} reads no elements")
    inside = int(index.min()) >= 0 and int(index.max()) < known[view.value]
    _require(inside, f"{name!r:.40} reads outside of a value")


def _is_index(array: Any) -> bool:
    return isinstance(array, numpy.ndarray) and array.dtype == numpy.int64


def _pointwise(function: Pointwise | None, name: str) -> None:
    if function is not None:
        _require(isinstance(function, Pointwise), f"{name!r:.40} calls no function")
        _require(function.function in SCALARS, f"{name!r:.40} calls the unknown function {function.function!r:.40}")
        _require(len(function.constants) == constants_of(function.function), f"{name!r:.40} gives too few constants")


def _contract(each: Contract) -> None:
    name = each.name
    _require(
        each.weight.ndim == 4 and each.weight.size > 0 and each.source.index.ndim == 3,
        f"{name!r:.40} is no convolution",
    )
    _require(all(type(n) is int for n in (each.groups, *each.grid)), f"{name!r:.40}: groups or grid")
    channels, *sides = each.source.index.shape
    outputs, per_group = each.weight.shape[:2]
    _require(
        each.groups > 0 and outputs % each.groups == 0 and per_group * each.groups == channels, f"{name!r:.40}: groups"
    )
    _require(each.bias.shape == (outputs,), f"{name!r:.40}: bias")
    for numbers, least in ((each.stride, 1), (each.padding, 0), (each.dilation, 1)):
        _require(
            len(numbers) == 2 and all(type(n) is int and least <= n < 2**16 for n in numbers), f"{name!r:.40}: steps"
        )
    grid = tuple(
        (side + 2 * pad - gap * (size - 1) - 1) // step + 1
        for side, pad, gap, size, step in zip(
            sides, each.padding, each.dilation, each.weight.shape[2:], each.stride, strict=True
        )
    )
    _require(grid == each.grid and min(grid) > 0, f"{name!r:.40} has the grid {each.grid}, not {grid}")
    box = (outputs, *grid)
    if each.pool is not None:
        function, *window = each.pool
        _require(
            function in ("max", "avg") and len(window) == 2 and all(type(n) is int and n > 0 for n in window),
            f"{name!r:.40}: pool",
        )
        box = (outputs, grid[0] // window[0], grid[1] // window[1])
    _require(box == each.box, f"{name!r:.40} makes {box}, not {each.box}")
    if each.residual is not None:
        _require(each.residual.index.shape == (outputs, *grid), f"{name!r:.40}: residual")
    _require(each.kind in ("conv", "linear"), f"{name!r:.40}: kind")
    _pointwise(each.activation, name)


def _map(each: Map) -> None:
    _require(each.source.index.shape == each.box, f"{each.name!r:.40}: shape")
    _require(each.pointwise is not None, f"{each.name!r:.40} calls no function")
    _pointwise(each.pointwise, each.name)


def _combine(each: Combine) -> None:
    other = each.second.index if isinstance(each.second, View) else each.second
    _require(each.first.index.shape == each.box == other.shape, f"{each.name!r:.40}: shapes")
    _require(each.function in COMBINED, f"{each.name!r:.40} calls the unknown function {each.function!r:.40}")
    _pointwise(each.activation, each.name)


def _pool(each: Pool) -> None:
    index = each.source.index
    _require(index.ndim == 3 and each.function in ("max", "avg"), f"{each.name!r:.40}: pool")
    _require(each.box == (len(index), len(each.rows.start), len(each.columns.start)), f"{each.name!r:.40}: box")
    for windows, side in ((each.rows, index.shape[1]), (each.columns, index.shape[2])):
        lengths = {len(windows.start), len(windows.stop), len(windows.divisors)}
        _require(len(lengths) == 1 and 0 < windows.step < _MOST_NUMBER, f"{each.name!r:.40}: windows")
        for start, stop, divisor in zip(windows.start, windows.stop, windows.divisors, strict=True):
            inside = 0 <= start <= side and 0 <= stop <= side
            _require(inside and 0 < divisor < _MOST_NUMBER, f"{each.name!r:.40}: a window reads outside")


def _reduce(each: Reduce) -> None:
    _require(each.source.index.ndim == 2 and math.prod(each.box) == len(each.source.index), f"{each.name!r:.40}: box")
    _require(each.function in ("mean", "sum", "amax", "amin"), f"{each.name!r:.40}: function")


def _normalize(each: Normalize) -> None:
    index = each.source.index
    _require(index.ndim == 2 and each.box == (index.shape[0], 1, index.shape[1]), f"{each.name!r:.40}: box")
    known = ("softmax", "log_softmax", "layer_norm", "rms_norm")
    _require(each.function in known, f"{each.name!r:.40}: function")
    for numbers in (each.scale, each.shift):
        _require(numbers is None or numbers.shape == (index.shape[1],), f"{each.name!r:.40}: scale")
    _require(isinstance(each.eps, (int, float)) and 0 <= each.eps < _MOST_NUMBER, f"{each.name!r:.40}: eps")


def _join(each: Join) -> None:
    size = int(math.prod(each.box))
    for piece, places in each.pieces:
        shape = piece.index.shape if isinstance(piece, View) else piece.shape
        inside = places.size == 0 or (int(places.min()) >= 0 and int(places.max()) < size)
        _require(_is_index(places) and shape == places.shape and inside, f"{each.name!r:.40}: a piece lies outside")


_CHECKS: dict[type[Operation], Any] = {
    Contract: _contract,
    Map: _map,
    Combine: _combine,
    Pool: _pool,
    Reduce: _reduce,
    Normalize: _normalize,
    Join: _join,
}
