"""The steps of a run's road, and what each of them saved: parameters, multiply-adds, bytes, time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from prunus.lab.report import claims, spell
from prunus.lab.report.claims import SpeedChange
from prunus.measuring.receipt import ModelFacts, Receipt

# the models of a run, and the step that leads to each from the one before
ROAD = {"dense": "", "finetuned": "prune, finetune", "shrunk": "shrink", "packed": "pack"}
PACKED = "packed"


@dataclass(frozen=True)
class Step:
    """One step, and the models before and after it."""

    name: str
    before: ModelFacts
    after: ModelFacts

    @property
    def times(self) -> list[SpeedChange]:
        """The first setting that both models were timed in, of each runtime."""
        found: dict[str, SpeedChange] = {}
        for change in claims.speed_changes(self.before, self.after):
            found.setdefault(change.runtime, change)
        return list(found.values())


COLUMNS = ("parameters", "multiply-adds", "file, bytes")

# a cell of the table of steps: a figure, and what it is worth beside the one before
Cell = tuple[str, str]


def rows(found: list[Step]) -> list[tuple[str, list[Cell]]]:
    """Return the table of steps, under `COLUMNS` and `time_columns`.

    The first model's figures come first, then what each step made of them, in the end what all of them are worth.
    """
    if not found:
        return []
    shown = _shown_times(found)
    settings = [_setting(change) for change in shown]
    start = found[0].before
    before = [(_spelled(figure), "") for figure in _figures(start)]
    before += [(spell.microseconds(change.before.median), "") for change in shown]
    made = [(step.name, _cells(step, settings)) for step in found]
    name, together = made.pop()
    return [(spell.plain(start.name), before), *made, (name, [(worth, "") for _, worth in together])]


def _cells(step: Step, settings: list[tuple[str, str, str]]) -> list[Cell]:
    counts = zip(_figures(step.before), _figures(step.after), strict=True)
    times = {_setting(change): _timed(change) for change in step.times}
    return [*(_counted(*pair) for pair in counts), *(times.get(key, (spell.ABSENT, "")) for key in settings)]


def _figures(model: ModelFacts) -> tuple[int | None, int | None, int | None]:
    return model.parameters, model.macs, stored(model)


def _counted(before: int | None, after: int | None) -> Cell:
    if before is None or after is None:
        return _spelled(after), ""
    return _spelled(after), "same" if before == after else spell.signed_percent(before, after)


def _spelled(figure: int | None) -> str:
    return spell.ABSENT if figure is None else spell.count(figure)


def _timed(change: SpeedChange) -> Cell:
    median = spell.microseconds(change.after.median)
    if change.verdict == "same":
        return median, "not told apart"
    return median, spell.signed_percent(change.before.median, change.after.median)


def _setting(change: SpeedChange) -> tuple[str, str, str]:
    return change.runtime, change.threads, change.batch


def time_columns(found: list[Step]) -> list[str]:
    """Return the headings over the times of the steps' cells."""
    return [
        f"{spell.runtime(change.runtime)}, {spell.threads(change.threads)}, batch {spell.plain(change.batch)}"
        for change in _shown_times(found)
    ]


def _shown_times(found: list[Step]) -> list[SpeedChange]:
    """Return the times of all steps together, of the runtimes that every step was timed in, if there is one."""
    if not found:
        return []
    everywhere = set.intersection(*({_setting(change) for change in step.times} for step in found))
    return [change for change in found[-1].times if _setting(change) in everywhere] or found[-1].times


def steps(receipt: Receipt) -> list[Step]:
    """Return the steps of a run that made its model really smaller, and all of them together; else none."""
    models = {model.name: model for model in receipt.models}
    if not {"dense", PACKED} <= models.keys():
        return []
    road = [name for name in ROAD if name in models]
    found = [Step(ROAD[after], models[before], models[after]) for before, after in pairwise(road)]
    return [*found, Step("together", models["dense"], models[PACKED])]


def step(receipt: Receipt, name: str) -> Step | None:
    """Return one step by its name; None where the run did not take it."""
    return next((found for found in steps(receipt) if found.name == name), None)


def stored(model: ModelFacts) -> int | None:
    """Return the bytes a model lies on the disk with: packed if that is what it is, else as a plain file."""
    return model.bytes.get(PACKED if model.name == PACKED else "safetensors")
