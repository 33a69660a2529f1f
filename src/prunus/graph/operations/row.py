"""What a row of the table of operations says: the family, the traits, and the forms that a file may hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Literal, TypeAlias


class Family(Enum):
    """Operations that the same rules of coupling, shrinking and rewriting hold for."""

    ELEMENTWISE = "combines tensors element by element; smaller ones broadcast"
    PRELU = "a leaky ReLU with one slope a channel, or one for all"
    GLU = "multiplies one half by the sigmoid of the other"
    SAME = "hands its first tensor on, perhaps copied or in another dtype"
    MOVE = "moves, repeats or leaves out elements of its first tensor"
    INDEX = "picks elements by an index that is a tensor"
    EMBEDDING = "looks up rows of a table"
    PARTS = "cuts a tensor into several"
    JOIN = "puts tensors beside each other"
    TRIANGLE = "sets a triangle of each matrix to zero"
    PAD = "puts elements around a tensor"
    PATCHES = "cuts images into patches, or puts them together"
    REDUCE = "reduces over dimensions"
    MIX = "makes each element of all those along one dimension"
    WINDOW = "pools, pads or resizes over the last dimensions"
    CHANNEL_NORM = "normalises each channel by itself"
    LAYER_NORM = "normalises over the last dimensions"
    GROUP_NORM = "normalises over groups of channels"
    LINEAR = "x W^T + b"
    MATMUL = "multiplies two matrices or stacks of them"
    ADDMM = "adds a product of two matrices or stacks of them"
    EINSUM = "multiplies and sums as its equation says"
    ATTENTION = "softmax(Q K^T) V"
    CONVOLUTION = "convolves, transposed or not, with groups"
    RECURRENT = "runs recurrent layers over a sequence"
    CELL = "runs one step of a recurrent layer; coupling does not follow it"
    FILL = "makes a tensor of one number"
    SIZE = "gives a size, stride or offset as a number"
    CHECK = "asserts what was true while tracing"
    OTHER = "none of these: coupling does not follow it"


PRODUCTS = frozenset(
    {
        Family.LINEAR,
        Family.MATMUL,
        Family.ADDMM,
        Family.EINSUM,
        Family.ATTENTION,
        Family.CONVOLUTION,
        Family.RECURRENT,
        Family.CELL,
    }
)


class Trait(Flag):
    """What an operation does whatever its arguments are, beyond its family."""

    ZERO = auto()  # gives 0 where its tensor is 0: of each element; a reduction, where all elements are
    RISING = auto()  # of each element: never falls where the element grows
    FACTOR = auto()  # gives 0 where one of its two arguments is 0
    EQUAL = auto()  # a reduction: of equal numbers it gives that number
    SUMS_TO_ONE = auto()  # all that it gives along its dimension
    KEEPS_ORDER = auto()  # changes the shape, not the order of elements
    LIKE_ANOTHER = auto()  # of its second tensor it takes the shape only
    CASTS = auto()  # may change the dtype
    DROPS = auto()  # drops elements out in training, else may hand on the very tensor
    PADS_ZEROS = auto()  # its windows may reach over the edge, where zeros are
    NOT_IN_FILES = auto()  # no file may hold it


NONE = Trait(0)
ZERO, RISING, FACTOR, EQUAL, SUMS_TO_ONE = Trait.ZERO, Trait.RISING, Trait.FACTOR, Trait.EQUAL, Trait.SUMS_TO_ONE
KEEPS_ORDER, LIKE_ANOTHER, CASTS, DROPS = Trait.KEEPS_ORDER, Trait.LIKE_ANOTHER, Trait.CASTS, Trait.DROPS
PADS_ZEROS, NOT_IN_FILES = Trait.PADS_ZEROS, Trait.NOT_IN_FILES

# Multiply-adds of an operation: it has none; they are counted, its own or those of its parts; or nobody says how many.
Macs: TypeAlias = Literal["none", "counted", "unknown"]


@dataclass(frozen=True)
class AtenOperation:
    """One row: an operation of ATen in all its overloads, in place or not.

    Attributes:
        name: without namespace, overload, and the underscore of in-place forms.
        family: which rules hold for it.
        traits: what else is true of it.
        files: the overloads that a graph in a file may hold, such as ``"add_.Tensor"``.
        along: the dimensions along which it moves elements, all others going through: a number, or the argument that
            names them; None where that can't be said so.
        fills: the number it makes a tensor of, or the argument that holds it; None for all others.
        gates: of a recurrent layer.
        macs: whether it multiplies and adds.
    """

    name: str
    family: Family
    traits: Trait = NONE
    files: tuple[str, ...] = ()
    along: int | str | None = None
    fills: float | str | None = None
    gates: int = 0
    macs: Macs = "none"

    def has(self, trait: Trait) -> bool:
        """Tell whether all of some traits are true of it."""
        return trait in self.traits

    def spatial_dims(self, rank: int) -> int:
        """Return how many of the last dimensions a WINDOW runs over, of a tensor with so many dimensions.

        >>> AtenOperation("max_pool2d", Family.WINDOW).spatial_dims(3)
        2
        >>> AtenOperation("grid_sampler", Family.WINDOW).spatial_dims(5)
        3
        """
        return next((int(letter) for letter in self.name if letter.isdigit()), rank - 2)


def ops(
    family: Family,
    forms: str,
    traits: Trait = NONE,
    *,
    along: int | str | None = None,
    fills: float | str | None = None,
    gates: int = 0,
    macs: Macs | None = None,
) -> tuple[AtenOperation, ...]:
    """Return rows that share all but their names.

    Args:
        family: of all of them.
        forms: the forms that a file may hold, in place or not, with their overloads unless there is the one called
            ``default`` alone: ``"relu relu_ add.Tensor,Scalar add_.Tensor"`` are two rows. Where no file may hold them,
            the names.
        traits: of all of them.
        along: see `AtenOperation`, as for the others.
        fills: likewise.
        gates: likewise.
        macs: likewise; without, products are counted and nothing else multiplies and adds.

    >>> [row.files for row in ops(Family.ELEMENTWISE, "relu relu_ add.Tensor,Scalar")]
    [('relu.default', 'relu_.default'), ('add.Tensor', 'add.Scalar')]
    """
    files: dict[str, list[str]] = {}
    for form in forms.split():
        packet, _, overloads = form.partition(".")
        own = files.setdefault(base_name(packet), [])
        if NOT_IN_FILES not in traits:
            own += [f"{packet}.{overload}" for overload in (overloads or "default").split(",")]
    counted = macs or ("counted" if family in PRODUCTS else "none")
    return tuple(
        AtenOperation(name, family, traits, tuple(own), along, fills, gates, counted) for name, own in files.items()
    )


def base_name(packet: str) -> str:
    """Return an operation's name without the underscore of in-place forms.

    >>> base_name("relu_"), base_name("__and__"), base_name("_softmax")
    ('relu', '__and__', '_softmax')
    """
    return packet if packet.startswith("__") else packet.rstrip("_")
