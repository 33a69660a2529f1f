"""Several seeds of one recipe as tables: how much a result varies by chance."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from prunus.lab.report import claims
from prunus.lab.report.receipt_tables import TEST_COLUMNS, paired_figures
from prunus.measuring import spell
from prunus.measuring.overview import everything
from prunus.measuring.receipt import ModelFacts, Receipt
from prunus.tables import Table


def check(receipts: Sequence[Receipt]) -> None:
    """Raise ValueError unless the receipts are of one recipe and of different seeds."""
    if not receipts:
        raise ValueError("a summary needs at least one receipt, got none")
    first = receipts[0]
    for receipt in receipts[1:]:
        keys = sorted({*first.recipe, *receipt.recipe} - {"seeds", "description"})
        changed = [key for key in keys if first.recipe.get(key) != receipt.recipe.get(key)]
        if changed:
            raise ValueError(
                f"a summary is over seeds of one recipe, got receipts of several: seeds {first.seed} and "
                f"{receipt.seed} differ in {', '.join(changed)}"
            )
    seeds = [receipt.seed for receipt in receipts]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a summary takes one receipt per seed, got the seeds {seeds}")


def title(receipts: Sequence[Receipt]) -> str:
    """Return the title: recipe and seeds."""
    name = spell.plain(str(receipts[0].recipe.get("name", "models compared")))
    seeds = ", ".join(str(receipt.seed) for receipt in receipts)
    return f"{name} · {spell.plural(len(receipts), 'seed')}: {seeds}"


def models(receipts: Sequence[Receipt]) -> Table:
    """Return each model's accuracy over the seeds: mean ± standard deviation (n − 1), lowest to highest."""
    by_name: dict[str, list[ModelFacts]] = {}
    for receipt in receipts:
        for model in everything(receipt):
            by_name.setdefault(model.name, []).append(model)
    rows = []
    for name, facts in by_name.items():
        low, high = min(model.nonzero for model in facts), max(model.nonzero for model in facts)
        nonzero = spell.count(low) if low == high else f"{spell.count(low)} to {spell.count(high)}"
        percents = [model.accuracy.top1 * 100 for model in facts if model.accuracy is not None]
        mean, reached = spell.ABSENT, spell.ABSENT
        if percents:
            mean, reached = f"{_mean_and_deviation(percents)}%", f"{min(percents):.2f} to {max(percents):.2f}"
        rows.append((name, nonzero, mean, reached, str(len(facts))))
    return Table(("model", "nonzero", "accuracy (mean ± sd)", "lowest to highest", "seeds"), tuple(rows))


def tests(receipts: Sequence[Receipt]) -> Table | None:
    """Return the paired tests of each seed; None if there is none."""
    rows: list[tuple[str, ...]] = []
    breaks = []
    for first, second in dict.fromkeys(
        (test.first, test.second) for receipt in receipts for test in receipt.comparisons
    ):
        breaks.append(len(rows))
        of_pair = [(r.seed, test) for r in receipts if (test := claims.paired_test(r, first, second))]
        rows += [(f"{first} → {second}", str(seed), *paired_figures(test)) for seed, test in of_pair]
        if len(of_pair) > 1:
            mean = _mean_and_deviation([test.difference * 100 for _, test in of_pair], sign="+")
            rows.append(("", "mean ± sd", mean, "", "", ""))
    return Table(("paired test", "seed", *TEST_COLUMNS), tuple(rows), breaks=tuple(breaks[1:])) if rows else None


def _mean_and_deviation(values: list[float], sign: str = "") -> str:
    mean = f"{statistics.fmean(values):{sign}.2f}".replace("-", spell.MINUS)
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean
