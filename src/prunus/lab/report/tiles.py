"""The key numbers at the top of the page, each with its verdict."""

from __future__ import annotations

import statistics

from prunus.lab.report import claims, cost_sentences, spell, steps
from prunus.lab.report.blocks import Tile
from prunus.lab.report.claims import SpeedChange
from prunus.measuring.receipt import ModelFacts, Receipt


def tiles(receipt: Receipt) -> list[Tile]:
    """Return what a reader sees first: what is gone, accuracy, file, compressed file, time, arithmetic."""
    if not receipt.models:
        return []
    first, last = receipt.models[0], receipt.models[-1]
    if first is last:
        return [_alone(last)]
    found = [_parameters(first, last), _accuracy(receipt, first, last), *_sizes(first, last), _speed(first, last)]
    return [tile for tile in (*found, _arithmetic(first, last)) if tile is not None]


def _alone(model: ModelFacts) -> Tile:
    return Tile("Parameters", spell.count(model.parameters), cost_sentences.contents(model), "measured")


def _parameters(first: ModelFacts, last: ModelFacts) -> Tile:
    if last.parameters < first.parameters:
        gone = spell.percent(1 - last.parameters / first.parameters)
        detail = f"{spell.count(first.parameters)} → {spell.count(last.parameters)}"
        if claims.zeros(last):
            detail += f", {spell.count(claims.zeros(last))} of them zero"
        return Tile("Parameters gone", gone, detail, "removed", "good")
    detail = f"{spell.count(claims.zeros(last))} of {spell.count(last.parameters)}"
    verdict = "set to zero" if claims.zeros(last) > claims.zeros(first) else "nothing removed"
    return Tile("Zero parameters", spell.percent(claims.zero_fraction(last)), detail, verdict)


def _accuracy(receipt: Receipt, first: ModelFacts, last: ModelFacts) -> Tile | None:
    change = claims.accuracy_change(receipt, first, last)
    if change is None:
        return None
    verdict, tone = {
        "same": ("within chance", "plain"),
        "better": ("better", "good"),
        "worse": ("worse", "bad"),
    }[change.verdict]
    p_value = spell.p_value(change.test.p_value).replace(" ", "\N{NO-BREAK SPACE}") if change.test else "not tested"
    detail = f"{spell.percent(change.before.top1, 2)} before; {spell.points(change.difference)} points, {p_value}"
    return Tile("Accuracy", spell.percent(change.after.top1, 2), detail, verdict, tone)


def _sizes(first: ModelFacts, last: ModelFacts) -> list[Tile]:
    changes = {change.format: change for change in claims.size_changes(first, last)}
    compressed = changes.get("zstd") or changes.get("gzip")
    packed = _packed(first, last)
    shown = [("Plain file" if packed else "File", changes.get("safetensors"))]
    shown += [] if packed else [("Compressed", compressed)]
    found = [packed] if packed else []
    for label, change in shown:
        if change is None:
            continue
        verdict, tone = {
            "same": ("not saved", "plain"),
            "smaller": ("saved", "good"),
            "larger": ("larger", "bad"),
        }[change.verdict]
        form = "" if change.format == "safetensors" else f" with {spell.plain(change.format)}"
        detail = f"{spell.count(change.before)} → {spell.count(change.after)} bytes{form}"
        found.append(Tile(label, _change(change.relative), detail, verdict, tone))
    return found


def _packed(first: ModelFacts, last: ModelFacts) -> Tile | None:
    """The file that a run is for, beside the plain file of the model it began with."""
    before, after = first.bytes.get("safetensors"), steps.stored(last)
    if last.name != steps.PACKED or not before or after is None:
        return None
    alike = first.bytes.get(steps.PACKED)
    detail = f"{spell.count(before)} → {spell.count(after)} bytes"
    detail += f"; {spell.plain(first.name)} packed alike: {spell.count(alike)}" if alike else ""
    verdict, tone = ("saved", "good") if after < before else ("not saved", "plain")
    return Tile("Packed file", _change((after - before) / before), detail, verdict, tone)


def _speed(first: ModelFacts, last: ModelFacts) -> Tile | None:
    programs: list[SpeedChange] = list(claims.overtakings(first, last))
    changes = programs or claims.dense_changes(first, last)
    if not changes:
        return None
    verdicts = {change.verdict for change in changes}
    verdict, tone = "mixed", "plain"
    if verdicts == {"same"}:
        verdict = "not saved"
    elif not programs and cost_sentences.doubtful(first, last, changes):
        verdict = "unclear"
    elif verdicts == {"faster"}:
        verdict, tone = "saved", "good"
    elif verdicts == {"slower"}:
        verdict, tone = "slower", "bad"
    middle = statistics.median(change.factor for change in changes)
    number = spell.plural(len(changes), "setting")
    within = "; not told apart" if verdicts == {"same"} else ""
    than = f"of {spell.plain(first.name)} in its fastest runtime" if programs else "before"
    detail = f"{cost_sentences.span(changes)} times the time {than} in {number}{within}"
    if cost_sentences.unsteady(changes):
        detail, tone = f"{detail}; single calls varied widely", "plain"
    label = "Time as a program" if programs else "Time of a call"
    return Tile(label, f"{spell.ratio(middle)}\N{MULTIPLICATION SIGN}", detail, verdict, tone)


def _arithmetic(first: ModelFacts, last: ModelFacts) -> Tile | None:
    if first.macs is None or last.macs is None:
        return None
    idle = ""
    if last.nonzero_macs is not None and last.nonzero_macs < last.macs:
        idle = f"; {spell.percent(1 - last.nonzero_macs / last.macs)} of them times a zero"
    before, verdict, tone = f"{spell.compact(first.macs)} before", "not saved", "plain"
    if last.macs == first.macs:
        before = "as many as before"
    elif last.macs < first.macs:
        verdict, tone = "saved", "good"
    else:
        verdict, tone = "more", "bad"
    return Tile("Multiply-adds", spell.compact(last.macs), before + idle, verdict, tone)


def _change(relative: float) -> str:
    rounded = round(100 * relative, 1)
    return f"{rounded:+.1f}%".replace("-", "\N{MINUS SIGN}") if rounded else "±0%"
