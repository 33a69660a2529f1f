"""What the figures of a receipt must satisfy; one that does not is a ReceiptError, which names it."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.errors import ReceiptError

# Quotients are recomputed from integers, so only the last bits may differ between two ways of writing them.
_TOLERANCE = 1e-9


def require(condition: bool, message: str) -> None:
    """Raise ReceiptError unless the condition holds."""
    if not condition:
        raise ReceiptError(message)


def counts(facts: object, *names: str, least: int = 0, where: str = "") -> None:
    """Refuse named fields below `least`; None is no count, and `where` is put before the name."""
    for name in names:
        value = getattr(facts, name)
        require(value is None or value >= least, f"{where}{name} must be at least {least}, got {value}")


def at_most(name: str, value: int, limit_name: str, limit: int) -> None:
    """Refuse a count above another."""
    require(value <= limit, f"{name} must be at most {limit_name}, got {value} of {limit}")


def between(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high]."""
    require(low <= value <= high, f"{name} must be in [{low}, {high}], got {value}")


def close(name: str, value: float, source: str, expected: float) -> None:
    """Refuse a number that is not what it follows from."""
    require(abs(value - expected) <= _TOLERANCE, f"{name} must be {source} = {expected}, got {value}")


def interval(name: str, value: float, ci95: tuple[float, float], least: float, most: float) -> None:
    """Refuse an interval that leaves [least, most], or does not hold its value."""
    low, high = ci95
    between("ci95[0]", low, least, most)
    between("ci95[1]", high, least, most)
    inside = low - _TOLERANCE <= value <= high + _TOLERANCE
    require(inside, f"ci95 must hold {name} {value}, got [{low}, {high}]")


def unique(what: str, names: Sequence[str]) -> None:
    """Refuse names that come twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{what} must have different names, got {', '.join(map(repr, twice))} twice")
