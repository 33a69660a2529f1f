"""Targets in the user's units: "200 kB", "1.2M parameters", "30% MACs", "2 ms"; a search meets them."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from prunus.files import content_hash
from prunus.graph import ExampleInputs
from prunus.pruning import patterns
from prunus.pruning.masks import Masks
from prunus.pruning.patterns import Pattern
from prunus.registry import Registry, unknown_name

# What a model costs once it is pruned: (model, masks, whether they are of whole channels, inputs) -> cost. A higher
# layer knows what a file takes, and enters its function here.
Cost: TypeAlias = Callable[[nn.Module, Masks, bool, ExampleInputs | None], float]


@dataclass(frozen=True)
class Unit:
    """How a unit's costs are told, and how nearly a target in it can be met.

    Attributes:
        cost: what a pruned model costs.
        near: a cost so near below a target, as a share of it, is near enough.
        finest: the search ends where so small a part of the sparsities is left.
        reserve: the share of a target that is left free, as the cost is not the same each time it is measured.
        shares: (model, inputs) -> what each parameter adds to the cost; None where all weights cost alike.
    """

    cost: Cost
    near: float = 0.01  # bytes can't be met exactly
    finest: float = 1e-5  # a weight of a hundred thousand
    reserve: float = 0.0
    shares: Callable[[nn.Module, ExampleInputs | None], Mapping[str, float]] | None = None


COSTS = Registry[Unit]("unit")
TIME = "us in "  # the unit of a time, before the name of the runtime
_ENTERED_BY = "prunus.measuring.costs"

_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MICROSECONDS = {"us": 1, "µs": 1, "ms": 10**3, "s": 10**6}
_OWN_RUNTIME = "prunus"
_FORM = re.compile(
    r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<factor>%|[kMG](?!(?i:acs))|)\s*(?P<unit>[A-Za-zµ]+)(?:\s+in\s+(?P<runtime>[\w-]+))?\s*"
)

# The least share of the range that a step takes off.
_STEP = 0.1


@dataclass(frozen=True)
class Limit:
    """What a pruned model may cost at most.

    Attributes:
        text: as it was given.
        unit: a name of `COSTS`.
        amount: a number of them; or a share of what the model costs now.
        is_share: which of the two.
    """

    text: str
    unit: str
    amount: float
    is_share: bool = False

    def absolute(self, whole: float) -> float:
        """Return the limit as a number, of a model that costs so much unpruned."""
        return self.amount * whole if self.is_share else self.amount


def parse(text: str) -> Limit:
    """Read a target.

    Raises:
        TypeError: it is a number that is no target, as text.
        ValueError: it is no target; the message shows some; or the runtime of a time is unknown.

    >>> parse("200 kB"), parse("30% MACs").amount, parse("1.2M parameters").amount
    (Limit(text='200 kB', unit='bytes', amount=200000.0, is_share=False), 0.3, 1200000.0)
    """
    with contextlib.suppress(ValueError):
        float(text)
        raise TypeError(f"sparsity must be a number in [0, 1), got {text!r}")
    match = _FORM.fullmatch(text)
    if match is None:
        raise _unreadable(text)
    number, factor, unit = float(match["number"]), match["factor"], match["unit"]
    if factor + unit in _MICROSECONDS:
        return _positive(Limit(text, _unit_of_time(match["runtime"]), number * _MICROSECONDS[factor + unit]))
    if match["runtime"]:
        raise _unreadable(text)
    if factor != "%" and factor + unit in _BYTES:
        return _positive(Limit(text, "bytes", number * _BYTES[factor + unit]))
    names = {"bytes": "bytes", "parameters": "parameters", "macs": "MACs"}
    if unit.lower() not in names:
        raise _unreadable(text)
    if factor == "%":
        if number >= 100:
            raise ValueError(f"sparsity {text!r} leaves all; give a share below 100%")
        return _positive(Limit(text, names[unit.lower()], number / 100, is_share=True))
    return _positive(Limit(text, names[unit.lower()], number * _FACTORS[factor]))


def _unit_of_time(runtime: str | None) -> str:
    importlib.import_module(_ENTERED_BY)
    unit = TIME + (runtime or _OWN_RUNTIME)
    if unit not in COSTS:
        raise unknown_name("runtime", runtime, [name.removeprefix(TIME) for name in COSTS if name.startswith(TIME)])
    return unit


def _positive(limit: Limit) -> Limit:
    if limit.amount <= 0:
        raise _unreadable(limit.text)
    return limit


def _unreadable(text: str) -> ValueError:
    return ValueError(
        f"{text!r} is neither a number in [0, 1) nor a target, which says what may be left: '200 kB' (1,000 "
        "bytes each; of the file that prunus.save writes), '128 KiB', '1.2M parameters', '30% MACs', '2 ms' or '300 us "
        "in openvino-int8' (a call with the example's batch, on one thread)"
    )


def written(amount: float, unit: str) -> str:
    """Return a target in a unit of `COSTS` as text.

    >>> written(2000, "bytes"), written(3.75, "us in prunus")
    ('2000 B', '3.75 us in prunus')
    """
    number = f"{amount:.3f}".rstrip("0").rstrip(".") if unit.startswith(TIME) else f"{amount:.0f}"
    return f"{number} {'B' if unit == 'bytes' else unit}"


def absolute(text: str, model: nn.Module, whole_channels: bool, example_inputs: ExampleInputs | None) -> str:
    """Return a target that is a share of what the model costs now as a number; another one as it is."""
    limit = parse(text)
    if not limit.is_share:
        return text
    importlib.import_module(_ENTERED_BY)
    return written(limit.absolute(COSTS[limit.unit].cost(model, Masks({}), whole_channels, example_inputs)), limit.unit)


def shares(text: str, model: nn.Module, example_inputs: ExampleInputs | None) -> Mapping[str, float] | None:
    """Return what each parameter adds to the cost in a target's unit; None where all weights cost alike."""
    importlib.import_module(_ENTERED_BY)
    unit = COSTS[parse(text).unit]
    return None if unit.shares is None else unit.shares(model, example_inputs)


def counts_macs(text: str) -> bool:
    """Tell whether a target counts multiply-adds, or times, which are about in proportion to them."""
    unit = parse(text).unit
    return unit == "MACs" or unit.startswith(TIME)


def needs_inputs(text: str) -> bool:
    """Tell whether a target is counted in a run of the model."""
    return parse(text).unit != "parameters"


def start(pattern: str | Pattern, text: str) -> float:
    """Return a sparsity that a method can be looked up with, where a target tells none.

    Raises:
        ValueError: the pattern removes one share of the weights only.
    """
    resolved = patterns.resolve(pattern)
    if resolved.only_sparsity is None:
        return 0.5
    raise ValueError(
        f"pattern {resolved.name} removes {resolved.only_sparsity:.4g} of the weights and no other share, so it can't "
        f"meet {text!r}; choose another pattern, or leave layers out"
    )


class WithinError(ValueError):
    """A model that is within a target already."""


@dataclass(frozen=True)
class Range:
    """The sparsities that a method can reach: the lowest that removes something more, and the highest."""

    least: float
    most: float


def meet(
    limit: Limit,
    model: nn.Module,
    find: Callable[[float], Masks],
    reachable: Range,
    *,
    whole_channels: bool,
    example_inputs: ExampleInputs | None,
) -> Masks:
    """Return the masks of the least sparsity whose cost is not above a target; the model is not changed.

    Args:
        limit: the target.
        model: the model.
        find: the masks of a sparsity.
        reachable: the sparsities that `find` takes.
        whole_channels: whether masks remove whole channels, which are cut out before costs are told.
        example_inputs: of the model.

    Raises:
        WithinError: the model is within the target already.
        ValueError: the highest sparsity does not reach it.
    """
    importlib.import_module(_ENTERED_BY)
    unit = COSTS[limit.unit]
    paid: dict[str, float] = {}  # several sparsities of a coarse model have the same masks

    def costs(masks: Masks) -> float:
        key = content_hash(masks)
        if key not in paid:
            paid[key] = unit.cost(model, masks, whole_channels, example_inputs)
        return paid[key]

    dense = costs(Masks({}))
    most_left = (1 - unit.reserve) * limit.absolute(dense)
    if dense <= most_left:
        raise WithinError(
            f"the model has {dense:,} {limit.unit} unpruned, which is within {limit.text!r} already; give a lower one"
        )
    left = costs(find(reachable.most))
    if left > most_left:
        raise ValueError(
            f"{limit.text!r} can't be reached: with sparsity {reachable.most:.4g}, the highest that this pattern and "
            f"scope allow, {left:,} {limit.unit} are left of {dense:,}; give a higher target, or a scope with a "
            f"smaller min_kept{_hint(limit, whole_channels)}"
        )
    return _search(most_left, unit, _Tried(0.0, dense), _Tried(reachable.most, left), reachable.least, find, costs)


def _hint(limit: Limit, whole_channels: bool) -> str:
    if whole_channels or not limit.unit.startswith(TIME) or limit.unit == TIME + _OWN_RUNTIME:
        return ""
    return "; only prunus' own programs skip single zeros, other runtimes need pattern='channel'"


@dataclass(frozen=True)
class _Tried:
    """A sparsity, and what is left with it."""

    sparsity: float
    cost: float


def _search(
    most_left: float,
    unit: Unit,
    low: _Tried,
    high: _Tried,
    least: float,
    find: Callable[[float], Masks],
    costs: Callable[[Masks], float],
) -> Masks:
    """Return the masks of the least sparsity between two, of which the lower one costs too much and the other does not.

    Interpolated, as costs are mostly smooth; each step narrows by a tenth at least, as they may jump. The search ends
    where the cost is near below the target, or the two are next to each other.
    """
    best = find(high.sparsity)
    while high.cost < (1 - unit.near) * most_left and high.sparsity - low.sparsity > unit.finest:
        share = (low.cost - (1 - unit.near / 2) * most_left) / (low.cost - high.cost)
        at = low.sparsity + (high.sparsity - low.sparsity) * min(1 - _STEP, max(_STEP, share))
        if at < least:
            low = _Tried(at, low.cost)
            continue
        masks = find(at)
        left = costs(masks)
        if left <= most_left:
            best, high = masks, _Tried(at, left)
        else:
            low = _Tried(at, left)
    return best
