"""Sentences on what a model costs: its parameters, its file, its time, its arithmetic."""

from __future__ import annotations

from prunus.lab.report import claims, spell, steps
from prunus.lab.report.claims import SizeChange, SpeedChange
from prunus.measuring.receipt import ModelFacts

# more settings or runtimes than this are summed up instead of listed one by one
LISTED_SETTINGS = 4
LISTED_RUNTIMES = 2


def contents(model: ModelFacts) -> str:
    """Say how many parameters a model has, and how many of them are zero."""
    held = f"{spell.plain(model.name)} has {spell.plural(model.parameters, 'parameter')}"
    if not claims.zeros(model):
        return f"{held}, none of them zero."
    zero = f"{spell.count(claims.zeros(model))} of them are zero ({spell.percent(claims.zero_fraction(model))})"
    return f"{held}; {zero}."


def removed(first: ModelFacts, last: ModelFacts) -> str:
    """Say what was taken out of the first model, or set to zero in it."""
    before, after = claims.zeros(first), claims.zeros(last)
    if last.parameters != first.parameters:
        more = "fewer" if last.parameters < first.parameters else "more"
        change = spell.count(abs(last.parameters - first.parameters))
        share = f" ({_relative(first.parameters, last.parameters)})" if first.parameters else ""
        return f"{contents(last)} That is {change} {more} than {spell.plain(first.name)} has{share}."
    whole = spell.plural(last.parameters, "parameter")
    if after <= before:
        return (
            f"Nothing was removed: of {whole}, {spell.count(before)} were zero before and {spell.count(after)} are now."
        )
    already = f"; {spell.count(before)} were before" if before else ""
    return f"{spell.count(after)} of {whole} are now zero ({spell.percent(claims.zero_fraction(last))}){already}."


def removed_in_short(first: ModelFacts, last: ModelFacts) -> str:
    """Say the same in a few words, without a full stop."""
    if last.parameters < first.parameters:
        gone = f"{_relative(first.parameters, last.parameters)} of the parameters are gone"
        zero = claims.zeros(last) / first.parameters
        return f"{gone}, another {spell.percent(zero)} are zero" if zero else gone
    return f"{spell.percent(claims.zero_fraction(last))} of the parameters are zero"


def file(first: ModelFacts, last: ModelFacts) -> str:
    """Say what became of the plain file, and why where the figures show it."""
    change = _plain_file(first, last)
    if change is None:
        return "The size of the file was not measured in both models."
    if change.verdict == "smaller":
        why = ", because parameters were taken out of it" if last.parameters < first.parameters else ""
        return f"The file is {_resized(change)}{why}."
    if change.verdict == "larger":
        return f"The file is {_resized(change)}."
    why = ", because a zero is stored like any other number" if _only_zeroed(first, last) else ""
    if change.before == change.after:
        return f"The file did not get smaller: {spell.count(change.after)} bytes before and after{why}."
    return f"The file is {_resized(change)}{why}."


def file_in_short(first: ModelFacts, last: ModelFacts) -> str:
    """Say the same in a few words, without a full stop: of the packed file, where that is what the last model is."""
    change = _plain_file(first, last)
    if last.name == steps.PACKED and change is not None and (size := steps.stored(last)) is not None:
        return f"Packed, its file is {spell.smaller(change.before, size)} ({_bytes(change.before, size)})"
    if change is None:
        return "The size of the file was not measured"
    if change.verdict == "same":
        return "The file is as large as before"
    return f"The file is {_relative(change.before, change.after)} {change.verdict}"


def compressed(first: ModelFacts, last: ModelFacts) -> str:
    """Say what became of the file in every other format; empty where there is none."""
    ours = ("safetensors", steps.PACKED)
    changes = [change for change in claims.size_changes(first, last) if change.format not in ours]
    if not changes:
        return ""
    parts = [f"with {spell.plain(change.format)} it is {_resized(change)}" for change in changes]
    said = f"Compressed {spell.listing(parts)}."
    if _only_zeroed(first, last) and all(change.verdict == "smaller" for change in changes):
        said += " A compressor writes zeros in few bits; whoever loads the file unpacks them again."
    return said


def speed(first: ModelFacts, last: ModelFacts) -> str:
    """Say in which settings the model became faster or slower, and where no difference can be told."""
    changes = claims.dense_changes(first, last)
    if not changes:
        return "Speed was not measured in both models, so nothing can be said about it."
    by_runtime: dict[str, list[SpeedChange]] = {}
    for change in changes:
        by_runtime.setdefault(change.runtime, []).append(change)
    said = _in_short_by_runtime(by_runtime) if len(by_runtime) > LISTED_RUNTIMES else []
    for runtime, group in by_runtime.items() if not said else ():
        said += _verdicts(group, f"In {spell.runtime(runtime)} it" if len(by_runtime) > 1 else "It")
    said.append(_unsteady(changes))
    if all(change.verdict == "same" for change in changes):
        said.append(_why_no_faster(first, last, changes))
    elif _no_reason(first, last, changes):
        said.append(
            "Both models do the same multiply-adds, so pruning is no reason for it: measure again before relying on it."
        )
    return " ".join(filter(None, said))


def speed_in_short(first: ModelFacts, last: ModelFacts) -> str:
    """Say the same in a few words, without a full stop."""
    changes = claims.dense_changes(first, last)
    verdicts = [change.verdict for change in changes]
    if not verdicts:
        return "the speed was not measured"
    told = [verdict for verdict in ("faster", "slower") if verdict in verdicts]
    if not told:
        return "the model is not measurably faster"
    if doubtful(first, last, changes):
        return "no difference in speed could be measured reliably"
    doubt = ", though single calls varied widely" if unsteady(changes) else ""
    if len(set(verdicts)) == 1:
        return f"the model is {told[0]}{doubt}"
    where = spell.listing([f"{verdict} in {verdicts.count(verdict)} of {len(verdicts)} settings" for verdict in told])
    return f"the model is {where}{doubt}"


def arithmetic(first: ModelFacts, last: ModelFacts) -> str:
    """Say how many multiply-adds one sample takes, and how many of them a zero weight makes idle."""
    if last.macs is None or first.macs is None:
        return "Multiply-adds were not counted in both models."
    if last.macs == first.macs:
        said = f"One input takes {spell.plural(last.macs, 'multiply-add')}, as many as before."
    else:
        more = "fewer" if last.macs < first.macs else "more"
        share = f" ({_relative(first.macs, last.macs)} {more})" if first.macs else ""
        said = f"One input takes {spell.plural(last.macs, 'multiply-add')} instead of {spell.count(first.macs)}{share}."
    if last.nonzero_macs is not None and last.nonzero_macs < last.macs:
        share = spell.percent(1 - last.nonzero_macs / last.macs)
        said += f" {share} of them multiply by a zero weight: a program that skips zeros could save those."
    return said


def setting(threads: str, batch: str) -> str:
    """Spell a setting of a latency measurement.

    >>> setting("1", "64")
    '1 thread and batch 64'
    """
    return f"{spell.threads(threads)} and batch {spell.plain(batch)}"


def span(changes: list[SpeedChange]) -> str:
    """Spell from how many to how many times the time before it takes: ``"0.98 to 1.03"``."""
    return spell.span([change.factor for change in changes])


def doubtful(first: ModelFacts, last: ModelFacts, changes: list[SpeedChange]) -> bool:
    """Return whether the differences found have no reason in the models, and one in the machine."""
    return _no_reason(first, last, changes) and unsteady(changes)


def unsteady(changes: list[SpeedChange]) -> bool:
    """Return whether single calls varied so much in some setting that its verdict needs a warning."""
    return any(change.variation > claims.UNSTEADY for change in changes)


def _verdicts(changes: list[SpeedChange], it: str) -> list[str]:
    """Say what can be told in one runtime, and where nothing can be."""
    same = [change for change in changes if change.verdict == "same"]
    if len(same) == len(changes):
        return [f"{it} does not run measurably faster: {_untold(same)}."]
    told = {verdict: [c for c in changes if c.verdict == verdict] for verdict in ("faster", "slower")}
    said = [_told(found, verdict, it) for verdict, found in told.items() if found]
    return [*said, f"Elsewhere no difference can be told: {_untold(same)}."] if same else said


def _in_short_by_runtime(by_runtime: dict[str, list[SpeedChange]]) -> list[str]:
    """Say in which runtimes the model became faster or slower, one sentence each, and in which it did not."""
    said, alike = [], []
    for runtime, changes in by_runtime.items():
        verdicts = [change.verdict for change in changes]
        told = [verdict for verdict in ("faster", "slower") if verdict in verdicts]
        if not told:
            alike.append(runtime)
            continue
        where = [
            f"{verdict} in {verdicts.count(verdict)} of {spell.plural(len(changes), 'setting')}" for verdict in told
        ]
        times = f"it takes {span(changes)} times as long as before"
        said.append(f"In {spell.runtime(runtime)} it runs {spell.listing(where)}: {times}.")
    if alike:
        names = spell.listing([spell.runtime(runtime) for runtime in alike])
        same = [change for runtime in alike for change in by_runtime[runtime]]
        said.append(f"In {names} it does not run measurably faster: {_untold(same)}.")
    return said


def _told(changes: list[SpeedChange], verdict: str, it: str) -> str:
    if len(changes) > LISTED_SETTINGS:
        return f"{it} runs {verdict} in {len(changes)} settings: it takes {span(changes)} times as long as before."
    parts = [
        f"{factor(change)} with {setting(change.threads, change.batch)} "
        f"({spell.microseconds(change.before.median)} → {spell.microseconds(change.after.median)})"
        for change in changes
    ]
    return f"{it} runs {verdict}: {spell.listing(parts)}."


def _untold(changes: list[SpeedChange]) -> str:
    where = (
        f"in {len(changes)} settings" if len(changes) > 1 else f"with {setting(changes[0].threads, changes[0].batch)}"
    )
    return (
        f"{where} it takes {span(changes)} times as long as before, which is within the uncertainty of the medians "
        f"(their 95% intervals overlap), or less than {spell.percent(claims.SAME_TIME, 0)}"
    )


def _unsteady(changes: list[SpeedChange]) -> str:
    """Warn where single calls varied so much that the medians' intervals can't be relied on."""
    if not unsteady(changes):
        return ""
    widest = spell.ratio(max(change.variation for change in changes))
    return (
        f"Single calls varied up to {widest}-fold (10th to 90th percentile), which can hide a difference or make one "
        "up: measure again on a quiet machine before relying on this."
    )


def _why_no_faster(first: ModelFacts, last: ModelFacts, changes: list[SpeedChange]) -> str:
    if _only_zeroed(first, last) and _runs_dense(changes):
        names = [spell.runtime(name) for name in dict.fromkeys(change.runtime for change in changes)]
        return f"{spell.listing(names)} {_verb(names)} by the zeros like by any other number."
    if first.macs and last.macs is not None and last.macs < first.macs:
        return f"It does need {_relative(first.macs, last.macs)} fewer multiply-adds."
    return ""


def _no_reason(first: ModelFacts, last: ModelFacts, changes: list[SpeedChange]) -> bool:
    return last.macs is not None and last.macs == first.macs and _runs_dense(changes)


def _runs_dense(changes: list[SpeedChange]) -> bool:
    """Whether the models were timed only where a zero is multiplied like any other number."""
    return all(change.runtime in claims.DENSE_RUNTIMES for change in changes)


def _verb(names: list[str]) -> str:
    return "multiplies" if len(names) == 1 else "multiply"


def _only_zeroed(first: ModelFacts, last: ModelFacts) -> bool:
    return last.parameters == first.parameters and claims.zeros(last) > claims.zeros(first)


def _plain_file(first: ModelFacts, last: ModelFacts) -> SizeChange | None:
    return next((c for c in claims.size_changes(first, last) if c.format == "safetensors"), None)


def _resized(change: SizeChange) -> str:
    bytes_ = _bytes(change.before, change.after)
    if change.verdict == "same":
        return f"as large as before ({bytes_})"
    return f"{_relative(change.before, change.after)} {change.verdict} ({bytes_})"


def _bytes(before: int, after: int) -> str:
    return f"{spell.count(before)} → {spell.count(after)} bytes"


def _relative(before: int, after: int) -> str:
    return spell.percent(abs(after - before) / before)


def factor(change: SpeedChange) -> str:
    """Spell a change: ``"2.00 times as fast"``, ``"1.50 times as long"``."""
    if change.verdict == "faster":
        return f"{spell.ratio(1 / change.factor)} times as fast"
    return f"{spell.ratio(change.factor)} times as long"
