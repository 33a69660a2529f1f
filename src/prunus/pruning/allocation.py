"""How many units each layer loses so that the sum of the layers' errors is least: dynamic programming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from prunus.pruning.scopes import Layer, apportion

# Costs are rounded up to so many steps of what may be left; exact where these are single units.
_STEPS = 2048
# So many numbers of units a layer may lose are tried, between those of which its error was measured.
_OPTIONS = 48


@dataclass(frozen=True)
class Curve:
    """What the outputs lose if a layer alone loses so many units.

    Attributes:
        counts: rising numbers of units.
        errors: the error of each, not falling.
    """

    counts: tuple[int, ...]
    errors: tuple[float, ...]

    def at(self, counts: NDArray[numpy.int64]) -> NDArray[numpy.float64]:
        """Return the errors of any counts: on straight lines between the measured ones."""
        return numpy.interp(counts, self.counts, self.errors)


@dataclass(frozen=True)
class Option:
    """The choices that a layer has.

    Attributes:
        counts: how many units it may lose, rising.
        errors: what the outputs lose then.
        left: what the units cost that stay.
    """

    counts: NDArray[numpy.int64]
    errors: NDArray[numpy.float64]
    left: NDArray[numpy.float64]


def options(curve: Curve, fewest: int, most: int, count: int, price: float) -> Option:
    """Return what a layer may lose: all numbers of units from the fewest to the most, or some of them."""
    even = numpy.linspace(fewest, most, min(_OPTIONS, most - fewest + 1))
    few = most - (most - fewest) * numpy.geomspace(0.5, 0.002, _OPTIONS)  # where little stays, steps are finer
    counts = numpy.unique(numpy.concatenate([even, few if most - fewest > _OPTIONS else even]).round().astype(int))
    return Option(counts, curve.at(counts), price * (count - counts))


def allocate(layers: Sequence[Option], capacity: float) -> list[int] | None:
    """Return how many units each layer loses, so that what stays costs at most `capacity` and the errors are least.

    Costs are rounded up to 2,048ths of the capacity; it is exact where they are whole numbers and it is below 2,048.

    Returns:
        The counts; None if even the most that all may lose leaves more.

    Source: dynamic programming over layers as in Frantar and Alistarh, "SPDY: accurate pruning with speedup
    guarantees", ICML 2022 (arXiv:2201.13096), section 3.
    """
    whole = all(bool((layer.left == layer.left.round()).all()) for layer in layers)
    step = 1.0 if whole and capacity <= _STEPS else capacity / _STEPS
    if step <= 0:
        return None if any(layer.left[-1] > 0 for layer in layers) else [int(layer.counts[-1]) for layer in layers]
    size = int(capacity / step + 1e-9)
    best = numpy.zeros(size + 1)
    chosen: list[NDArray[numpy.int64]] = []
    costs = [numpy.ceil(layer.left / step - 1e-9).astype(int) for layer in layers]
    for layer, cost in zip(layers, costs, strict=True):
        totals = numpy.full((len(cost), size + 1), numpy.inf)
        for row, spent, error in zip(totals, cost, layer.errors, strict=True):
            if spent <= size:
                row[spent:] = best[: size + 1 - spent] + error
        chosen.append(totals.argmin(0))
        best = totals.min(0)
    if not numpy.isfinite(best[-1]):
        return None
    counts: list[int] = []
    for layer, cost, own in zip(reversed(layers), reversed(costs), reversed(chosen), strict=True):
        at = int(own[size])
        counts.append(int(layer.counts[at]))
        size -= int(cost[at])
    return counts[::-1]


@dataclass(frozen=True)
class ByCurves:
    """A scope with the curves of the layers of one model.

    Attributes:
        curves: name -> what the outputs lose if this layer alone loses units.
        prices: name -> what a unit costs; 1 for a layer that is not in it.
    """

    curves: Mapping[str, Curve]
    prices: Mapping[str, float]

    def __call__(self, layers: Sequence[Layer], budget: int) -> tuple[int, ...]:
        """Return how many units each layer loses, `budget` in all, whatever they cost."""
        choices = [_option(self.curves[layer.name], layer, 1.0) for layer in layers]
        counts = allocate(choices, sum(layer.count for layer in layers) - budget)
        return apportion([layer.most for layer in layers] if counts is None else counts, budget, layers)

    def within(self, layers: Sequence[Layer], share: float) -> list[int]:
        """Return how many units each layer loses so that at most this share of what all units cost stays.

        If that can't be, all lose the most that they may.
        """
        choices = [_option(self.curves[layer.name], layer, self._price(layer)) for layer in layers]
        total = self.cost(layers, [layer.count for layer in layers])
        return allocate(choices, share * total) or [layer.most for layer in layers]

    def cost(self, layers: Sequence[Layer], counts: Sequence[int]) -> float:
        """Return what so many units of each layer cost."""
        return sum(self._price(layer) * count for layer, count in zip(layers, counts, strict=True))

    def _price(self, layer: Layer) -> float:
        return self.prices.get(layer.name, 1.0)


def _option(curve: Curve, layer: Layer, price: float) -> Option:
    return options(curve, layer.fewest, layer.most, layer.count, price)
