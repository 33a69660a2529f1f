"""Patterns: which weights are removed together. They pool scores into units and expand units to a mask."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Size, Tensor

from prunus.pruning import options
from prunus.registry import Registry, unknown_name

Budget: TypeAlias = Literal["parameters", "macs"]
Depthwise: TypeAlias = Literal["dense", "columns"]


class Pattern(Protocol):
    """How the weights of one parameter form units, each of which is kept or removed as a whole.

    Scores of weights are finite, except -inf for a weight that is pruned already. The score of a unit is -inf if all
    of its weights are pruned, +inf if it must stay, and finite otherwise.
    """

    @property
    def name(self) -> str:
        """The name that users write, such as ``"2:4"``."""
        ...

    @property
    def only_sparsity(self) -> float | None:
        """The only sparsity that this pattern can reach; None if it can reach any."""
        ...

    def check(self, name: str, shape: Size) -> None:
        """Raise ValueError if the parameter `name` of this shape can't hold the pattern."""
        ...

    def num_units(self, shape: Size) -> int:
        """Return the number of units in a weight of this shape."""
        ...

    def pool(self, scores: Tensor) -> Tensor:
        """Return one score per unit, flat, from scores of the weight's shape."""
        ...

    def expand(self, units: Tensor, shape: Size) -> Tensor:
        """Give each weight the value of its unit: from flat units to the weight's shape."""
        ...


@dataclass(frozen=True)
class Unstructured:
    """Every weight on its own.

    Source: Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015.
    """

    name: str = "unstructured"
    only_sparsity: float | None = None

    def check(self, name: str, shape: Size) -> None:
        """Accept any shape."""

    def num_units(self, shape: Size) -> int:
        """Return the number of weights."""
        return shape.numel()

    def pool(self, scores: Tensor) -> Tensor:
        """Return the scores, flat."""
        return scores.reshape(-1)

    def expand(self, units: Tensor, shape: Size) -> Tensor:
        """Return the units in the weight's shape."""
        return units.reshape(shape)


@dataclass(frozen=True)
class NofM:
    """At most n of every m neighbours along dimension 1 stay: the inputs of a Linear or a convolution.

    A unit is a weight. The n weights with the highest scores of each group must stay; any scope and schedule may
    choose among the others, and the pattern holds at the end, when all others are removed.

    Source: Mishra et al., "Accelerating sparse deep neural networks", 2021 (arXiv:2104.08378), for 2:4.
    """

    n: int
    m: int

    @property
    def name(self) -> str:
        """The usual notation, such as ``2:4``."""
        return f"{self.n}:{self.m}"

    @property
    def only_sparsity(self) -> float:
        """The fraction (m - n) / m."""
        return 1 - self.n / self.m

    def check(self, name: str, shape: Size) -> None:
        """Raise ValueError if the number of inputs is not a multiple of m."""
        if len(shape) < 2 or shape[1] % self.m:
            inputs = f"{shape[1]} inputs" if len(shape) >= 2 else "one dimension"
            raise ValueError(
                f"pattern {self.name} needs the inputs (dimension 1) to be a multiple of {self.m}, but {name!r} has "
                f"shape {tuple(shape)}: {inputs}; exclude it, as in exclude=[{name!r}]"
            )

    def num_units(self, shape: Size) -> int:
        """Return the number of weights."""
        return shape.numel()

    def pool(self, scores: Tensor) -> Tensor:
        """Set the n highest scores of each group to +inf; of equal scores the first ones."""
        groups = scores.movedim(1, -1).reshape(-1, self.m)
        best = groups.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        return groups.scatter(1, best, torch.inf).reshape(-1)

    def expand(self, units: Tensor, shape: Size) -> Tensor:
        """Return the units in the weight's shape."""
        moved = (shape[0], *shape[2:], shape[1])
        return units.reshape(moved).movedim(-1, 1).contiguous()


@dataclass(frozen=True)
class Block:
    """Rectangles of the weight's matrix (outputs x everything else); those at the edges may be smaller.

    A unit is a block, so a sparsity is met exactly in blocks; in weights it differs a little if blocks at the edges are
    smaller. A block's score is the mean over its weights; weights that are pruned already count as 0.

    Source: Narang et al., "Block-sparse recurrent neural networks", 2017 (arXiv:1711.02782).
    """

    height: int
    width: int
    only_sparsity: float | None = None

    @property
    def name(self) -> str:
        """The name with the block's size, such as ``block-4x4``."""
        return f"block-{self.height}x{self.width}"

    def check(self, name: str, shape: Size) -> None:
        """Raise ValueError for a vector, which has no rows and columns."""
        _check_matrix(self.name, name, shape)

    def num_units(self, shape: Size) -> int:
        """Return the number of blocks, including smaller ones at the edges."""
        rows, columns = self._grid(shape)
        return rows * columns

    def pool(self, scores: Tensor) -> Tensor:
        """Return the mean score of each block, row by row."""
        matrix = scores.flatten(1)
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        alive = matrix > -torch.inf
        whole = self.height * self.width
        # divided before they are added, so that the sum of the largest numbers does not overflow
        share = self._sum(torch.where(alive, matrix, 0.0) / whole)
        mean = share * (whole / self._sizes(matrix.shape, matrix.device))
        any_alive = self._sum(alive.to(matrix.dtype)) > 0
        return torch.where(any_alive, finite(mean), -torch.inf).reshape(-1)

    def expand(self, units: Tensor, shape: Size) -> Tensor:
        """Repeat each block's value over its weights."""
        rows, columns = self._grid(shape)
        grid = units.reshape(rows, columns)
        full = grid.repeat_interleave(self.height, 0).repeat_interleave(self.width, 1)
        return full[: shape[0], : shape[1:].numel()].reshape(shape)

    def _grid(self, shape: Size) -> tuple[int, int]:
        return -(-shape[0] // self.height), -(-shape[1:].numel() // self.width)

    def _sizes(self, shape: Size, device: torch.device) -> Tensor:
        """Return the number of weights in each block."""
        rows, columns = self._grid(shape)
        heights = (shape[0] - self.height * torch.arange(rows, device=device)).clamp(max=self.height)
        widths = (shape[1:].numel() - self.width * torch.arange(columns, device=device)).clamp(max=self.width)
        return torch.outer(heights, widths)

    def _sum(self, matrix: Tensor) -> Tensor:
        rows, columns = self._grid(matrix.shape)
        right, below = columns * self.width - matrix.shape[1], rows * self.height - matrix.shape[0]
        padded = F.pad(matrix, (0, right, 0, below))
        return padded.reshape(rows, self.height, columns, self.width).sum((1, 3))


@dataclass(frozen=True)
class Inputs:
    """Neighbouring input channels of one output at one place of the kernel: what an 8-bit dot product reads at once.

    A unit is a block of `size` neighbours along dimension 1, so blocks lie within the groups of a convolution. Layers
    with fewer inputs (in a group) take neighbours along the kernel's width instead, its last dimension; linear layers,
    and kernels of width 1, all their inputs. The last block is shorter where the number of neighbours is not a
    multiple of `size`. A block's score is the mean over its weights, as that of `Block`. Dimension 1 of a transposed
    convolution holds its outputs, as for n:m patterns.

    Attributes:
        size: the number of inputs in a block.
        depthwise: what happens to depthwise convolutions, which have one input in each group: ``"dense"`` leaves them
            out, ``"columns"`` prunes them along the kernel's width. They are told by PyTorch's convolution classes.

    Raises:
        TypeError, ValueError: an attribute is of the wrong type or out of range.

    Source: the layout is that of dot products of four bytes (AVX512-VNNI's vpdpbusd); as a pattern, 1 x n blocks of
    Narang et al., "Block-sparse recurrent neural networks", 2017 (arXiv:1711.02782), with convolutions channels-last.

    >>> Inputs(2).pool(torch.tensor([[1.0, 3.0, 0.0, 0.0, 5.0]]))
    tensor([2., 0., 5.])
    """

    size: int
    depthwise: Depthwise = "dense"
    only_sparsity: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        options.whole("the number of inputs in a block", self.size, least=1)
        if self.depthwise not in get_args(Depthwise):
            raise ValueError(f"depthwise must be 'dense' or 'columns', got {self.depthwise!r}")

    @property
    def name(self) -> str:
        """The name that users write, such as ``inputs-4``."""
        own = {} if self.depthwise == "dense" else {"depthwise": self.depthwise}
        return options.join(f"inputs-{self.size}", own)

    def check(self, name: str, shape: Size) -> None:
        """Raise ValueError for a vector, which has no inputs."""
        _check_matrix(self.name, name, shape)

    def num_units(self, shape: Size) -> int:
        """Return the number of blocks, including shorter ones."""
        return self._rows.num_units(self._moved(shape)[1])

    def pool(self, scores: Tensor) -> Tensor:
        """Return the mean score of each block."""
        dim, matrix = self._moved(scores.shape)
        return self._rows.pool(scores.movedim(dim, -1).reshape(matrix))

    def expand(self, units: Tensor, shape: Size) -> Tensor:
        """Repeat each block's value over its weights."""
        dim, matrix = self._moved(shape)
        others = (*shape[:dim], *shape[dim + 1 :], shape[dim])
        return self._rows.expand(units, matrix).reshape(others).movedim(-1, dim).contiguous()

    def dim(self, shape: Size) -> int:
        """Return the dimension along which a weight of this shape has its blocks."""
        return len(shape) - 1 if shape[1] < self.size and len(shape) > 2 and shape[-1] > 1 else 1

    @property
    def _rows(self) -> Block:
        return Block(1, self.size)

    def _moved(self, shape: Size) -> tuple[int, Size]:
        """Return the dimension of the blocks, and the shape of a matrix whose rows lie along it."""
        dim = self.dim(shape)
        return dim, Size((shape.numel() // max(1, shape[dim]), shape[dim]))


@dataclass(frozen=True)
class Channels:
    """Whole channels: outputs of a layer with everything coupled to them in other layers; also neurons, heads, groups.

    `pruning.channels` reads from the model's graph which weights of which layers are removed together; the units here
    are those of a single weight: its rows.

    Attributes:
        round_to: the number of channels that a layer keeps is a multiple of this, or all of them.
        budget: what the sparsity is a fraction of: ``"parameters"``, the targeted weights, or ``"macs"``, the model's
            multiply-adds.

    Raises:
        TypeError, ValueError: an attribute is of the wrong type or out of range.

    Source: Li et al., "Pruning filters for efficient convnets", ICLR 2017.
    """

    round_to: int = 1
    budget: Budget = "parameters"
    name: ClassVar[str] = "channel"
    only_sparsity: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        options.whole("round_to", self.round_to, least=1)
        if self.budget not in get_args(Budget):
            raise ValueError(f"budget must be 'parameters' or 'macs', got {self.budget!r}")

    def check(self, name: str, shape: Size) -> None:
        """Raise ValueError for a vector, which has no rows."""
        self._rows(shape).check(name, shape)

    def num_units(self, shape: Size) -> int:
        """Return the number of rows."""
        return shape[0]

    def pool(self, scores: Tensor) -> Tensor:
        """Return the mean score of each row."""
        return self._rows(scores.shape).pool(scores)

    def expand(self, units: Tensor, shape: Size) -> Tensor:
        """Repeat each row's value over its weights."""
        return self._rows(shape).expand(units, shape)

    def _rows(self, shape: Size) -> Block:
        return Block(1, max(1, shape[1:].numel()))


def _check_matrix(pattern: str, name: str, shape: Size) -> None:
    """Raise ValueError for a vector."""
    if len(shape) < 2:
        raise ValueError(f"pattern {pattern} needs two dimensions or more, but {name!r} has shape {tuple(shape)}")


def finite(scores: Tensor) -> Tensor:
    """Clamp infinite scores to the largest finite ones, since infinity marks pruned units and units that must stay."""
    range_ = torch.finfo(scores.dtype)
    return scores.clamp(range_.min, range_.max)


def num_gone(pattern: Pattern, mask: Tensor) -> int:
    """Return the number of units of a mask without any weight left."""
    if isinstance(pattern, Unstructured):
        return mask.numel() - int(torch.count_nonzero(mask))
    units = pattern.pool(torch.where(mask, 0.0, -torch.inf))
    return int(torch.count_nonzero(units == -torch.inf))


def num_missing(pattern: Pattern, mask: Tensor) -> int:
    """Return how many pruned weights the pattern would have to keep: above 0, it can't hold with this mask."""
    if pattern.only_sparsity is None:
        return 0
    stay = pattern.expand(pattern.pool(torch.where(mask, 0.0, -torch.inf)) == torch.inf, mask.shape)
    return int(torch.count_nonzero(stay & ~mask))


def holds(pattern: Pattern, mask: Tensor) -> bool:
    """Tell whether a mask is of a pattern: units are kept or removed whole; n of every m weights stay."""
    try:
        pattern.check("", mask.shape)
    except ValueError:
        return False
    units = pattern.pool(torch.where(mask, 0.0, -torch.inf))
    if pattern.only_sparsity is not None:  # the n that may stay are +inf, also where they are removed
        return not bool((units == 0).any()) and int(mask.sum()) == int((units == torch.inf).sum())
    return torch.equal(pattern.expand(units > -torch.inf, mask.shape), mask)


PatternMaker: TypeAlias = Callable[[re.Match[str]], Pattern]


@dataclass(frozen=True)
class PatternFamily:
    """Patterns that differ only in their numbers.

    Attributes:
        form: a regular expression for the names that users write.
        make: makes the pattern from the match of a name.
        examples: some names, for listings, error messages and tests.
        options: makes the pattern from the numbers in its name, followed by options; None if it has none.
    """

    form: re.Pattern[str]
    make: PatternMaker
    examples: tuple[str, ...]
    options: Callable[..., Pattern] | None = None


PATTERNS = Registry[PatternFamily]("pattern")


def pattern(
    name: str, form: str, *, examples: tuple[str, ...], options: Callable[..., Pattern] | None = None
) -> Callable[[PatternMaker], PatternMaker]:
    """Register the decorated function as `make` of the family `name`; arguments as in `PatternFamily`."""

    def enter(make: PatternMaker) -> PatternMaker:
        PATTERNS.register(name)(PatternFamily(re.compile(form, re.ASCII), make, examples, options))
        return make

    return enter


def resolve(chosen: str | Pattern) -> Pattern:
    """Return the pattern of a name such as ``"unstructured"``, ``"2:4"`` or ``"inputs-4"``.

    Raises:
        ValueError: no pattern has such a name, or its numbers are out of range.
        TypeError: it is neither a name nor a Pattern.

    >>> resolve("2:4").only_sparsity
    0.5
    """
    if not isinstance(chosen, str):
        if isinstance(chosen, type) or not hasattr(chosen, "pool"):
            raise TypeError(f"pattern must be a name or a Pattern, got {chosen!r}")
        return chosen
    name, settings = options.split(chosen)
    for family in PATTERNS.values():
        if match := family.form.fullmatch(name):
            if not settings:
                return family.make(match)
            maker = family.options and functools.partial(family.options, *map(int, match.groups()))
            return options.make("pattern", name, maker, settings)
    raise unknown_name("pattern", chosen, [example for family in PATTERNS.values() for example in family.examples])


@pattern("unstructured", r"unstructured", examples=("unstructured",))
def _unstructured(match: re.Match[str]) -> Unstructured:
    return Unstructured()


@pattern("n:m", r"(\d{1,4}):(\d{1,4})", examples=("2:4", "1:4"))
def _n_of_m(match: re.Match[str]) -> NofM:
    n, m = int(match[1]), int(match[2])
    if not 0 < n < m:
        raise ValueError(f"pattern n:m keeps n of every m weights and needs 0 < n < m, got {match[0]}")
    return NofM(n, m)


@pattern("block", r"block(?:-(\d{1,4})x(\d{1,4}))?", examples=("block-4x4", "block-1x8"))
def _block(match: re.Match[str]) -> Block:
    height, width = (int(match[1]), int(match[2])) if match[1] else (4, 4)
    if height < 1 or width < 1:
        raise ValueError(f"a block needs at least one row and one column, got {match[0]}")
    return Block(height, width)


@pattern("inputs", r"inputs-(\d{1,4})", examples=("inputs-4",), options=Inputs)
def _inputs(match: re.Match[str]) -> Inputs:
    return Inputs(int(match[1]))


@pattern("channel", r"channel", examples=("channel",), options=Channels)
def _channel(match: re.Match[str]) -> Channels:
    return Channels()
