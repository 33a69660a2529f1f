"""Schedules: how fast the target sparsity is approached."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

from prunus.pruning import options
from prunus.registry import Registry

Shape: TypeAlias = Callable[[float, float], float]
SCHEDULES = Registry[Shape]("schedule")

# How far from 0 and 1 a shape's floating-point arithmetic may end up.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Schedule:
    """How fast, and when, the sparsity is approached.

    Attributes:
        shape: ``(progress, sparsity) -> fraction`` of the way, from 0 at progress 0 to 1 at progress 1.
        begin: how many steps pass before the first weight goes.
        every: masks are found anew each so many steps; None: a hundredth of the steps, at least 1.

    Raises:
        TypeError, ValueError: the shape is no function, or a number of steps is none.
    """

    shape: Shape
    begin: int = 0
    every: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.shape):
            raise TypeError(
                f"schedule must be a name or a function (progress, sparsity) -> fraction, got {self.shape!r}"
            )
        options.whole("begin", self.begin, least=0)
        if self.every is not None:
            options.whole("every", self.every, least=1)

    def fraction(self, progress: float, sparsity: float) -> float:
        """Return how much of the way to the sparsity has gone.

        Raises:
            ValueError: the shape, which may be the user's own, gives no number from 0 to 1, or does not arrive at 1.

        >>> Schedule(lambda progress, sparsity: progress**2).fraction(0.5, 0.9)
        0.25
        """
        value = self.shape(progress, sparsity)
        in_range = isinstance(value, Real) and -_ROUNDING <= value <= 1 + _ROUNDING
        if in_range and (progress < 1 or value >= 1 - _ROUNDING):
            return min(max(float(value), 0.0), 1.0)
        raise ValueError(
            f"schedule {getattr(self.shape, '__name__', self.shape)!r} must return the fraction of the way to the "
            f"sparsity, from 0 at progress 0 to 1 at progress 1, but at progress {progress:g} it returned {value!r}"
        )


def resolve(chosen: str | Shape | Schedule) -> Schedule:
    """Return the schedule of that name; a function `(progress, sparsity) -> fraction` is taken as it is.

    Raises:
        ValueError: the name is unknown, or an option is out of range.
        TypeError: it is neither a name nor callable.
    """
    if isinstance(chosen, Schedule):
        return chosen
    if isinstance(chosen, str):
        name, given = options.split(chosen)
        return options.make("schedule", name, functools.partial(Schedule, SCHEDULES[name]), given)
    return Schedule(chosen)


@SCHEDULES.register("one_shot")
def one_shot(progress: float, sparsity: float) -> float:
    """Go the whole way at the first step."""
    return 1.0 if progress > 0 else 0.0


@SCHEDULES.register("linear")
def linear(progress: float, sparsity: float) -> float:
    """Remove the same number of weights at every step."""
    return progress


@SCHEDULES.register("cubic")
def cubic(progress: float, sparsity: float) -> float:
    """Remove many weights early, while there are many to spare: fraction = 1 - (1 - progress)^3.

    Source: Zhu and Gupta, "To prune, or not to prune", ICLR 2018 workshop, eq. 1 with initial sparsity 0.
    """
    return 1.0 - (1.0 - progress) ** 3


@SCHEDULES.register("geometric")
def geometric(progress: float, sparsity: float) -> float:
    """Remove the same share of the remaining weights at every step: 1 - s(t) = (1 - s)^progress.

    This is the schedule of iterative magnitude pruning (20% of what is left, again and again); it is the one
    schedule whose shape depends on the target.

    Source: Frankle and Carbin, "The lottery ticket hypothesis", ICLR 2019, section 1.

    >>> round(0.75 * geometric(0.5, 0.75), 6)
    0.5
    """
    if sparsity == 0:
        return progress
    # expm1 and log1p keep the ends exact: 0 at 0 and 1 at 1, also for tiny sparsities
    return math.expm1(progress * math.log1p(-sparsity)) / math.expm1(math.log1p(-sparsity))


# Schedules with options: ``Cubic(begin=1000, every=50)``.
Linear = functools.partial(Schedule, linear)
Cubic = functools.partial(Schedule, cubic)
Geometric = functools.partial(Schedule, geometric)
