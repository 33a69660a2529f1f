"""A pruning method: criterion, pattern, scope and schedule, looked up by name and checked together."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from prunus.pruning import criteria, patterns, schedules, scopes
from prunus.pruning.criteria import Criterion
from prunus.pruning.patterns import Pattern
from prunus.pruning.schedules import Schedule, Shape
from prunus.pruning.scopes import Scope, Spreading

# The tolerance for a sparsity that a pattern fixes: 0.6667 is accepted for 2/3.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Method:
    """How much is removed, and how.

    Attributes:
        sparsity: the final fraction of the units that is removed.
        criterion, pattern, scope, schedule: one entry of each axis.
    """

    sparsity: float
    criterion: Criterion
    pattern: Pattern
    scope: Scope
    schedule: Schedule


def check_sparsity(value: object) -> float:
    """Return a sparsity as a float, after checking it.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not in [0, 1).

    >>> check_sparsity(20)
    Traceback (most recent call last):
    ...
    ValueError: sparsity must be in [0, 1), got 20; did you mean 0.2?
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"sparsity must be a number in [0, 1), got {value!r}")
    sparsity = float(value)
    if not 0 <= sparsity < 1:
        hint = f"; did you mean {sparsity / 100:g}?" if 1 < sparsity < 100 else ""
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity:g}{hint}")
    return sparsity


def check_method(
    sparsity: float,
    criterion: str | criteria.Score | Criterion = "magnitude",
    pattern: str | Pattern = "unstructured",
    scope: str | Spreading | Scope = "global",
    schedule: str | Shape | Schedule = "one_shot",
) -> Method:
    """Look up the names and check that the combination can reach the sparsity.

    Raises:
        ValueError: a name is unknown, or the combination makes no sense.
        TypeError: an argument is neither a name nor an entry of its axis.

    >>> check_method(0.5, pattern="2:4").pattern
    NofM(n=2, m=4)
    """
    sparsity = check_sparsity(sparsity)
    resolved = patterns.resolve(pattern)
    spread = scopes.resolve(scope)
    only = resolved.only_sparsity
    if only is not None and abs(sparsity - only) > _ROUNDING:
        raise ValueError(
            f"pattern {resolved.name} removes exactly {only:.4g} of the weights, got sparsity {sparsity:g}; "
            f"write sparsity {only:.4g}, or choose another pattern"
        )
    if only is not None and spread.spreading in (scopes.erk, scopes.least_error):
        raise ValueError(
            f"pattern {resolved.name} gives every layer the same sparsity, so scope {spread.name!r} has nothing to "
            "spread; use scope 'uniform'"
        )
    if isinstance(resolved, patterns.Channels) and spread.needs_curves:
        raise ValueError(
            "scope 'least_error' predicts what single weights and blocks cost the outputs, not whole channels; use "
            "scope 'global' or 'uniform'"
        )
    return Method(
        sparsity if only is None else only,
        criteria.resolve(criterion),
        resolved,
        spread,
        schedules.resolve(schedule),
    )
