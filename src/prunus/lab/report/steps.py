"""The steps of a run, and what each of them saved: parameters, multiply-adds, bytes, time."""

from __future__ import annotations

from itertools import pairwise

from prunus.lab.report import claims
from prunus.measuring import spell
from prunus.measuring.receipt import ModelFacts, Receipt
from prunus.tables import Table

# the models of a run, and the step that leads to each from the one before
ROAD = {"dense": "", "finetuned": "prune, finetune", "shrunk": "shrink", "packed": "pack"}
PACKED = "packed"


def road(receipt: Receipt) -> Table | None:
    """Return what each step saved; None where the receipt is not of a run that shrank and packed its model."""
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
    """Return the bytes of a model's file: packed if that is what it is, else plain."""
    return model.bytes.get(PACKED if model.name == PACKED else "safetensors")


def _settings(models: list[ModelFacts]) -> list[tuple[str, str, str]]:
    """Return the first setting of each runtime that all models were timed in, else of those that the ends were."""
    for pairs in (pairwise(models), [(models[0], models[-1])]):
        changes = [{(c.runtime, c.threads, c.batch): c for c in claims.speed_changes(*pair)} for pair in pairs]
        shared = [setting for setting in changes[-1] if all(setting in change for change in changes)]
        if shared:
            return list({setting[0]: setting for setting in reversed(shared)}.values())[::-1]
    return []


def _figures(before: ModelFacts, after: ModelFacts, settings: list[tuple[str, str, str]]) -> list[str]:
    """Return a step's figures, each with what it is worth beside the one before."""
    pairs = ((model.parameters, model.macs, stored(model)) for model in (before, after))
    counts = [
        spell.count(now) if was is None or now is None or before is after else _worth(spell.count(now), was, now)
        for was, now in zip(*pairs, strict=True)
    ]
    changes = {(c.runtime, c.threads, c.batch): c for c in claims.speed_changes(before, after)}
    return counts + [_time(changes.get(setting), alone=before is after) for setting in settings]


def _worth(figure: str, was: float, now: float) -> str:
    return f"{figure} ({spell.signed_percent(was, now)})"


def _time(change: claims.SpeedChange | None, *, alone: bool) -> str:
    if change is None:
        return spell.ABSENT
    median = spell.microseconds(change.after.median)
    if alone:
        return median
    if change.verdict == "same":
        return f"{median} (not told apart)"
    return _worth(median, change.before.median, change.after.median)
