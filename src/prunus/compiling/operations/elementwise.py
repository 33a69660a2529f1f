"""Functions of each element, of one or two numbers, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.kernels.numbers import COMBINED, SCALARS, constants_of
from prunus.compiling.net import Box, Numbers, Operation, Pointwise, View, require

if TYPE_CHECKING:
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant

# A tape has so many slots for operands and results.
MOST_VALUES = 16


@dataclass(frozen=True)
class Step:
    """One function.

    Attributes:
        function: of one number, such as ``relu``, or of two, such as ``add``.
        operands: what it is applied to: a source by its number, or the result of an earlier step by the number of
            sources plus that step's.
        constants: further numbers that it takes.
    """

    function: str
    operands: tuple[int, ...]
    constants: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Elementwise(Operation):
    """Functions of each element, one after the other; the last one's result is the output.

    Attributes:
        sources: views, or constants, of the shape of the box.
        steps: at least one.
    """

    sources: tuple[View | Numbers, ...]
    steps: tuple[Step, ...]

    @property
    def views(self) -> list[View]:  # noqa: D102
        return [source for source in self.sources if isinstance(source, View)]

    @property
    def overwritable(self) -> list[View]:  # noqa: D102
        return self.views

    def check(self) -> None:  # noqa: D102
        name = f"{self.name!r:.40}"
        for source in self.sources:
            array = source.index if isinstance(source, View) else source
            require(isinstance(array, numpy.ndarray) and array.shape == self.box, f"{name}: shapes")
        require(self.steps and len(self.sources) + len(self.steps) <= MOST_VALUES, f"{name}: steps")
        for number, step in enumerate(self.steps):
            operands = 2 if step.function in COMBINED else 1
            require(
                step.function in COMBINED or step.function in SCALARS,
                f"{name} calls the unknown function {step.function!r:.40}",
            )
            require(len(step.constants) == constants_of(step.function), f"{name} gives too few constants")
            before = range(len(self.sources) + number)
            inside = all(type(operand) is int and operand in before for operand in step.operands)
            require(len(step.operands) == operands and inside, f"{name}: operands")

    def describe(self) -> str:  # noqa: D102
        return ", ".join(step.function for step in self.steps) + " of each element"

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        return [writer.tape(writer.output(self), list(self.sources), list(self.steps))]

    @property
    def pointwise(self) -> Pointwise | None:
        """The function, where it is one of a single view; else None."""
        if len(self.sources) == len(self.steps) == 1 and self.views:
            return Pointwise(self.steps[0].function, self.steps[0].constants)
        return None

    @property
    def combined(self) -> tuple[str, View, View | Numbers] | None:
        """The function and both operands, where it is one of two whose first is a view; else None."""
        plain = len(self.sources) == 2 and len(self.steps) == 1 and self.steps[0].operands == (0, 1)
        if plain and isinstance(self.sources[0], View):
            return self.steps[0].function, self.sources[0], self.sources[1]
        return None


def pointwise(name: str, output: int, source: View, function: Pointwise) -> Elementwise:
    """Return a function of each element of a view of the output's box."""
    step = Step(function.function, (0,), function.constants)
    return Elementwise(name, output, source.index.shape, (source,), (step,))


def combined(name: str, output: int, function: str, first: View, second: View | Numbers) -> Elementwise:
    """Return a function of two numbers of views, or of a view and constants, of the output's box."""
    return Elementwise(name, output, first.index.shape, (first, second), (Step(function, (0, 1)),))


def followed(first: Elementwise, then: Elementwise, view: View) -> Elementwise | None:
    """Return two operations as one, the second of which reads the first's result by a view of all of it in its order.

    None where a tape has too few slots.
    """
    others = [source for source in then.sources if source is not view]
    sources = [*(_reshaped(source, then.box) for source in first.sources), *others]
    if len(sources) + len(first.steps) + len(then.steps) > MOST_VALUES:
        return None
    count, result = len(first.sources), len(sources) + len(first.steps) - 1
    places = {**dict(enumerate(range(count))), **{count + i: len(sources) + i for i in range(len(first.steps))}}
    steps = [_renumbered(step, places) for step in first.steps]
    fresh = iter(range(count, len(sources)))
    places = {number: result if source is view else next(fresh) for number, source in enumerate(then.sources)}
    places |= {len(then.sources) + i: result + 1 + i for i in range(len(then.steps))}
    steps += [_renumbered(step, places) for step in then.steps]
    return Elementwise(first.name, then.output, then.box, tuple(sources), tuple(steps))


def _renumbered(step: Step, places: Mapping[int, int]) -> Step:
    return replace(step, operands=tuple(places[operand] for operand in step.operands))


def _reshaped(source: View | Numbers, box: Box) -> View | Numbers:
    return View(source.value, source.index.reshape(box)) if isinstance(source, View) else source.reshape(box)
