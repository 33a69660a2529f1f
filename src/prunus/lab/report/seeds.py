"""Several seeds of one recipe at the terminal: how far a result varies when only chance differs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.lab.report import claims, spell, tables
from prunus.measuring.receipt import Accuracy, ModelFacts, PairedTest, Receipt


def show(receipts: Sequence[Receipt], console: Console) -> None:
    """Print one row per model and one per pair of tested models; errors as `prunus.lab.report.summary`."""
    check(receipts)
    for part in (title(receipts), models(receipts), tests(receipts)):
        if part is not None:
            console.print(part)
            console.print()


def check(receipts: Sequence[Receipt]) -> None:
    """Raise ValueError unless the receipts are of one recipe and of different seeds."""
    if not receipts:
        raise ValueError("a summary needs at least one receipt, got none")
    for receipt in receipts[1:]:
        changed = _differences(receipts[0], receipt)
        if changed:
            raise ValueError(
                f"a summary is over seeds of one recipe, got receipts of several: seeds {receipts[0].seed} and "
                f"{receipt.seed} differ in {', '.join(changed)}"
            )
    seeds = [receipt.seed for receipt in receipts]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a summary takes one receipt per seed, got the seeds {seeds}")


def title(receipts: Sequence[Receipt]) -> Text:
    """Return one line: which recipe, which seeds."""
    name = spell.plain(str(receipts[0].recipe.get("name", "models compared")))
    seeds = ", ".join(str(receipt.seed) for receipt in receipts)
    return Text(f"{name} · {spell.plural(len(receipts), 'seed')}: {seeds}", style="bold")


def models(receipts: Sequence[Receipt]) -> Table:
    """Return each model's accuracy over the seeds: mean ± standard deviation (n − 1), lowest to highest."""
    table = tables.table_of("model", ("nonzero", "accuracy (mean ± sd)", "lowest to highest", "seeds"))
    for name in _names(receipts):
        found = [facts for receipt in receipts if (facts := _facts(receipt, name)) is not None]
        reached = [facts.accuracy for facts in found if facts.accuracy is not None]
        table.add_row(Text(spell.plain(name)), _nonzero(found), *_spread(reached), str(len(found)))
    return table


def tests(receipts: Sequence[Receipt]) -> Table | None:
    """Return the paired tests seed by seed; None where there is none."""
    pairs = list(dict.fromkeys((test.first, test.second) for receipt in receipts for test in receipt.comparisons))
    if not pairs:
        return None
    columns = ("\nseed", "difference\nin points", "\n95% interval", "\np", "more than\nchance")
    table = tables.table_of("\npaired test", columns)
    for first, second in pairs:
        found = [(receipt.seed, test) for receipt in receipts if (test := claims.paired_test(receipt, first, second))]
        for at, (seed, test) in enumerate(found):
            table.add_row(Text(spell.plain(f"{first} → {second}") if at == 0 else ""), str(seed), *_test(test))
        if len(found) > 1:
            mean = _mean_and_deviation([test.difference * 100 for _, test in found], signed=True)
            table.add_row("", "mean ± sd", mean, "", "", "")
        table.add_section()
    return table


def _differences(first: Receipt, other: Receipt) -> list[str]:
    """Name the parts of the recipe, but for the seeds and the description, in which two receipts differ."""
    keys = sorted({*first.recipe, *other.recipe} - {"seeds", "description"})
    return [key for key in keys if first.recipe.get(key) != other.recipe.get(key)]


def _names(receipts: Sequence[Receipt]) -> list[str]:
    return list(dict.fromkeys(facts.name for receipt in receipts for facts in (*receipt.models, *receipt.controls)))


def _facts(receipt: Receipt, name: str) -> ModelFacts | None:
    return next((facts for facts in (*receipt.models, *receipt.controls) if facts.name == name), None)


def _nonzero(found: list[ModelFacts]) -> str:
    low, high = min(facts.nonzero for facts in found), max(facts.nonzero for facts in found)
    return spell.count(low) if low == high else f"{spell.count(low)} to {spell.count(high)}"


def _spread(reached: list[Accuracy]) -> tuple[str, str]:
    if not reached:
        return spell.ABSENT, spell.ABSENT
    percents = [accuracy.top1 * 100 for accuracy in reached]
    return f"{_mean_and_deviation(percents)}%", f"{min(percents):.2f} to {max(percents):.2f}"


def _mean_and_deviation(values: list[float], signed: bool = False) -> str:
    mean = f"{statistics.fmean(values):{'+' if signed else ''}.2f}".replace("-", "\N{MINUS SIGN}")
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _test(test: PairedTest) -> tuple[str, str, str, str]:
    told = "yes" if test.p_value < claims.SIGNIFICANCE else "no"
    p_value = spell.p_value(test.p_value).removeprefix("p = ").removeprefix("p ")
    return spell.points(test.difference), spell.points_interval(test.ci95), p_value, told
