"""Sentences on the program that skips zeros, beside the fastest that the dense model can be run without it."""

from __future__ import annotations

from prunus.lab.report import claims, cost_sentences, spell
from prunus.lab.report.claims import Overtaking, SpeedChange
from prunus.measuring.receipt import ModelFacts, Receipt


def program(first: ModelFacts, last: ModelFacts) -> str:
    """Say where the last model's program is faster than the first model in its fastest runtime; empty without one."""
    changes = claims.overtakings(first, last)
    if not changes:
        return ""
    name, before = spell.plain(last.name), spell.plain(first.name)
    said = [
        f"{start} {spell.listing([_told(change) for change in found])}."
        for verdict, start in (
            ("faster", f"As a program of prunus {name} is faster than {before} in its fastest runtime:"),
            ("slower", f"As a program of prunus {name} is slower than {before} in its fastest runtime:"),
            ("same", f"The program of {name} and {before} in its fastest runtime can't be told apart:"),
        )
        if (found := [change for change in changes if change.verdict == verdict])
    ]
    alike: list[SpeedChange] = list(claims.overtakings(last, last))
    if alike:
        times = cost_sentences.span(alike)
        said.append(f"Beside {name} itself in its fastest other runtime it takes {times} times as long.")
    return " ".join([*said, *_doubt(changes)])


def embedded(last: ModelFacts) -> str:
    """Say what the last model takes as C on a microcontroller; empty where that was not counted."""
    if last.embedded is None:
        return ""
    flash, ram = spell.count(last.embedded.flash_bytes), spell.count(last.embedded.ram_bytes)
    return (
        f"Written as C for a microcontroller (prunus export --format c), its constants take {flash} bytes of flash, "
        f"the code a little more, and its buffers {ram} bytes of RAM."
    )


def in_short(first: ModelFacts, last: ModelFacts) -> str:
    """Say the same in a few words, without a full stop; empty where there is no program."""
    changes = claims.overtakings(first, last)
    if not changes:
        return ""
    than = f"{spell.plain(first.name)} in its fastest runtime"
    verdicts = [change.verdict for change in changes]
    doubt = ", though single calls varied widely" if _doubt(changes) else ""
    if set(verdicts) == {"same"}:
        return f"as a program of prunus it is not measurably faster than {than}{doubt}"
    if len(set(verdicts)) == 1:
        if verdicts[0] == "slower":
            times = spell.span([change.factor for change in changes])
            return f"as a program of prunus it takes {times} times as long as {than}{doubt}"
        times = spell.span([1 / change.factor for change in changes])
        return f"as a program of prunus it is {times} times as fast as {than}{doubt}"
    told = [verdict for verdict in ("faster", "slower") if verdict in verdicts]
    where = spell.listing([f"{verdict} in {verdicts.count(verdict)} of {len(verdicts)} settings" for verdict in told])
    return f"as a program of prunus it is {where} than {than}{doubt}"


def break_even(receipt: Receipt) -> str:
    """Say from which sparsity on a program of the dense model would pay; empty where that was not measured."""
    curve = receipt.break_even
    if curve is None:
        return ""
    others = spell.listing([spell.runtime(name) for name in curve.dense_us])
    fastest = spell.runtime(curve.fastest)
    of = f"{fastest}, the fastest of {others}" if len(curve.dense_us) > 1 else fastest
    setting = cost_sentences.setting(str(curve.threads), str(curve.batch))
    copies = f"With {setting}, programs of copies pruned by magnitude at once and not trained"
    last = f"at {_percent(curve.points[-1].sparsity)} they take {spell.ratio(curve.ratios[-1])} times as long"
    if curve.sparsity == curve.points[0].sparsity and max(curve.ratios) <= 1:
        first = f"at {_percent(curve.sparsity)} sparsity they take {spell.ratio(curve.ratios[0])} times as long"
        return f"{copies} are faster than the dense model in {of}, at every sparsity: {first}, {last}."
    if curve.sparsity is None:
        return f"{copies} never become as fast as the dense model in {of}: {last}."
    return f"{copies} are as fast as the dense model in {of}, from {_percent(curve.sparsity)} sparsity on; {last}."


def _percent(sparsity: float) -> str:
    return spell.percent(sparsity, 0)


def _told(change: Overtaking) -> str:
    took = f"{spell.microseconds(change.after.median)}, {spell.runtime(change.against)} takes"
    worth = cost_sentences.factor(change)
    return (
        f"{worth} with {cost_sentences.setting(change.threads, change.batch)} "
        f"({took} {spell.microseconds(change.before.median)})"
    )


def _doubt(changes: list[Overtaking]) -> list[str]:
    unsteady = [change for change in changes if change.variation > claims.UNSTEADY]
    if not unsteady:
        return []
    widest = spell.ratio(max(change.variation for change in unsteady))
    return [
        f"Single calls varied up to {widest}-fold (10th to 90th percentile): measure again on a quiet machine before "
        "relying on this."
    ]
