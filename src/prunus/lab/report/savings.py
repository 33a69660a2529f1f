"""The savings of each step of a run: parameters, multiply-adds, bytes, time."""

from __future__ import annotations

from itertools import pairwise

from prunus.lab.report import claims
from prunus.measuring import spell
from prunus.measuring.receipt import ModelFacts, Receipt
from prunus.tables import Table

# model -> the steps that make it from the model before
ROAD = {"dense": "", "finetuned": "prune, finetune", "shrunk": "shrink", "packed": "pack"}
PACKED = "packed"


def road(receipt: Receipt) -> Table | None:
    """Return the savings of each step; None if the receipt is not of a run that shrank and packed its model."""
    by_name = {model.name: model for model in receipt.models}
    models = [by_name[name] for name in ROAD if name in by_name]
    if not {"dense", PACKED} <= by_name.keys():
        return None
    settings = _settings(models)
    first, last = models[0], models[-1]
    rows = [
        (first.name, *_figures(first, first, settings)),
        *((ROAD[after.name], *_figures(before, after, settings)) for before, after in pairwise(models)),
        ("together", *_figures(first, last, settings)),
    ]
    times = [f"{spell.runtime(runtime)}, {spell.setting(threads, batch)}" for runtime, threads, batch in settings]
    columns = ("step", "parameters", "multiply-adds", "file, bytes", *times)
    caption = (
        "What each step saved, beside the one before. The file is the plain one (safetensors) until the last step "
        "packs it; times are medians of one call."
    )
    return Table(columns, tuple(rows), caption, breaks=(len(rows) - 1,))


def stored(model: ModelFacts) -> int | None:
    """Return the bytes of a model's file: of the packed file for the packed model, otherwise of the plain one."""
    return model.bytes.get(PACKED if model.name == PACKED else "safetensors")


def _settings(models: list[ModelFacts]) -> list[tuple[str, str, str]]:
    """Return the first setting of each runtime in which all models were timed, or else the first and the last one."""
    for pairs in (pairwise(models), [(models[0], models[-1])]):
        changes = [{(c.runtime, c.threads, c.batch): c for c in claims.speed_changes(*pair)} for pair in pairs]
        shared = [setting for setting in changes[-1] if all(setting in change for change in changes)]
        if shared:
            return list({setting[0]: setting for setting in reversed(shared)}.values())[::-1]
    return []


def _figures(before: ModelFacts, after: ModelFacts, settings: list[tuple[str, str, str]]) -> list[str]:
    """Return a step's figures, each with its change."""
    pairs = ((model.parameters, model.macs, stored(model)) for model in (before, after))
    counts = [
        spell.count(now) if was is None or now is None or before is after else _with_change(spell.count(now), was, now)
        for was, now in zip(*pairs, strict=True)
    ]
    changes = {(c.runtime, c.threads, c.batch): c for c in claims.speed_changes(before, after)}
    return counts + [_time(changes.get(setting), alone=before is after) for setting in settings]


def _with_change(figure: str, was: float, now: float) -> str:
    return f"{figure} ({spell.signed_percent(was, now)})"


def _time(change: claims.SpeedChange | None, *, alone: bool) -> str:
    if change is None:
        return spell.ABSENT
    median = spell.microseconds(change.after.median)
    if alone:
        return median
    if change.verdict == "same":
        return f"{median} (not told apart)"
    return _with_change(median, change.before.median, change.after.median)
