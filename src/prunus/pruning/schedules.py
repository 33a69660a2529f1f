"""Schedules: how the sparsity rises to its target during training."""

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

# The tolerance for rounding errors in a shape's results at 0 and 1.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Schedule:
    """How fast, and when, the sparsity rises.

    Attributes:
        shape: ``(progress, sparsity) -> fraction`` of the way, from 0 at progress 0 to 1 at progress 1.
        begin: the number of steps before the first weight is pruned.
        every: the number of steps between two updates of the masks; None: a hundredth of all steps, at least 1.

    Raises:
        TypeError, ValueError: the shape is not a function of two arguments, or a number of steps is out of range.
    """

    shape: Shape
    begin: int = 0
    every: int | None = None

    def __post_init__(self) -> None:
        options.function("schedule", self.shape, "(progress, sparsity) -> fraction")
        options.whole("begin", self.begin, least=0)
        if self.every is not None:
            options.whole("every", self.every, least=1)

    def fraction(self, progress: float, sparsity: float) -> float:
        """Return the fraction of the target sparsity that is reached at this progress.

        Raises:
            ValueError: the shape returned something else than a number from 0 to 1, or less than 1 at progress 1.

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
    """Return the schedule of a name or a function `(progress, sparsity) -> fraction`; errors as `options.resolve`."""
    return options.resolve(Schedule, SCHEDULES, chosen)


@SCHEDULES.register("one_shot")
def one_shot(progress: float, sparsity: float) -> float:
    """Remove all at the first step."""
    return 1.0 if progress > 0 else 0.0


@SCHEDULES.register("linear")
def linear(progress: float, sparsity: float) -> float:
    """Remove the same number of weights at every step."""
    return progress


@SCHEDULES.register("cubic")
def cubic(progress: float, sparsity: float) -> float:
    """Remove many weights early and few late: fraction = 1 - (1 - progress)^3.

    Source: Zhu and Gupta, "To prune, or not to prune", ICLR 2018 workshop, eq. 1 with initial sparsity 0.
    """
    return 1.0 - (1.0 - progress) ** 3


@SCHEDULES.register("geometric")
def geometric(progress: float, sparsity: float) -> float:
    """Remove the same share of the remaining weights at every step: 1 - s(t) = (1 - s)^progress.

    This is the schedule of iterative magnitude pruning (20% of the remaining weights, again and again), and the only
    schedule whose shape depends on the target.

    Source: Frankle and Carbin, "The lottery ticket hypothesis", ICLR 2019, section 1.

    >>> round(0.75 * geometric(0.5, 0.75), 6)
    0.5
    """
    if sparsity == 0:
        return progress
    # expm1 and log1p are exact at both ends, 0 at 0 and 1 at 1, also for tiny sparsities
    return math.expm1(progress * math.log1p(-sparsity)) / math.expm1(math.log1p(-sparsity))


# Schedules with options: ``Cubic(begin=1000, every=50)``.
Linear = functools.partial(Schedule, linear)
Cubic = functools.partial(Schedule, cubic)
Geometric = functools.partial(Schedule, geometric)
