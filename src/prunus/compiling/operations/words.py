"""Means, products and functions of whole numbers of 8 bits: from words to words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.net import Numbers, Operation, View, require
from prunus.compiling.operations.quantized import (
    LARGEST,
    WORD_LIMIT,
    check_grid,
    three_sides,
    word_of_zeros,
    words_of,
)

if TYPE_CHECKING:
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant


@dataclass(frozen=True, eq=False)
class _WordOperation(Operation):
    """What reads words on a grid and makes words on another: (q - zero) * scale is what a whole number stands for.

    Attributes:
        source: view of words, of shape (words, height, width).
        source_scale, source_zero: of the source.
        scale, zero: of the output.
    """

    source: View
    source_scale: float
    source_zero: int
    scale: float
    zero: int

    @property
    def computes_in_words(self) -> bool:
        return True

    @property
    def factor(self) -> numpy.float32:
        """What differences from the source's zero point are multiplied by."""
        return numpy.float32(self.source_scale / self.scale)

    def check(self) -> None:
        three_sides(self.source, self.name)
        check_grid(self.source_scale, self.source_zero, self.name)
        check_grid(self.scale, self.zero, self.name)
        with numpy.errstate(over="ignore"):
            require(numpy.isfinite(self.factor), f"{self.name!r:.40}: scale or zero point")

    def filling(self, fillings: Mapping[int, float]) -> float:
        return word_of_zeros(self.zero)


@dataclass(frozen=True, eq=False)
class QuantizedMean(_WordOperation):
    """The mean of each channel's plane: ``clip(rint(float32(sum(q - source_zero)) * float32(factor)) + zero, 0, 255)``.

    The factor is ``source_scale / (elements * scale)``.
    """

    @property
    def factor(self) -> numpy.float32:  # noqa: D102
        _, height, width = self.source.index.shape
        return numpy.float32(self.source_scale / (height * width * self.scale))

    def check(self) -> None:  # noqa: D102
        super().check()
        words, height, width = self.source.index.shape
        require(self.box == (words, 1, 1), f"{self.name!r:.40}: box")
        require(LARGEST * height * width < WORD_LIMIT, f"{self.name!r:.40}: its sums may have more than 32 bits")

    def describe(self) -> str:  # noqa: D102
        return "mean over planes, in 8 bits"

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        from prunus.compiling.kernels import plane_calls

        return [plane_calls.mean(writer, self)]


@dataclass(frozen=True, eq=False)
class QuantizedProduct(_WordOperation):
    """Planes times a floating-point factor of each channel, as of squeeze-and-excitation.

    ``clip(rint(float32(q - source_zero) * (x * float32(source_scale / scale))) + zero, 0, 255)``; NaN gives 0.

    Attributes:
        factors: view of x, of shape (channels, 1, 1).
    """

    factors: View

    def check(self) -> None:  # noqa: D102
        super().check()
        channels, *sides = three_sides(self.factors, self.name)
        require(sides == [1, 1], f"{self.name!r:.40}: factors")
        box = words_of(channels), *self.source.index.shape[1:]
        require(self.box == self.source.index.shape == box, f"{self.name!r:.40}: box")

    def describe(self) -> str:  # noqa: D102
        return "planes times factors, in 8 bits"

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        from prunus.compiling.kernels import plane_calls

        return [*writer.look(self, self.factors), plane_calls.product(writer, self)]


@dataclass(frozen=True, eq=False)
class QuantizedFunction(_WordOperation):
    """A function of each element, as a table.

    Attributes:
        table: (256,): for each whole number of the source that of the output.
    """

    table: Numbers

    def check(self) -> None:  # noqa: D102
        super().check()
        require(self.box == self.source.index.shape, f"{self.name!r:.40}: box")
        table = self.table
        whole = table.shape == (LARGEST + 1,) and bool((table == numpy.clip(numpy.rint(table), 0, LARGEST)).all())
        require(whole, f"{self.name!r:.40}: table")

    def describe(self) -> str:  # noqa: D102
        return "a table of a function, in 8 bits"

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        from prunus.compiling.kernels import plane_calls

        return [plane_calls.function(writer, self)]
