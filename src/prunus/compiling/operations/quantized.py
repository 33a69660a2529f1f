"""Operations on whole numbers of 8 bits: of four neighbouring channels each, which lie in one number of 32 bits.

Such a number is called a *word* here. A value of words has a box of (channels / 4 rounded up, height, width), so it is
laid out, copied and padded as one of floating-point numbers is. A whole number q stands for (q - zero) * scale.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.kernels.contraction import ACTIVATIONS
from prunus.compiling.net import Indices, Numbers, Operation, Pointwise, View, require
from prunus.compiling.operations.contract import Contract

if TYPE_CHECKING:
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant

# Channels in a word, and the largest whole number of one.
CHANNELS, LARGEST = 4, 255
# Whole numbers of 32 bits are below.
WORD_LIMIT = 1 << 31


def words_of(channels: int) -> int:
    """Return how many words hold so many channels."""
    return -(-channels // CHANNELS)


def word_of_zeros(zero: int) -> float:
    """Return the word whose channels all hold the number that stands for zero, as what its bits are in float32.

    >>> word_of_zeros(0), numpy.float32(word_of_zeros(1)).tobytes().hex()
    (0.0, '01010101')
    """
    return float(numpy.full(CHANNELS, zero, dtype=numpy.uint8).view(numpy.float32)[0])


@dataclass(frozen=True, eq=False)
class Quantize(Operation):
    """Floating-point numbers as whole ones of 8 bits: ``clip(rint(x * (1 / scale)) + zero, 0, 255)``.

    Attributes:
        source: view of shape (channels, height, width).
    """

    source: View
    scale: float
    zero: int

    @property
    def computes_in_words(self) -> bool:  # noqa: D102
        return True

    def check(self) -> None:  # noqa: D102
        channels, *sides = three_sides(self.source, self.name)
        require(self.box == (words_of(channels), *sides), f"{self.name!r:.40}: box")
        check_grid(self.scale, self.zero, self.name)

    def describe(self) -> str:  # noqa: D102
        return "to 8 bits"

    def filling(self, fillings: Mapping[int, float]) -> float:  # noqa: D102
        return word_of_zeros(self.zero)

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        from prunus.compiling.kernels import word_calls

        return [*writer.look(self, self.source), word_calls.quantize(writer, self)]


@dataclass(frozen=True, eq=False)
class Dequantize(Operation):
    """Whole numbers of 8 bits as floating-point ones: ``(q - zero) * scale``.

    Attributes:
        source: view of words, of shape (channels / 4 rounded up, height, width).
    """

    source: View
    scale: float
    zero: int

    @property
    def computes_in_words(self) -> bool:  # noqa: D102
        return True

    def check(self) -> None:  # noqa: D102
        words, *sides = three_sides(self.source, self.name)
        fits = self.box[1:] == tuple(sides) and words_of(self.box[0]) == words
        require(fits, f"{self.name!r:.40}: box")
        index = self.source.index
        require(len(numpy.unique(index)) == index.size, f"{self.name!r:.40}: it reads a word twice")
        check_grid(self.scale, self.zero, self.name)

    def describe(self) -> str:  # noqa: D102
        return "to floating point"

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        from prunus.compiling.kernels import word_calls

        return [word_calls.dequantize(writer, self)]


@dataclass(frozen=True, eq=False)
class Regroup(Operation):
    """Words put together of channels that lie in other words.

    Attributes:
        sources: views of words, all on one grid.
        picks: (words, height, width, 4): for each channel which of the sources' it is, counted through all words of the
            first source, four in each, then through the next one's; -1: what stands for zero.
        zero: that.
    """

    sources: tuple[View, ...]
    picks: Indices
    zero: int

    @property
    def computes_in_words(self) -> bool:  # noqa: D102
        return True

    @property
    def views(self) -> list[View]:  # noqa: D102
        return list(self.sources)

    def check(self) -> None:  # noqa: D102
        picks, count = self.picks, CHANNELS * sum(view.index.size for view in self.sources)
        shaped = isinstance(picks, numpy.ndarray) and picks.dtype == numpy.int64
        require(shaped and picks.shape == (*self.box, CHANNELS) and self.sources, f"{self.name!r:.40}: picks")
        require(int(picks.min()) >= -1 and int(picks.max()) < count, f"{self.name!r:.40}: a pick lies outside")
        check_grid(1.0, self.zero, self.name)

    def describe(self) -> str:  # noqa: D102
        return "channels put together anew, in 8 bits"

    def filling(self, fillings: Mapping[int, float]) -> float:  # noqa: D102
        return word_of_zeros(self.zero)

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        from prunus.compiling.kernels import word_calls

        return [word_calls.regroup(writer, self)]


@dataclass(frozen=True, eq=False)
class UnitContract(Contract):
    """A contraction of floating-point numbers whose weights are whole multiples, of 8 bits, of a unit of each output.

    It stands in a net only until it is known what is computed in 8 bits.

    Attributes:
        units: (outputs,).
    """

    units: Numbers = field(kw_only=True)

    @property
    def plain(self) -> Contract:
        """The same without units."""
        fields = {name: value for name, value in vars(self).items() if name in Contract.__dataclass_fields__}
        return Contract(**fields)


@dataclass(frozen=True, eq=False)
class QuantizedContract(Contract):
    """A contraction of whole numbers of 8 bits.

    sum = weight * source + bias, in 32 bits
    real = float32(sum) * float32(unit / scale), + float32(residual - residual_zero) * float32(residual_scale / scale)
    output = clip(rint(real) + zero, low, high)

    With an activation the units are not divided by the scale, and its result is multiplied by float32(1 / scale) and
    kept within a million. With a scale of 0 the output is real, in floating point. Nothing is fused: every result is
    that of float32's rounding.

    Attributes:
        source: view of words.
        weight: (outputs, words of a group's channels, kernel height, kernel width): each four whole numbers of 8 bits,
            as the signed number of 32 bits that they are together, that of the first channel in the lowest bits.
        bias: whole numbers.
        units: (outputs,): what one of the sums stands for.
        scale, zero: of the output.
        low, high: the output's least and largest whole number.
        residual: view of words; ``residual_scale`` and ``residual_zero`` are theirs.
    """

    units: Numbers = field(kw_only=True)
    scale: float = 0.0
    zero: int = 0
    low: int = 0
    high: int = LARGEST
    residual_scale: float = 1.0
    residual_zero: int = 0

    @property
    def computes_in_words(self) -> bool:  # noqa: D102
        return True

    @property
    def in_words(self) -> bool:
        """Whether the output has 8 bits."""
        return self.scale > 0

    @functools.cached_property
    def bytes(self) -> numpy.ndarray:
        """The weights as whole numbers of 8 bits: (outputs, words, kernel height, kernel width, 4)."""
        words = numpy.ascontiguousarray(self.weight.astype(numpy.int64).astype(numpy.int32))
        return words.view(numpy.int8).reshape(*self.weight.shape, CHANNELS)

    @property
    def num_weights(self) -> int:
        """How many weights its words hold, zeros included."""
        return CHANNELS * int(self.weight.size)

    @functools.cached_property
    def nonzero(self) -> int:
        """How many weights are not zero; a word counts as four."""
        return CHANNELS * int(numpy.count_nonzero(self.weight))

    @property
    def factors(self) -> Numbers:
        """What sums are multiplied by, in float32: (outputs,)."""
        divisor = self.scale if self.in_words and self.activation is None else 1.0
        return (self.units / divisor).astype(numpy.float32)

    def filling(self, fillings: Mapping[int, float]) -> float:  # noqa: D102
        return word_of_zeros(self.zero) if self.in_words else 0.0

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        from prunus.compiling.kernels import word_calls

        assert variant is not None
        return [word_calls.contraction(writer, self, variant)]

    def check(self) -> None:  # noqa: D102
        name, outputs = f"{self.name!r:.40}", len(self.weight)
        function = "" if self.activation is None else self.activation.function
        in_kernel = function in ACTIVATIONS and self.pool is None and (self.residual is None or self.in_words)
        require(in_kernel, f"{name} does what no kernel of 8 bits does")
        whole_words = not self.in_words or outputs % CHANNELS == 0
        box = (words_of(outputs) if self.in_words else outputs, *self.grid)
        require(whole_words and self.box == box, f"{name} makes {box}, not {self.box}")
        residual = None if self.residual is None else self.residual.index
        fits = residual is None or (residual.shape == (words_of(outputs), *self.grid) and outputs % CHANNELS == 0)
        require(fits, f"{name}: residual")
        fields = vars(self) | {"box": (outputs, *self.grid), "residual": None}
        Contract(**{key: fields[key] for key in Contract.__dataclass_fields__}).check()
        per_group = outputs // self.groups
        require(per_group % CHANNELS == 0 or self.groups == 1, f"{name}: groups of outputs")
        require(self.units.shape == (outputs,), f"{name}: units")
        self.check_numbers()

    def check_numbers(self) -> None:
        """Make sure that weights, bias, units and limits are such that nothing exceeds its bits.

        Raises:
            ProgramError: they are not.
        """
        name = f"{self.name!r:.40}"
        require(bool((self.units > 0).all()), f"{name}: units")
        whole = (self.weight, self.bias)
        require(all(bool((part == numpy.rint(part)).all()) for part in whole), f"{name}: no whole numbers")
        require(bool(((self.weight >= -WORD_LIMIT) & (self.weight < WORD_LIMIT)).all()), f"{name}: weights")
        require(self.fits, f"{name}: its sums may have more than 32 bits")
        require(0 <= self.low <= self.high <= LARGEST, f"{name}: limits")
        for scale, zero in ((self.scale or 1.0, self.zero), (self.residual_scale, self.residual_zero)):
            check_grid(scale, zero, self.name)

    @functools.cached_property
    def fits(self) -> bool:
        """Whether no sum, and nothing that it is scaled to, has more than 32 bits, whatever is read."""
        absolute = numpy.abs(self.bytes.astype(numpy.int16)).reshape(len(self.weight), -1).sum(1, dtype=numpy.int64)
        largest = LARGEST * absolute + abs(self.bias)
        scaled = largest * self.factors
        if self.residual is not None:
            scaled = scaled + LARGEST * self.residual_scale / (1.0 if self.activation is not None else self.scale)
        return bool((largest < WORD_LIMIT).all() and (scaled < WORD_LIMIT).all())

    def describe(self) -> str:  # noqa: D102
        return f"{super().describe()}, in words of four channels of 8 bits"


def limits(activation: Pointwise | None, scale: float, zero: int) -> tuple[int, int] | None:
    """Return the least and largest whole number behind an activation that only cuts off; None for any other.

    >>> limits(Pointwise("relu"), 0.1, 7), limits(Pointwise("relu6"), 0.1, 0), limits(Pointwise("tanh"), 0.1, 0)
    ((7, 255), (0, 60), None)
    """
    if activation is None:
        return 0, LARGEST
    ends = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}.get(activation.function)
    if activation.function == "clamp":
        ends = activation.constants[0], activation.constants[1]
    if ends is None:
        return None
    low, high = (float(numpy.clip(numpy.rint(end / scale) + zero, 0, LARGEST)) for end in ends)
    return int(low), int(high)


def three_sides(view: View, name: str) -> tuple[int, ...]:
    """Return the shape of a view of channels, rows and columns.

    Raises:
        ProgramError: it is of other dimensions.
    """
    require(view.index.ndim == 3, f"{name!r:.40}: no channels, rows and columns")
    return view.index.shape


def check_grid(scale: float, zero: int, name: str) -> None:
    """Make sure that whole numbers stand for some others.

    Raises:
        ProgramError: they do not.
    """
    finite = type(scale) is float and math.isfinite(scale) and scale > 0 and math.isfinite(1 / scale)
    require(finite and type(zero) is int and 0 <= zero <= LARGEST, f"{name!r:.40}: scale or zero point")
