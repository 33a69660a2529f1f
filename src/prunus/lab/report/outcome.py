"""The outcome of a run: its key figures with verdicts, and the headline."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from prunus.lab.report import claims, savings
from prunus.measuring import spell
from prunus.measuring.receipt import ModelFacts, Receipt


@dataclass(frozen=True)
class Outcome:
    """A key figure of the last model compared with the first.

    Attributes:
        label: its name.
        value: the figure.
        detail: the figure before, and what it is based on.
        verdict: a verdict in a word or two.
        tone: `good`, `bad` or `plain`.
        phrase: its part of the headline; empty if the headline leaves it out.
    """

    label: str
    value: str
    detail: str
    verdict: str
    tone: str = "plain"
    phrase: str = ""


def headline(receipt: Receipt) -> str:
    """Return the outcome in two sentences."""
    if not receipt.models:
        return "This receipt holds no model."
    first, last = receipt.models[0], receipt.models[-1]
    if first is last:
        return f"Only {spell.plain(last.name)} was measured, so this says nothing about what pruning saves."
    accuracy, file, speed = _accuracy(receipt, first, last), _files(first, last), _speed(receipt, first, last)
    parts = [
        _parameters(first, last).phrase,
        accuracy.phrase if accuracy else "accuracy was not measured",
        file[0].phrase if file else "The size of the file was not measured",
        speed.phrase if speed else "the speed was not measured",
    ]
    return "{}; {}. {}, and {}.".format(*parts)


def outcomes(receipt: Receipt) -> list[Outcome]:
    """Return the key figures: parameters, accuracy, files, time, multiply-adds."""
    if not receipt.models:
        return []
    first, last = receipt.models[0], receipt.models[-1]
    if first is last:
        detail = f"{spell.count(claims.zeros(last))} of them zero"
        return [Outcome("Parameters", spell.count(last.parameters), detail, "measured")]
    figures = [_parameters(first, last), _accuracy(receipt, first, last), *_files(first, last)]
    figures += [_speed(receipt, first, last), _arithmetic(first, last)]
    return [outcome for outcome in figures if outcome is not None]


def _parameters(first: ModelFacts, last: ModelFacts) -> Outcome:
    zeros = claims.zeros(last)
    if last.parameters < first.parameters:
        gone = spell.percent(1 - last.parameters / first.parameters)
        detail = f"{spell.count(first.parameters)} → {spell.count(last.parameters)}"
        detail += f", {spell.count(zeros)} of them zero" if zeros else ""
        phrase = f"{gone} of the parameters are gone"
        phrase += f", another {spell.percent(zeros / first.parameters)} are zero" if zeros else ""
        return Outcome("Parameters gone", gone, detail, "removed", "good", phrase)
    share = spell.percent(zeros / last.parameters if last.parameters else 0.0)
    detail = f"{spell.count(zeros)} of {spell.count(last.parameters)}"
    verdict = "set to zero" if zeros > claims.zeros(first) else "nothing removed"
    return Outcome("Zero parameters", share, detail, verdict, phrase=f"{share} of the parameters are zero")


def _accuracy(receipt: Receipt, first: ModelFacts, last: ModelFacts) -> Outcome | None:
    change = claims.accuracy_change(receipt, first, last)
    if change is None:
        return None
    gap = spell.points(change.difference)
    p_value = f"p {_equals(spell.p_value(change.test.p_value))}" if change.test else "not tested"
    detail = f"{spell.percent(change.before.top1, 2)} before; {gap} points, "
    detail += p_value.replace(" ", "\N{NO-BREAK SPACE}")
    value, phrase = spell.percent(change.after.top1, 2), f"accuracy is {change.verdict} by {gap[1:]} points"
    if change.verdict == "same":
        return Outcome("Accuracy", value, detail, "within chance", phrase="accuracy did not measurably change")
    return Outcome("Accuracy", value, detail, change.verdict, "good" if change.verdict == "better" else "bad", phrase)


def _equals(p_value: str) -> str:
    return p_value if p_value.startswith("<") else f"= {p_value}"


def _files(first: ModelFacts, last: ModelFacts) -> list[Outcome]:
    """Return the changes of the files; the first one is the result of the run."""
    plain = first.bytes.get("safetensors"), last.bytes.get("safetensors")
    packed = plain[0], savings.stored(last) if last.name == savings.PACKED else None
    small = next((form for form in ("zstd", "gzip") if first.bytes.get(form) and form in last.bytes), "")
    compressed = first.bytes.get(small), last.bytes.get(small)
    if packed[0] and packed[1] is not None:
        alike = first.bytes.get(savings.PACKED)
        more = f"; {spell.plain(first.name)} packed alike: {spell.count(alike)}" if alike else ""
        files = [_file("Packed file", packed, "Packed, its file", more), _file("Plain file", plain)]
    else:
        files = [_file("File", plain, "The file"), _file("Compressed", compressed, more=f" with {small}")]
    return [outcome for outcome in files if outcome is not None]


def _file(label: str, sizes: tuple[int | None, int | None], subject: str = "", more: str = "") -> Outcome | None:
    before, after = sizes
    if not before or after is None:
        return None
    road = f"{spell.count(before)} → {spell.count(after)} bytes"
    change = claims.size_verdict(before, after)
    value = "±0%" if change == "same" else spell.signed_percent(before, after)
    phrase = f"{subject} is {spell.percent(abs(after - before) / before)} {change} ({road})"
    if change == "same":
        phrase = f"{subject} is as large as before"
    verdict, tone = {"same": ("not saved", "plain"), "smaller": ("saved", "good"), "larger": ("larger", "bad")}[change]
    return Outcome(label, value, road + more, verdict, tone, phrase)


def _speed(receipt: Receipt, first: ModelFacts, last: ModelFacts) -> Outcome | None:
    programs = claims.fastest_programs(claims.program_changes(receipt))
    changes = programs or claims.dense_changes(first, last)
    if not changes:
        return None
    verdicts = [change.verdict for change in changes]
    doubtful = not programs and claims.unsteady(changes) and claims.without_reason(first, last, changes)
    verdict, tone = "mixed", "plain"
    if set(verdicts) == {"same"}:
        verdict = "not saved"
    elif doubtful:
        verdict = "unclear"
    elif len(set(verdicts)) == 1:
        verdict, tone = ("saved", "good") if verdicts[0] == "faster" else ("slower", "bad")
    factors = [change.factor for change in changes]
    than = f"of {_opponents(programs)}" if programs else "before"
    detail = f"{spell.span(factors)} times the time {than} in {spell.plural(len(changes), 'setting')}"
    detail += "; not told apart" if set(verdicts) == {"same"} else ""
    phrase = "no difference in speed could be measured reliably" if doubtful else _speed_phrase(changes)
    if claims.unsteady(changes):
        detail, tone = f"{detail}; single calls varied widely", "plain"
        phrase += "" if doubtful or set(verdicts) == {"same"} else ", though single calls varied widely"
    label = "Time as a program" if programs else "Time of a call"
    value = f"{spell.ratio(statistics.median(factors))}\N{MULTIPLICATION SIGN}"
    return Outcome(label, value, detail, verdict, tone, phrase)


def _opponents(programs: list[claims.SpeedChange]) -> str:
    """Return what programs are held against."""
    pairs = dict.fromkeys((change.models[0], change.against) for change in programs)
    named = spell.listing([f"{spell.plain(model)} in {spell.runtime(runtime)}" for model, runtime in pairs])
    return named if len(pairs) == 1 else f"what is fastest without it, {named}"


def _speed_phrase(changes: list[claims.SpeedChange]) -> str:
    program = changes[0].runtime in claims.PROGRAMS and changes[0].against != changes[0].runtime
    in_8_bits = all(change.runtime == claims.PROGRAM_IN_8_BITS for change in changes)
    subject = f"as a program of prunus{' in 8 bits' if in_8_bits else ''} it" if program else "the model"
    than = f" than {_opponents(changes)}" if program else ""
    verdicts = [change.verdict for change in changes]
    distinct = [verdict for verdict in ("faster", "slower") if verdict in verdicts]
    if not distinct:
        return f"{subject} is not measurably faster{than}"
    if len(set(verdicts)) > 1:
        where = [f"{verdict} in {verdicts.count(verdict)} of {len(verdicts)} settings" for verdict in distinct]
        return f"{subject} is {spell.listing(where)}{than}"
    if not program:
        return f"{subject} is {distinct[0]}"
    if distinct == ["slower"]:
        return f"{subject} takes {spell.span([change.factor for change in changes])} times as long as{than[5:]}"
    return f"{subject} is {spell.span([1 / change.factor for change in changes])} times as fast as{than[5:]}"


def _arithmetic(first: ModelFacts, last: ModelFacts) -> Outcome | None:
    if first.macs is None or last.macs is None:
        return None
    before, verdict, tone = f"{spell.compact(first.macs)} before", "saved", "good"
    if last.macs == first.macs:
        before, verdict, tone = "as many as before", "not saved", "plain"
    elif last.macs > first.macs:
        verdict, tone = "more", "bad"
    if last.nonzero_macs is not None and last.nonzero_macs < last.macs:
        before += f"; {spell.percent(1 - last.nonzero_macs / last.macs)} of them times a zero"
    return Outcome("Multiply-adds", spell.compact(last.macs), before, verdict, tone)
