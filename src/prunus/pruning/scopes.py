"""Scopes: how the budget is spread over the layers. All return integer counts whose total is exact."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Protocol, TypeAlias

from torch import Size

from prunus.pruning import options, select
from prunus.registry import Registry


class Layer(select.Scores, Protocol):
    """A layer's unit scores, and the bounds that any spread has to respect."""

    @property
    def name(self) -> str:
        """The parameter's name."""
        ...

    @property
    def shape(self) -> Size:
        """The parameter's shape."""
        ...

    @property
    def fewest(self) -> int:
        """How many units are gone already, and stay so."""
        ...

    @property
    def most(self) -> int:
        """How many units may go at the most."""
        ...


@dataclass(frozen=True)
class Spread:
    """How many units each layer loses; `near` is where a global threshold was found, a hint for the pick."""

    remove: tuple[int, ...]
    near: select.Threshold | None = None


Spreading: TypeAlias = Callable[[Sequence[Layer], int], Spread | Sequence[int]]
SCOPES = Registry[Spreading]("scope")


@dataclass(frozen=True)
class Scope:
    """How the budget is spread over the layers, and what each of them keeps.

    Attributes:
        spreading: ``(layers, budget) ->`` how many units each layer loses.
        min_kept: how many units each layer keeps at least; 0 allows a layer to be emptied (but of its last channel).

    Raises:
        TypeError, ValueError: the first is no function, or the second no such number.
    """

    spreading: Spreading
    min_kept: int = 1

    def __post_init__(self) -> None:
        if not callable(self.spreading):
            raise TypeError(f"scope must be a name or a function (layers, budget) -> counts, got {self.spreading!r}")
        options.whole("min_kept", self.min_kept, least=0)

    def spread(self, layers: Sequence[Layer], budget: int) -> Spread:
        """Spread the budget, and hold the function, which may be the user's own, to its contract.

        Raises:
            ValueError: the counts are not whole numbers, one a layer, within the layers' bounds, of the right sum.
        """
        result = self.spreading(layers, budget)
        given, near = (result.remove, result.near) if isinstance(result, Spread) else (result, None)
        listed = tuple(given) if isinstance(given, Iterable) else ()
        whole = all(isinstance(count, Integral) and not isinstance(count, bool) for count in listed)
        right = (
            whole
            and len(listed) == len(layers)
            and sum(listed) == budget
            and all(layer.fewest <= count <= layer.most for layer, count in zip(layers, listed, strict=True))
        )
        if not right:
            bounds = ", ".join(f"{layer.name}: {layer.fewest} to {layer.most}" for layer in layers[:6])
            name = getattr(self.spreading, "__name__", self.spreading)
            raise ValueError(
                f"scope {name!r} must return how many units each layer loses: {len(layers)} whole numbers, {budget:,} "
                f"in sum, each within its layer's bounds ({bounds}); it returned {given!r}"
            )
        return Spread(tuple(int(count) for count in listed), near)


def resolve(chosen: str | Spreading | Scope) -> Scope:
    """Return the scope of that name; a function `(layers, budget) -> units each layer loses` is taken as it is.

    Raises:
        ValueError: the name is unknown, or an option is out of range.
        TypeError: it is neither a name nor callable.
    """
    if isinstance(chosen, Scope):
        return chosen
    if isinstance(chosen, str):
        name, given = options.split(chosen)
        return options.make("scope", name, functools.partial(Scope, SCOPES[name]), given)
    return Scope(chosen)


@SCOPES.register("global")
def global_(layers: Sequence[Layer], budget: int) -> Spread:
    """Remove the `budget` lowest-scored units, wherever they are.

    A layer that this would take beyond its bounds is held at the bound, and the others pay for it.
    """
    held: dict[int, int] = {}
    while True:
        free = [index for index in range(len(layers)) if index not in held]
        left = budget - sum(held.values())
        counts, near = select.count_smallest([layers[index] for index in free], left)
        found = dict(zip(free, counts, strict=True))
        beyond = {
            index: min(max(count, layers[index].fewest), layers[index].most)
            for index, count in found.items()
            if not layers[index].fewest <= count <= layers[index].most
        }
        if not beyond:
            remove = tuple(held.get(index, found.get(index, 0)) for index in range(len(layers)))
            return Spread(remove, near)
        held |= beyond


@SCOPES.register("uniform")
def uniform(layers: Sequence[Layer], budget: int) -> Spread:
    """Give every layer the same sparsity."""
    total = sum(layer.count for layer in layers)
    shares = [budget * layer.count / total for layer in layers]
    return Spread(_apportion(shares, budget, layers))


@SCOPES.register("erk")
def erk(layers: Sequence[Layer], budget: int) -> Spread:
    """Give each layer a density proportional to (sum of its dimensions) / (product of its dimensions).

    A layer that would be more than dense is kept whole and the others share what is left of the budget.

    Source: Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020, section 3 (Erdos-Renyi-Kernel).
    """
    raw = [sum(layer.shape) / math.prod(layer.shape) for layer in layers]
    keep = sum(layer.count for layer in layers) - budget
    dense: set[int] = set()
    while True:
        left = keep - sum(layers[index].count for index in dense)
        weight = sum(raw[index] * layers[index].count for index in range(len(layers)) if index not in dense)
        scale = left / weight if weight else 0.0
        over = {index for index in range(len(layers)) if index not in dense and scale * raw[index] > 1}
        if not over:
            break
        dense |= over
    kept = [layer.count * (1.0 if index in dense else scale * raw[index]) for index, layer in enumerate(layers)]
    shares = [layer.count - share for layer, share in zip(layers, kept, strict=True)]
    return Spread(_apportion(shares, budget, layers))


def _apportion(shares: Sequence[float], budget: int, layers: Sequence[Layer]) -> tuple[int, ...]:
    """Round shares to integers within each layer's bounds whose sum is exactly the budget.

    Each share is rounded down; what is missing goes to the largest remainders (Hamilton's method). Where
    bounds bite, the difference is spread over the layers that have room, in proportion to it.
    """
    counts = [
        min(max(math.floor(share), layer.fewest), layer.most) for share, layer in zip(shares, layers, strict=True)
    ]
    while missing := budget - sum(counts):
        step = 1 if missing > 0 else -1
        room = [
            layer.most - count if step > 0 else count - layer.fewest
            for count, layer in zip(counts, layers, strict=True)
        ]
        assert sum(room) >= abs(missing), "the engine checks the budget against the bounds"
        by_need = sorted(
            (index for index in range(len(counts)) if room[index]),
            key=lambda index: (-step * (shares[index] - counts[index]), index),
        )
        if abs(missing) <= len(by_need):
            for index in by_need[: abs(missing)]:
                counts[index] += step
        else:
            for index in by_need:
                counts[index] += step * (abs(missing) * room[index] // sum(room))
            if budget - sum(counts) == missing:  # every part was less than one
                counts[by_need[0]] += step
    return tuple(counts)


# Scopes with options: ``Global(min_kept=16)``.
Global = functools.partial(Scope, global_)
Uniform = functools.partial(Scope, uniform)
Erk = functools.partial(Scope, erk)
