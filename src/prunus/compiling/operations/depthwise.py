"""Depthwise convolutions of whole numbers of 8 bits: each channel of a word has weights of its own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.kernels.contraction import ACTIVATIONS
from prunus.compiling.net import Numbers, require
from prunus.compiling.operations.contract import Contract
from prunus.compiling.operations.quantized import (
    CHANNELS,
    LARGEST,
    WORD_LIMIT,
    QuantizedContract,
    check_grid,
)

if TYPE_CHECKING:
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant


@dataclass(frozen=True, eq=False)
class QuantizedDepthwise(QuantizedContract):
    """A depthwise convolution of whole numbers of 8 bits, whose output has 8 bits too.

    It is a contraction of words with as many groups as words; each of the four channels of a word is multiplied by its
    own weight. Sums, scales and limits are those of `QuantizedContract`, without a residual.

    Attributes:
        weight: (words, 1, kernel height, kernel width): the weights of four channels each, as `QuantizedContract` has
            those of four inputs.
        bias, units: (4 * words,).
    """

    @property
    def depthwise_in_words(self) -> bool:  # noqa: D102
        return True

    @functools.cached_property
    def fits(self) -> bool:
        """Whether no sum, and nothing that it is scaled to, has more than 32 bits, whatever is read."""
        absolute = numpy.abs(self.bytes.astype(numpy.int64)).sum((1, 2, 3)).reshape(-1)
        largest = LARGEST * absolute + abs(self.bias)
        return bool((largest < WORD_LIMIT).all() and (largest * self.factors < WORD_LIMIT).all())

    @property
    def channel_weights(self) -> Numbers:
        """The weights of each channel: (4 * words, 1, kernel height, kernel width)."""
        apart: Numbers = self.bytes.astype(numpy.float64).transpose(0, 4, 1, 2, 3)
        return apart.reshape(-1, 1, *self.weight.shape[2:])

    def check(self) -> None:  # noqa: D102
        name, words = f"{self.name!r:.40}", len(self.weight)
        function = "" if self.activation is None else self.activation.function
        in_kernel = function in ACTIVATIONS and self.pool is None and self.residual is None and self.in_words
        require(in_kernel, f"{name} does what no kernel of 8 bits does")
        require(self.groups == words and self.weight.shape[1:2] == (1,), f"{name}: groups")
        per_channel = (CHANNELS * words,)
        require(self.bias.shape == self.units.shape == per_channel, f"{name}: bias or units")
        fields = {key: vars(self)[key] for key in Contract.__dataclass_fields__}
        Contract(**fields | {"bias": self.bias[::CHANNELS]}).check()
        self.check_numbers()
        check_grid(self.scale, self.zero, self.name)

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        from prunus.compiling.kernels import depthwise

        assert variant is not None
        return [depthwise.call(writer, self, variant)]

    def describe(self) -> str:  # noqa: D102
        return f"depthwise {Contract.describe(self)}, of words of four channels of 8 bits"
