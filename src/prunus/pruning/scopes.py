"""Scopes: how the budget is spread over the layers. All return whole numbers that add up to the budget."""

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
    """A layer's unit scores, and the bounds on how many of its units are removed."""

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
        """The number of units that are pruned already, and stay pruned."""
        ...

    @property
    def most(self) -> int:
        """The largest number of units that may be pruned."""
        ...


@dataclass(frozen=True)
class Spread:
    """How many units each layer loses; `near` is the threshold of a global scope, a hint for `select.pick`."""

    remove: tuple[int, ...]
    near: select.Threshold | None = None


Spreading: TypeAlias = Callable[[Sequence[Layer], int], Spread | Sequence[int]]
SCOPES = Registry[Spreading]("scope")


@dataclass(frozen=True)
class Scope:
    """How the budget is spread over the layers, and how much each of them keeps.

    Attributes:
        spreading: ``(layers, budget) ->`` how many units each layer loses.
        min_kept: the least number of units that each layer keeps; 0 lets a layer be emptied (except for one channel).

    Raises:
        TypeError, ValueError: `spreading` is not a function of two arguments, or `min_kept` is not a whole number of at
            least 0.
    """

    spreading: Spreading
    min_kept: int = 1

    def __post_init__(self) -> None:
        options.function("scope", self.spreading, "(layers, budget) -> counts")
        options.whole("min_kept", self.min_kept, least=0)

    @property
    def name(self) -> str:
        """The name of the function, as in errors."""
        return str(getattr(self.spreading, "__name__", self.spreading)).rstrip("_")

    @property
    def needs_curves(self) -> bool:
        """Whether the layers' error curves are measured before it can spread, for which data is needed."""
        return self.spreading is least_error

    @property
    def has_curves(self) -> bool:
        """Whether it spreads by curves that were measured."""
        return hasattr(self.spreading, "curves")

    def spread(self, layers: Sequence[Layer], budget: int) -> Spread:
        """Spread the budget, and check the result of the function, which may be the user's own.

        Raises:
            ValueError: the counts are not one whole number per layer, within its bounds, that add up to the budget.
        """
        result = self.spreading(layers, budget)
        remove, near = (result.remove, result.near) if isinstance(result, Spread) else (result, None)
        counts = tuple(remove) if isinstance(remove, Iterable) else ()
        valid = (
            all(isinstance(count, Integral) and not isinstance(count, bool) for count in counts)
            and len(counts) == len(layers)
            and sum(counts) == budget
            and all(layer.fewest <= count <= layer.most for layer, count in zip(layers, counts, strict=True))
        )
        if not valid:
            bounds = ", ".join(f"{layer.name}: {layer.fewest} to {layer.most}" for layer in layers[:6])
            raise ValueError(
                f"scope {self.name!r} must return how many units each layer loses: {len(layers)} whole numbers, "
                f"{budget:,} in sum, each within its layer's bounds ({bounds}); it returned {remove!r}"
            )
        return Spread(tuple(int(count) for count in counts), near)


def resolve(chosen: str | Spreading | Scope) -> Scope:
    """Return the scope of a name or a function `(layers, budget) -> counts`; errors as `options.resolve`."""
    return options.resolve(Scope, SCOPES, chosen)


@SCOPES.register("global")
def global_(layers: Sequence[Layer], budget: int) -> Spread:
    """Remove the `budget` units with the lowest scores of all layers.

    A layer that would exceed a bound gets exactly that bound, and the rest is spread over the other layers.
    """
    fixed: dict[int, int] = {}
    while True:
        free = [index for index in range(len(layers)) if index not in fixed]
        left = budget - sum(fixed.values())
        smallest, near = select.count_smallest([layers[index] for index in free], left)
        counts = dict(zip(free, smallest, strict=True))
        exceeded = {
            index: min(max(count, layers[index].fewest), layers[index].most)
            for index, count in counts.items()
            if not layers[index].fewest <= count <= layers[index].most
        }
        if not exceeded:
            counts |= fixed
            return Spread(tuple(counts[index] for index in range(len(layers))), near)
        fixed |= exceeded


@SCOPES.register("uniform")
def uniform(layers: Sequence[Layer], budget: int) -> Spread:
    """Give every layer the same sparsity."""
    total = sum(layer.count for layer in layers)
    shares = [budget * layer.count / total for layer in layers]
    return Spread(apportion(shares, budget, layers))


@SCOPES.register("erk")
def erk(layers: Sequence[Layer], budget: int) -> Spread:
    """Give each layer a density proportional to (sum of its dimensions) / (product of its dimensions).

    A layer whose density would exceed 1 is kept whole, and the others share the rest of the budget.

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
    return Spread(apportion(shares, budget, layers))


@SCOPES.register("least_error")
def least_error(layers: Sequence[Layer], budget: int) -> Spread:
    """Spread the budget so that the predicted error of the outputs is least.

    The prediction is the sum of what each layer's output loses when it is pruned and refitted, times how much the
    model's outputs depend on it, both measured on `data`; see `curves.error_curves`. Dynamic programming finds how many
    units each layer loses.

    Source: the sum of layers' errors under a budget is that of Frantar and Alistarh, "SPDY: accurate pruning with
    speedup guarantees", ICML 2022 (arXiv:2201.13096), section 3.
    """
    raise ValueError("scope 'least_error' spreads by curves of a model's layers; prune and Pruner measure these")


def apportion(shares: Sequence[float], budget: int, layers: Sequence[Layer]) -> tuple[int, ...]:
    """Round shares to whole numbers within the layers' bounds that add up to the budget.

    Each share is rounded down; the missing units go to the largest remainders (Hamilton's method). If bounds stop
    that, the difference is spread over the layers within their bounds, in proportion to the room they have left.
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
LeastError = functools.partial(Scope, least_error)
