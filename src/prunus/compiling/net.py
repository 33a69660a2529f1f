"""A model as a short list of operations on values of one sample, out of which C is made.

A *value* is what one operation computes for one sample: a box of (channels, height, width) elements. What only moves
elements (reshape, permute, split, channel shuffle) is no operation: whoever reads a value reads it through a `View`,
which says for each element that it wants where it lies.
"""

from __future__ import annotations

import abc
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy
from numpy.typing import NDArray

from prunus.errors import ProgramError

if TYPE_CHECKING:
    from prunus.compiling.arranging import Arranger
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant

Indices: TypeAlias = NDArray[numpy.int64]
Numbers: TypeAlias = NDArray[numpy.float64]
Box: TypeAlias = tuple[int, int, int]
Pair: TypeAlias = tuple[int, int]


# What inputs of whole numbers may be of, in the order in which transfer.c counts them.
INTEGER_TYPES = ("uint8", "int8", "int16", "int32", "int64", "bool")

# Tables of numbers have 32 bits: a larger one would come out as another.
MOST_NUMBER = 1 << 31


def require(condition: object, message: str) -> None:
    """Make sure of something that a file may get wrong.

    Raises:
        ProgramError: it is not so.
    """
    if not condition:
        raise ProgramError(message)


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

    def check(self, side: int, name: str) -> None:
        """Make sure that the windows lie inside of a side of so many rows or columns.

        Raises:
            ProgramError: they do not.
        """
        lengths = {len(self.start), len(self.stop), len(self.divisors)}
        require(len(lengths) == 1 and 0 < self.step < MOST_NUMBER, f"{name!r:.40}: windows")
        for start, stop, divisor in zip(self.start, self.stop, self.divisors, strict=True):
            inside = 0 <= start <= side and 0 <= stop <= side
            require(inside and 0 < divisor < MOST_NUMBER, f"{name!r:.40}: a window reads outside")

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
class Operation(abc.ABC):
    """One kind of operation: what it reads and makes, its checks, its layout, its kernels, its loops.

    A subclass is entered in `prunus.compiling.operations.KINDS`, and nothing else has to know of it.

    Attributes:
        name: of the layer it comes from.
        output: number of the value it makes.
        box: (channels, height, width) of that value.
    """

    name: str
    output: int
    box: Box

    @property
    def views(self) -> list[View]:
        """What it reads."""
        return [value for value in vars(self).values() if isinstance(value, View)]

    @property
    def computes_in_words(self) -> bool:
        """Whether it reads or makes numbers of 8 bits: see `operations.quantized`."""
        return False

    @property
    def overwritable(self) -> list[View]:
        """Views whose elements are all read before, or while, the output's element in the same place is written."""
        return []

    @abc.abstractmethod
    def check(self) -> None:
        """Make sure that its fields fit together; what a file says is not trusted.

        Raises:
            ProgramError: they do not.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """Return what it does, in a few words."""

    def filling(self, fillings: Mapping[int, float]) -> float:
        """Return what has to lie around the rows of what it makes, where a convolution reads it.

        Args:
            fillings: of the values made before, by their numbers.
        """
        return 0.0

    def arranged(self, arranger: Arranger) -> list[Operation]:
        """Return it behind the copies that it needs where elements lie as the arranger says."""
        return [self]

    @abc.abstractmethod
    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:
        """Return the calls of kernels that compute it; `variant` is the way that was chosen, if it has several."""


@dataclass(frozen=True, eq=False)
class Net:
    """A model as operations.

    Attributes:
        inputs: name -> (number of its value, shape of one sample); in the order of the forward's arguments.
        operations: in the order they are computed.
        outputs: what the model returns, as views of the shape of one sample.
        boxes: (channels, height, width) of each value.
        integers: name -> type, one of `INTEGER_TYPES`, of the inputs of whole numbers, which become floating point.
    """

    inputs: Mapping[str, tuple[int, tuple[int, ...]]]
    operations: tuple[Operation, ...]
    outputs: tuple[View, ...]
    boxes: Mapping[int, Box] = field(default_factory=dict)
    integers: Mapping[str, str] = field(default_factory=dict)


# By length. Most views are of whole values; those of a large net would take a gigabyte if each had its own indices.
_IN_ORDER: weakref.WeakValueDictionary[int, Indices] = weakref.WeakValueDictionary()


def in_order(size: int) -> Indices:
    """Return 0, 1, 2, ... below a size, as a read-only array that all callers share."""
    indices = _IN_ORDER.get(size)
    if indices is None:
        indices = numpy.arange(size, dtype=numpy.int64)
        indices.flags.writeable = False
        _IN_ORDER[size] = indices
    return indices


def is_in_order(index: Indices) -> bool:
    """Tell whether an index is 0, 1, 2, ...

    >>> is_in_order(whole(0, (2, 3, 4)).index), is_in_order(numpy.array([[0, 2], [1, 3]]))
    (True, False)
    """
    indices = in_order(index.size)
    return (index.base is indices and index.flags.c_contiguous) or bool((index.reshape(-1) == indices).all())


def whole(value: int, box: Box) -> View:
    """Return a view of all of a value, in its own arrangement."""
    return View(value, in_order(math.prod(box)).reshape(box))


def is_whole(view: View, box: Box) -> bool:
    """Tell whether a view is all of a value with this box, in its own order, whatever the view's shape."""
    return view.index.size == math.prod(box) and is_in_order(view.index)


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
