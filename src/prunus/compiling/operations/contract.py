"""Convolutions and linear layers: weights times elements, summed, and what follows while the sum is in a register."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.kernels.numbers import SCALARS, constants_of
from prunus.compiling.net import Box, Numbers, Operation, Pair, Pointwise, View, require

if TYPE_CHECKING:
    from prunus.compiling.arranging import Arranger
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant

_MOST_STEP = 1 << 16


@dataclass(frozen=True, eq=False)
class Contract(Operation):
    """A convolution, or a linear layer as one of 1x1.

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
    def depthwise_in_words(self) -> bool:
        """Whether it is a depthwise convolution of 8 bits, which has kernels of its own."""
        return False

    @property
    def num_weights(self) -> int:
        """How many weights it has, zeros included."""
        return int(self.weight.size)

    @functools.cached_property
    def nonzero(self) -> int:
        """How many weights are not zero."""
        return int(numpy.count_nonzero(self.weight))

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample, zeros left out."""
        return self.nonzero * self.grid[0] * self.grid[1]

    @property
    def overwritable(self) -> list[View]:  # noqa: D102
        residual = self.residual
        return [] if residual is None or self.pool is not None or self.source.value == residual.value else [residual]

    def arranged(self, arranger: Arranger) -> list[Operation]:  # noqa: D102
        return arranger.contraction(self)

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        assert variant is not None
        return [*writer.look(self, self.source), writer.contraction(self, variant)]

    def check(self) -> None:  # noqa: D102
        name, index = f"{self.name!r:.40}", self.source.index
        shaped = self.weight.ndim == 4 and self.weight.size > 0 and index.ndim == 3
        require(shaped, f"{name} is no convolution")
        require(all(type(n) is int for n in (self.groups, *self.grid)), f"{name}: groups or grid")
        outputs, per_group = self.weight.shape[:2]
        even = self.groups > 0 and outputs % self.groups == 0 and per_group * self.groups == len(index)
        require(even, f"{name}: groups")
        require(self.bias.shape == (outputs,), f"{name}: bias")
        for numbers, least in ((self.stride, 1), (self.padding, 0), (self.dilation, 1)):
            fits = len(numbers) == 2 and all(type(n) is int and least <= n < _MOST_STEP for n in numbers)
            require(fits, f"{name}: steps")
        grid = self._grid()
        require(grid == self.grid and min(grid) > 0, f"{name} has the grid {self.grid}, not {grid}")
        box: Box = (outputs, *self.grid)
        if self.pool is not None:
            function, *window = self.pool
            positive = len(window) == 2 and all(type(n) is int and n > 0 for n in window)
            require(function in ("max", "avg") and positive, f"{name}: pool")
            box = (outputs, self.grid[0] // window[0], self.grid[1] // window[1])
        require(box == self.box, f"{name} makes {box}, not {self.box}")
        if self.residual is not None:
            require(self.residual.index.shape == (outputs, *self.grid), f"{name}: residual")
        require(self.kind in ("conv", "linear"), f"{name}: kind")
        if self.activation is not None:
            function, constants = self.activation.function, self.activation.constants
            require(function in SCALARS, f"{name} calls the unknown function {function!r:.40}")
            require(len(constants) == constants_of(function), f"{name} gives too few constants")

    def _grid(self) -> Pair:
        """Return the height and width that the source and the kernel make."""
        height, width = (
            (side + 2 * pad - gap * (size - 1) - 1) // step + 1
            for side, pad, gap, size, step in zip(
                self.source.index.shape[1:],
                self.padding,
                self.dilation,
                self.weight.shape[2:],
                self.stride,
                strict=True,
            )
        )
        return height, width

    def describe(self) -> str:  # noqa: D102
        _, _, height, width = self.weight.shape
        source: Box = self.source.index.shape
        outputs = len(self.weight)
        if self.kind == "linear":
            positions = f" at {self.grid[1]} positions" if self.grid[1] > 1 else ""
            parts = [f"linear, {source[0]} -> {outputs}{positions}"]
        else:
            shapes = f"{text_of(source)} -> {text_of((outputs, *self.grid))}"
            parts = [f"convolution of {height}x{width}, {shapes}"]
        for name, pair, usual in (
            ("stride", self.stride, 1),
            ("padding", self.padding, 0),
            ("dilation", self.dilation, 1),
        ):
            if pair != (usual, usual):
                parts.append(f"{name} {pair[0]}x{pair[1]}")
        parts += [f"{self.groups} groups"] if self.groups > 1 else []
        parts += ["a value added"] if self.residual is not None else []
        parts += [self.activation.function] if self.activation is not None else []
        if self.pool is not None:
            kind, *size = self.pool
            function = "maximum" if kind == "max" else "average"
            parts.append(f"{function} of each {size[0]}x{size[1]} -> {text_of(self.box)}")
        return ", ".join(parts)


def text_of(box: Box) -> str:
    """Return a shape without dimensions of 1 at its end.

    >>> text_of((10, 1, 1)), text_of((1, 28, 28))
    ('10', '1x28x28')
    """
    height, width = box[1:]
    return str(box[0]) if height * width == 1 else f"{box[0]}x{height}x{width}"
