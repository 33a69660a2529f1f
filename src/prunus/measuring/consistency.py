"""Checks of a receipt's figures; a wrong one raises ReceiptError, which names it."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.errors import ReceiptError

# Quotients are recomputed from integers, so they may differ only by rounding.
_TOLERANCE = 1e-9


def require(condition: bool, message: str) -> None:
    """Raise ReceiptError unless the condition holds."""
    if not condition:
        raise ReceiptError(message)


def counts(facts: object, *names: str, least: int = 0, where: str = "") -> None:
    """Raise ReceiptError if a named field is below `least`; None is skipped. `where` is a prefix of the name."""
    for name in names:
        value = getattr(facts, name)
        require(value is None or value >= least, f"{where}{name} must be at least {least}, got {value}")


def at_most(name: str, value: int, limit_name: str, limit: int) -> None:
    """Raise ReceiptError if a count is above another."""
    require(value <= limit, f"{name} must be at most {limit_name}, got {value} of {limit}")


def between(name: str, value: float, low: float, high: float) -> None:
    """Raise ReceiptError if a number is outside [low, high]."""
    require(low <= value <= high, f"{name} must be in [{low}, {high}], got {value}")


def close(name: str, value: float, source: str, expected: float) -> None:
    """Raise ReceiptError if a number is not the expected one."""
    require(abs(value - expected) <= _TOLERANCE, f"{name} must be {source} = {expected}, got {value}")


def interval(name: str, value: float, ci95: tuple[float, float], least: float, most: float) -> None:
    """Raise ReceiptError if an interval is not within [least, most], or does not contain its value."""
    low, high = ci95
    between("ci95[0]", low, least, most)
    between("ci95[1]", high, least, most)
    inside = low - _TOLERANCE <= value <= high + _TOLERANCE
    require(inside, f"ci95 must hold {name} {value}, got [{low}, {high}]")


def unique(what: str, names: Sequence[str]) -> None:
    """Raise ReceiptError if a name appears twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{what} must have different names, got {', '.join(map(repr, twice))} twice")
