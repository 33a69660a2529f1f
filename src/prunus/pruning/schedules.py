"""Schedules: how fast the target sparsity is approached."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import TypeAlias

from prunus.registry import Registry

Schedule: TypeAlias = Callable[[float, float], float]
SCHEDULES = Registry[Schedule]("schedule")

# How far from 0 and 1 a schedule's floating-point arithmetic may end up.
_ROUNDING = 1e-6


def resolve(chosen: str | Schedule) -> Schedule:
    """Return the schedule of that name; a function `(progress, sparsity) -> fraction` is taken as it is.

    Raises:
        ValueError: the name is unknown.
        TypeError: it is neither a name nor callable.
    """
    if isinstance(chosen, str):
        return SCHEDULES[chosen]
    if not callable(chosen):
        raise TypeError(f"schedule must be a name or a function (progress, sparsity) -> fraction, got {chosen!r}")
    return chosen


def fraction(schedule: Schedule, progress: float, sparsity: float) -> float:
    """Return how much of the way to the sparsity a schedule, which may be the user's own, has gone.

    Raises:
        ValueError: the schedule returns no number from 0 to 1, or does not arrive at 1.

    >>> fraction(lambda progress, sparsity: progress**2, 0.5, 0.9)
    0.25
    """
    found = schedule(progress, sparsity)
    if isinstance(found, Real) and -_ROUNDING <= found <= 1 + _ROUNDING and (progress < 1 or found >= 1 - _ROUNDING):
        return min(max(float(found), 0.0), 1.0)
    name = getattr(schedule, "__name__", schedule)
    raise ValueError(
        f"schedule {name!r} must return the fraction of the way to the sparsity, from 0 at progress 0 to 1 at "
        f"progress 1, but at progress {progress:g} it returned {found!r}"
    )


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
