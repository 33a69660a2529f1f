"""A model as a short list of operations on values of one sample, out of which C is made.

A *value* is what one operation computes for one sample: a box of (channels, height, width) elements. What only moves
elements (reshape, permute, split, channel shuffle) is no operation: whoever reads a value reads it through a `View`,
which says for each element that it wants where it lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[numpy.int64]
Numbers: TypeAlias = NDArray[numpy.float64]
Box: TypeAlias = tuple[int, int, int]
Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True, eq=False)
class View:
    """Elements of one value in some arrangement.

    Attributes:
        value: number of the value.
        index: of any shape: for each element, its place in the value's box, counted channel by channel, row by row.
    """

    value: int
    index: Indices


@dataclass(frozen=True)
class Pointwise:
    """A function of one number, such as ``relu`` or ``leaky_relu``, with its constants."""

    function: str
    constants: tuple[float, ...] = ()


@dataclass(frozen=True)
class Windows:
    """Which rows (or columns) each output of a pooling takes: from `start` to before `stop`, in steps of `step`.

    `divisors` are what an average divides by along this dimension; the product of both dimensions is the divisor.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: int
    divisors: tuple[int, ...]

    @property
    def side(self) -> int | None:
        """The size of the windows if they lie side by side from the first row on; None if they do not."""
        size = self.stop[0] - self.start[0]
        beside = all(start == i * size and stop == start + size for i, (start, stop) in enumerate(self.pairs))
        return size if beside and self.step == 1 and set(self.divisors) == {size} else None

    @property
    def pairs(self) -> list[Pair]:
        """Where each window starts, and where it stops."""
        return list(zip(self.start, self.stop, strict=True))


@dataclass(frozen=True, eq=False)
class Operation:
    """What all operations have: a name to be called by, where it comes from, the value it makes and that one's box."""

    name: str
    output: int
    box: Box


@dataclass(frozen=True, eq=False)
class Contract(Operation):
    """A convolution, or a linear layer as one of 1x1: weights times elements, summed, and what follows while it is hot.

    output = pool(activation(weight * source + bias + residual))

    Attributes:
        source: view of shape (channels, height, width).
        weight: (outputs, channels / groups, kernel height, kernel width).
        bias: (outputs,).
        grid: height and width of the output before pooling.
        residual: view of the shape before pooling, added to the sum.
        pool: ``("max" or "avg", height, width)`` of windows side by side.
        kind: ``conv`` or ``linear``: what the model's author called it.
    """

    source: View
    weight: Numbers
    bias: Numbers
    grid: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    activation: Pointwise | None = None
    residual: View | None = None
    pool: tuple[str, int, int] | None = None
    kind: str = "conv"

    @property
    def nonzero(self) -> int:
        """How many weights are not zero."""
        return int(numpy.count_nonzero(self.weight))

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample, zeros left out."""
        return self.nonzero * self.grid[0] * self.grid[1]


@dataclass(frozen=True, eq=False)
class Map(Operation):
    """A function of each element."""

    source: View
    pointwise: Pointwise


@dataclass(frozen=True, eq=False)
class Combine(Operation):
    """Two numbers to one: ``add``, ``sub``, ``mul``, ``div``, ``maximum`` or ``minimum`` of two views of one shape.

    `second` is a view, or constants of the shape of the first.
    """

    function: str
    first: View
    second: View | Numbers
    activation: Pointwise | None = None


@dataclass(frozen=True, eq=False)
class Pool(Operation):
    """Maximum or average over windows of a (channels, height, width) view."""

    function: str
    source: View
    rows: Windows
    columns: Windows


@dataclass(frozen=True, eq=False)
class Reduce(Operation):
    """``mean``, ``sum``, ``amax`` or ``amin`` over the last dimension of a view of shape (outputs, elements)."""

    function: str
    source: View


@dataclass(frozen=True, eq=False)
class Normalize(Operation):
    """``softmax``, ``log_softmax``, ``layer_norm`` or ``rms_norm`` along the rows of a (rows, elements) view."""

    function: str
    source: View
    scale: Numbers | None = None
    shift: Numbers | None = None
    eps: float = 0.0


@dataclass(frozen=True, eq=False)
class Join(Operation):
    """Copies of views and constants beside each other.

    Attributes:
        pieces: (what, where in the output's box): arrays of one shape each.
    """

    pieces: tuple[tuple[View | Numbers, Indices], ...]


@dataclass(frozen=True, eq=False)
class Net:
    """A model as operations.

    Attributes:
        inputs: name -> (number of its value, shape of one sample); in the order of the forward's arguments.
        operations: in the order they are computed.
        outputs: what the model returns, as views of the shape of one sample.
        boxes: (channels, height, width) of each value.
    """

    inputs: Mapping[str, tuple[int, tuple[int, ...]]]
    operations: tuple[Operation, ...]
    outputs: tuple[View, ...]
    boxes: Mapping[int, Box] = field(default_factory=dict)


def views_of(operation: Operation) -> list[View]:
    """Return what an operation reads."""
    if isinstance(operation, Join):
        return [piece for piece, _ in operation.pieces if isinstance(piece, View)]
    return [value for value in vars(operation).values() if isinstance(value, View)]


def whole(value: int, box: Box) -> View:
    """Return a view of all of a value, in its own arrangement."""
    return View(value, numpy.arange(numpy.prod(box), dtype=numpy.int64).reshape(box))


def box_of(shape: tuple[int, ...]) -> Box:
    """Return the box that holds a sample of a shape: the last two dimensions are height and width.

    >>> box_of((3, 32, 32)), box_of((16, 100)), box_of((784,))
    ((3, 32, 32), (16, 1, 100), (784, 1, 1))
    """
    if len(shape) >= 3:
        return int(numpy.prod(shape[:-2])), shape[-2], shape[-1]
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return (shape[0] if shape else 1), 1, 1
