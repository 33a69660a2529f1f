"""Search for the smallest or fastest model that keeps a floor, or the most accurate one within a target."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

from prunus.errors import SearchError
from prunus.graph import ExampleInputs
from prunus.graph.exported import ExportedModule
from prunus.measuring.latency import RUNTIMES
from prunus.pruning import budgets, patterns
from prunus.pruning.budgets import Limit
from prunus.pruning.masks import Masks
from prunus.pruning.patterns import Channels, Pattern
from prunus.pruning.scopes import resolve as resolve_scope
from prunus.pruning.stats import Batch
from prunus.pruning.targets import Selector
from prunus.quantizing import Scales
from prunus.registry import unknown_name
from prunus.searching.candidates import Candidate, Progress, Settings, Trial, Workshop, example_of
from prunus.supported import unwrap
from prunus.tables import Table

__all__ = ["Found", "SearchError", "Trial", "search"]

Evaluate: TypeAlias = Callable[[nn.Module], float]

# The spreads that are tried, in this order; on other networks another one is best.
SCOPES = ("least_error", "global", "erk")
SCOPES_OF_CHANNELS = ("global", "uniform")
# With a floor: the share of the weights that stays is at least this, and is found to within a twentieth of itself.
_LEAST_KEPT, _NEAR = 1 / 256, 1.05
# A cost so near below a target is near enough; so often a candidate is made anew to come so near.
_WITHIN, _TRIES = 0.95, 4


@dataclass(frozen=True, eq=False)
class Found:
    """The model that a search found.

    Attributes:
        model: pruned and refitted; smaller where whole channels went.
        masks: what was pruned, of the model that was given.
        scales: for 8 bits, of `model`; None unless they were asked for.
        score: of `model`, in 8 bits if these were asked for.
        dense_score: of the model that was given.
        unit: what costs are told in, such as ``"bytes"`` or ``"us in openvino-int8"``.
        cost: of `model`.
        dense_cost: of the model that was given, not in 8 bits; bytes are those of ONNX where those of `model` are.
        trials: all that was tried.
        failures: scope and sparsity or target -> why no model could be made.
    """

    model: nn.Module
    masks: Masks
    scales: Scales | None
    score: float
    dense_score: float
    unit: str
    cost: float
    dense_cost: float
    trials: tuple[Trial, ...]
    failures: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [("dense", "", f"{self.dense_score:.4g}", f"{self.dense_cost:,}")]
        rows += [(trial.scope, trial.asked, f"{trial.score:.4g}", f"{trial.cost:,}") for trial in self.trials]
        caption = f"found: score {self.score:.4g} at {self.cost:,} {self.unit}, {len(self.trials)} models tried."
        caption += "".join(f" Not possible: {asked} ({why})." for asked, why in self.failures.items())
        return str(Table(("scope", "asked for", "score", self.unit), tuple(rows), caption, words=(1,)))


def search(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    evaluate: Evaluate,
    target: str | None = None,
    floor: float | None = None,
    minimise: str = "bytes",
    pattern: str | Pattern = "unstructured",
    scopes: Sequence[str] | None = None,
    include: Sequence[Selector] = (),
    exclude: Sequence[Selector] = (),
    quantized: bool = False,
    minutes: float = 0.0,
    train: Callable[[nn.Module, Masks], None] | None = None,
    example_inputs: ExampleInputs | None = None,
    folder: Path | str | None = None,
    progress: Progress | None = None,
) -> Found:
    """Return the most accurate model within a target, or the smallest or fastest one that keeps a floor.

    Each model that is tried is pruned, refitted by `recover`, made smaller by `shrink` if whole channels went, brought
    to 8 bits by `quantize` if these are asked for, and then given to `evaluate`. With a target each scope makes one
    model; with a floor each scope prunes ever more, by halving, as long as the score stays at or above it.

    Args:
        model: the trained model; it is not changed.
        batches: a few hundred samples without labels, as `recover` takes them.
        evaluate: model -> a score that is better the higher it is, such as the accuracy on validation data. These must
            be other samples than `batches`, which the weights are fitted to; and no test data, as the search chooses
            by them.
        target: what the model may cost at most, as `prune` takes it: ``"200 kB"``, ``"2 ms in openvino-int8"``,
            ``"30% MACs"``, ``"1.2M parameters"``. With `quantized`, bytes are those of the ONNX file.
        floor: the least score.
        minimise: with a floor, what shall be least: ``"bytes"``, ``"parameters"``, ``"MACs"``, or ``"us"``, which is
            that of a program of prunus, or ``"us in openvino-int8"``.
        pattern: as `prune`.
        scopes: the spreads over the layers that are tried; by default ``"least_error"``, ``"global"`` and ``"erk"``,
            for whole channels ``"global"`` and ``"uniform"``.
        include: as `prune`; by default all weights, for a model from a packed file.
        exclude: as `prune`.
        quantized: whether the model computes in 8 bits.
        minutes: how long each model is distilled after it was refitted, as `recover`.
        train: ``(model, masks) ->`` trains a refitted model further, in place, such as on labels; what the masks prune
            is set to zero again afterwards.
        example_inputs: inputs of the batch that time is measured with; one sample by default.
        folder: where each model that was tried is kept, so that a search that was interrupted goes on. Folders are of
            one `evaluate` and one `train`: what these do can't be seen.
        progress: called with what is being done and the share of it that is done.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: not just one of target and floor is given, or another argument is out of range.
        SearchError: there is no such model; the message tells the nearest that was tried.
    """
    limit = _limit(target, floor, minimise)
    resolved = patterns.resolve(pattern)
    if scopes is None:
        scopes = SCOPES_OF_CHANNELS if isinstance(resolved, Channels) else SCOPES
    _check(evaluate, scopes, batches, limit, quantized=quantized)
    samples = list(batches)
    settings = Settings(
        unit=limit.unit,
        pattern=resolved,
        include=tuple(include) or _by_default(model, resolved),
        exclude=tuple(exclude),
        quantized=quantized,
        minutes=minutes,
        example_inputs=example_of(model, samples) if example_inputs is None else example_inputs,
    )
    workshop = Workshop(unwrap(model), samples, settings, _checked(evaluate), train, folder, progress)
    best = _within(workshop, limit, scopes) if floor is None else _above(workshop, floor, scopes)
    if best is None:
        raise _none_found(workshop, limit, floor)
    return Found(
        model=best.model,
        masks=best.masks,
        scales=best.scales,
        score=best.trial.score,
        dense_score=workshop.dense_score,
        unit=limit.unit,
        cost=best.trial.cost,
        dense_cost=workshop.dense_cost,
        trials=tuple(workshop.trials),
        failures=workshop.failures,
    )


def _by_default(model: nn.Module, pattern: Pattern) -> tuple[Selector, ...]:
    """Return what is pruned where nothing is named: the modules of a packed file don't tell what they compute."""
    return (nn.Module,) if isinstance(unwrap(model), ExportedModule) and not isinstance(pattern, Channels) else ()


def _limit(target: str | None, floor: float | None, minimise: str) -> Limit:
    """Return the target; with a floor, one of nothing in the unit that shall be least."""
    if (target is None) == (floor is None):
        raise ValueError("give either a target, such as target='200 kB', or a floor, such as floor=0.99")
    if target is not None:
        if not isinstance(target, str):
            raise TypeError(f"target must be text with a unit, such as '200 kB' or '2 ms', got {target!r}")
        if re.fullmatch(r"[\d.\s]+%?", target):
            raise ValueError(
                f"target says what may be left, with a unit, such as '200 kB' or '30% MACs', got {target!r}"
            )
        return budgets.parse(target)
    if isinstance(floor, bool) or not isinstance(floor, Real) or not math.isfinite(floor):
        raise TypeError(f"floor must be a number, the least score, got {floor!r}")
    units = {"bytes": "1 B", "parameters": "1 parameters", "MACs": "1 MACs", "us": "1 us"}
    if minimise not in units and not str(minimise).startswith(budgets.TIME):
        raise unknown_name("unit to minimise", minimise, [*units, "us in openvino-int8"])
    return budgets.parse(units.get(minimise, f"1 {minimise}"))


def _check(evaluate: object, scopes: object, batches: object, limit: Limit, *, quantized: bool) -> None:
    if not callable(evaluate):
        raise TypeError(f"evaluate must be a function from a model to its score, got {type(evaluate).__name__}")
    if isinstance(scopes, str) or not isinstance(scopes, Sequence) or not scopes:
        raise ValueError(f"scopes must be names of scopes, such as {SCOPES}, got {scopes!r}")
    for scope in scopes:
        if not isinstance(scope, str):
            raise TypeError(f"scopes must be names, perhaps with options, as 'global:min_kept=16', got {scope!r}")
        resolve_scope(scope)
    if isinstance(batches, Tensor | Mapping) or not isinstance(batches, Iterable):
        raise TypeError(f"batches must be an iterable of batches, got {type(batches).__name__}; one batch is [batch]")
    runtime = limit.unit.removeprefix(budgets.TIME)
    if quantized and runtime in RUNTIMES and not RUNTIMES[runtime].in_8_bits:
        names = " and ".join(name for name, own in RUNTIMES.items() if own.in_8_bits)
        raise ValueError(f"{runtime} does not compute in 8 bits; with quantized, times are those in {names}")


def _checked(evaluate: Evaluate) -> Evaluate:
    def score(model: nn.Module) -> float:
        value = evaluate(model)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"evaluate must return a number, the higher the better, got {value!r}")
        return float(value)

    return score


def _within(workshop: Workshop, limit: Limit, scopes: Sequence[str]) -> Candidate | None:
    """Return the best model within a limit, of those of each scope."""
    most = limit.absolute(workshop.dense_cost)
    candidates = [workshop.unpruned()] if workshop.settings.quantized else []
    if not candidates and workshop.dense_cost <= most:
        raise ValueError(
            f"the model has {workshop.dense_cost:,} {limit.unit} unpruned, which is within {limit.text!r} already; "
            "give a lower target"
        )
    if candidates and candidates[0] is not None and candidates[0].trial.cost <= most:
        return candidates[0]  # pruning would only cost accuracy
    whole = candidates[0].trial.cost if candidates and candidates[0] is not None else workshop.dense_cost
    for at, scope in enumerate(scopes):
        workshop.stage = (at, len(scopes))
        candidates.append(_nearest(workshop, scope, most, whole))
    made = [candidate for candidate in candidates if candidate is not None and candidate.trial.cost <= most]
    return max(made, key=lambda candidate: candidate.trial.score, default=None)


def _nearest(workshop: Workshop, scope: str, most: float, whole: float) -> Candidate | None:
    """Return the best model within a limit of a few whose cost comes ever nearer to it; None if there is none.

    Args:
        workshop: makes the models.
        scope: how they are pruned.
        most: the limit.
        whole: what the model costs before it is pruned.
    """
    best: Candidate | None = None
    aim, before = most, 0.0
    for _ in range(_TRIES):
        counts_onnx = workshop.settings.counts_onnx  # which `prune` has no targets for
        asked = f"{100 * aim / whole:.4g}% parameters" if counts_onnx else budgets.written(aim, workshop.settings.unit)
        candidate = workshop.candidate(scope, asked)
        if candidate is None:
            break
        cost = candidate.trial.cost
        if cost <= most and (best is None or candidate.trial.score > best.trial.score):
            best = candidate
        if _WITHIN * most <= cost <= most or cost == before:
            break
        aim, before = aim * (1 + _WITHIN) / 2 * most / max(cost, 1e-9), cost
        if aim >= whole:
            break
    return best


def _above(workshop: Workshop, floor: float, scopes: Sequence[str]) -> Candidate | None:
    """Return the model that costs least of those that keep the floor."""
    if workshop.dense_score < floor:
        raise SearchError(f"the model itself scores {workshop.dense_score:.4g}, below the floor of {floor:.4g}")
    candidates = [workshop.unpruned()] if workshop.settings.quantized else []
    # fewer weights are fewer bytes whatever the scope, but not fewer multiply-adds
    bounded, kept = workshop.settings.unit in ("bytes", "parameters"), 1.0
    for at, scope in enumerate(scopes):
        workshop.stage = (at, len(scopes))
        candidate, least = _least(workshop, scope, floor, kept if bounded else 1.0)
        candidates.append(candidate)
        kept = min(kept, least)
    keeping = [candidate for candidate in candidates if candidate is not None and candidate.trial.score >= floor]
    return min(keeping, key=lambda candidate: candidate.trial.cost, default=None)


def _least(workshop: Workshop, scope: str, floor: float, kept: float) -> tuple[Candidate | None, float]:
    """Return the model that keeps least of those that keep the floor, and the share of the weights that it keeps.

    Only models are tried that keep less than `kept`: half at first, and then what lies between the last that kept the
    floor and the last that did not; after another scope, whether there is anything better at all.
    """
    pattern = workshop.settings.pattern
    if pattern.only_sparsity is not None:
        return workshop.candidate(scope, pattern.only_sparsity), kept
    best: Candidate | None = None
    tried, failed = (kept / 2 if kept == 1.0 else kept / _NEAR), 0.0
    while tried >= _LEAST_KEPT and kept / tried > _NEAR - 1e-6:
        # whole channels meet few sparsities exactly, but any share from below
        count = "MACs" if isinstance(pattern, Channels) and pattern.budget == "macs" else "parameters"
        asked = f"{100 * tried:.4g}% {count}" if isinstance(pattern, Channels) else 1 - tried
        candidate = workshop.candidate(scope, asked)
        if candidate is not None and candidate.trial.score >= floor:
            best, kept = candidate, tried
        else:
            failed = tried
        tried = math.sqrt(kept * failed) if failed else kept / 2
    return best, kept


def _none_found(workshop: Workshop, limit: Limit, floor: float | None) -> SearchError:
    if not workshop.trials:
        return SearchError(f"no model could be made: {'; '.join(dict.fromkeys(workshop.failures.values()))}")
    if floor is not None:
        nearest = max(workshop.trials, key=lambda trial: trial.score)
        return SearchError(
            f"none of {len(workshop.trials)} models keeps the floor of {floor:.4g}: the best, {nearest.asked} with "
            f"scope {nearest.scope!r}, scores {nearest.score:.4g} (unpruned {workshop.dense_score:.4g}); give a lower "
            "floor, more samples, or minutes"
        )
    smallest = min(workshop.trials, key=lambda trial: trial.cost)
    return SearchError(
        f"none of {len(workshop.trials)} models is within {limit.text!r}: the smallest has {smallest.cost:,} "
        f"{limit.unit} (unpruned {workshop.dense_cost:,}); give a higher target, or another pattern"
    )
