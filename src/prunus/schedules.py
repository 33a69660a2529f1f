"""Schedules: how fast the target sparsity is approached."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from prunus.registry import Registry

Schedule: TypeAlias = Callable[[float, float], float]
SCHEDULES = Registry[Schedule]("schedule")


def resolve(chosen: str | Schedule) -> Schedule:
    """Return the schedule of that name; a function `(progress, sparsity) -> fraction` is taken as it is."""
    if isinstance(chosen, str):
        return SCHEDULES[chosen]
    if not callable(chosen):
        raise TypeError(f"schedule must be a name or a function (progress, sparsity) -> fraction, got {chosen!r}")
    return chosen


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
