"""Tables of a receipt that compare models, and the facts of the run."""

from __future__ import annotations

from prunus.lab.report import claims
from prunus.lab.report.savings import road
from prunus.measuring import spell
from prunus.measuring.overview import overview
from prunus.measuring.receipt import ModelFacts, PairedTest, Receipt
from prunus.tables import Table

# descriptions of the controls of `prunus run`; other controls have none
CONTROLS = {
    "random": "the same steps, but the weights to remove were drawn at random",
    "small-dense": "a narrower network of about as many parameters, trained from scratch and never pruned",
    "dense-longer": "the unpruned network, given the same extra epochs",
}


def all_tables(receipt: Receipt) -> list[Table]:
    """Return all tables of a receipt, in the order of the terminal."""
    compared = (
        speed(receipt),
        paired_tests(receipt),
        changes(receipt),
        break_even(receipt),
        layers(receipt),
        checks(receipt),
    )
    return [table for table in (road(receipt), *overview(receipt), *compared) if table is not None]


def speed(receipt: Receipt) -> Table | None:
    """Return whether the last model is faster than the first, per setting; None if that was not measured."""
    if len(receipt.models) < 2:
        return None
    first, last = receipt.models[0], receipt.models[-1]
    programs = claims.program_changes(receipt)
    changes = [*claims.dense_changes(first, last), *programs]
    rows = tuple(
        (
            spell.runtime(change.runtime),
            spell.setting(change.threads, change.batch),
            f"{spell.microseconds(change.before.median)}{_where(change, first)}",
            f"{spell.microseconds(change.after.median)}{_of(change.models[1], last)}",
            spell.ratio(change.factor),
            "not told apart" if change.verdict == "same" else change.verdict,
        )
        for change in changes
    )
    caption = (
        f"From {first.name} to {last.name}, medians of one call: called faster or slower where they are at least "
        f"{spell.percent(claims.SAME_TIME, 0)} apart and their 95% intervals do not overlap."
    )
    if programs:
        caption += (
            f" A program is held against what is fastest without one: {first.name}, or a model that is as accurate as "
            f"{last.name}, in the fastest runtime that was measured."
        )
    columns = ("runtime", "setting", first.name, last.name, "times as long", "verdict")
    return Table(columns, rows, caption, words=(1, 5), breaks=(len(rows) - len(programs),)) if rows else None


def _where(change: claims.SpeedChange, first: ModelFacts) -> str:
    runtime = "" if change.against == change.runtime else f" in {spell.runtime(change.against)}"
    return f"{_of(change.models[0], first)}{runtime}"


def _of(name: str, expected: ModelFacts) -> str:
    return "" if name == expected.name else f" of {spell.plain(name)}"


def paired_tests(receipt: Receipt) -> Table | None:
    """Return the paired tests; None if there are none."""
    rows = tuple(
        (
            f"{test.first} → {test.second}",
            spell.count(test.only_first),
            spell.count(test.only_second),
            *paired_figures(test),
        )
        for test in receipt.comparisons
    )
    caption = (
        "Paired tests (McNemar's, exact): only images that one of the two models gets right and the other wrong tell "
        f"them apart. More than chance: p < {claims.SIGNIFICANCE}."
    )
    columns = ("models", "only first right", "only second right", *TEST_COLUMNS)
    return Table(columns, rows, caption) if rows else None


def changes(receipt: Receipt) -> Table | None:
    """Return what changed beside the average; None if nothing was tested."""
    rows = tuple(
        (
            f"{change.first} → {change.second}",
            f"{spell.percent(change.flipped / change.total, 2)} {_interval(change.ci95)}",
            f"{change.worst_class}: {spell.points(-change.worst_loss)}",
            spell.points_interval((-change.worst_ci95[1], -change.worst_ci95[0])),
            ", ".join(map(str, change.lost[:_SHOWN])) or "none",
        )
        for change in receipt.changes
    )
    caption = (
        "What an average hides: images with another answer, right or wrong; the class whose accuracy fell most, with "
        "an interval that holds for all classes at once; and the numbers of images that the first model gets right and "
        "the second wrong, those first that most models get wrong."
    )
    columns = ("models", "other answers [95%]", "worst class, points", "95% interval", "images lost")
    return Table(columns, rows, caption, words=(4,)) if rows else None


_SHOWN = 6


def _interval(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0] * 100:.2f}, {bounds[1] * 100:.2f}]"


TEST_COLUMNS = ("difference, points", "95% interval", "p", "more than chance")


def paired_figures(test: PairedTest) -> tuple[str, ...]:
    """Return a paired test's figures under `TEST_COLUMNS`."""
    return (
        spell.points(test.difference),
        spell.points_interval(test.ci95),
        spell.p_value(test.p_value),
        "yes" if test.p_value < claims.SIGNIFICANCE else "no",
    )


def break_even(receipt: Receipt) -> Table | None:
    """Return the time of programs by sparsity, and where they break even; None if it was not measured."""
    curve = receipt.break_even
    if curve is None:
        return None
    curves = {"float32, single weights": (curve.points, curve.sparsity)}
    if curve.in_8_bits:
        curves["8 bits, blocks of four inputs"] = curve.in_8_bits, curve.sparsity_in_8_bits
    rows = tuple(
        (
            name,
            spell.percent(point.sparsity, 0),
            spell.count(point.nonzero),
            spell.latency(point.latency_us),
            spell.ratio(ratio),
        )
        for name, (points, _) in curves.items()
        for point, ratio in zip(points, curve.ratios(points), strict=True)
    )
    dense = [f"{spell.runtime(name)} {spell.latency(time)}" for name, time in curve.dense_us.items()]
    pays = "; ".join(f"in {name}: {_pays(sparsity)}" for name, (_, sparsity) in curves.items())
    caption = (
        "Programs of copies of the dense model, pruned by magnitude at once and not trained, with "
        f"{spell.setting(str(curve.threads), str(curve.batch))}: {pays}. The dense model: {spell.listing(dense)}."
    )
    against = f"times as long as dense in {spell.runtime(curve.fastest)}"
    columns = ("program", "sparsity", "nonzero", "time of one call", against)
    return Table(columns, rows, caption, breaks=(len(curve.points),) if curve.in_8_bits else ())


def _pays(sparsity: float | None) -> str:
    return "never as fast" if sparsity is None else f"as fast from {spell.percent(sparsity, 0)} sparsity on"


def layers(receipt: Receipt) -> Table | None:
    """Return the last model's layers compared with the first model's; None if there are none."""
    if not receipt.models or not receipt.models[-1].layers:
        return None
    before = {layer.name: layer for layer in receipt.models[0].layers}
    rows = []
    for layer in receipt.models[-1].layers:
        dense = before.get(layer.name)
        shape = spell.shape(layer.shape)
        rows.append(
            (
                layer.name,
                shape if dense is None or dense.shape == layer.shape else f"{spell.shape(dense.shape)} → {shape}",
                spell.count(layer.parameters),
                spell.count(dense.nonzero if dense else None),
                spell.count(layer.nonzero),
                spell.percent(layer.sparsity),
                spell.count(layer.macs),
                spell.count(layer.nonzero_macs),
            )
        )
    counts = ("parameters", "nonzero before", "nonzero now", "sparsity", "multiply-adds", "of them nonzero")
    return Table(("layer", "shape", *counts), tuple(rows), f"The layers of {receipt.models[-1].name}.")


def controls(receipt: Receipt) -> Table | None:
    """Return the controls and the result they are compared with; None if there are none."""
    if not receipt.controls:
        return None
    result = receipt.models[-1:]
    glosses = CONTROLS | {model.name: "the result of this run" for model in result}
    rows = tuple(
        (model.name, glosses.get(model.name, ""), spell.count(model.nonzero), spell.accuracy(model.accuracy))
        for model in (*receipt.controls, *result)
    )
    return Table(("model", "what it is", "nonzero", "test accuracy [95% interval]"), rows, words=(1,))


def checks(receipt: Receipt) -> Table | None:
    """Return the run's checks; None if there are none."""
    rows = tuple(
        (check.name, check.what, f"{check.value:g}", f"{check.limit:g}", "passed" if check.passed else "FAILED")
        for check in receipt.checks
    )
    columns = ("check", "what is checked", "value", "limit", "result")
    return Table(columns, rows, "Checks of the run.", words=(1,)) if rows else None


def facts(receipt: Receipt) -> list[tuple[str, str]]:
    """Return machine, versions, data and settings of the measurement, as (name, value) pairs."""
    machine, data = receipt.machine, receipt.data
    memory = f"{machine.memory_bytes / 2**30:.1f} GiB" if machine.memory_bytes else "not reported by the system"
    pairs = [
        ("prunus", receipt.prunus),
        ("PyTorch", receipt.torch),
        ("Processor", f"{machine.processor}, {spell.plural(machine.cores, 'core')}"),
        ("Instructions", ", ".join(machine.instructions) or "not reported by the system"),
        ("Threads by default", str(machine.threads)),
        ("Memory", memory),
        ("System", machine.system),
        ("Accelerator", machine.accelerator or "none"),
        ("Models ran on", receipt.device),
    ]
    if receipt.recipe:
        pairs += [("Seed", str(receipt.seed)), ("Recipe's hash", receipt.recipe_hash or "none")]
    if data:
        sizes = [f"{spell.count(getattr(data, split))} {split}" for split in ("train", "validation", "test")]
        pairs += [("Data", f"{data.name}: {spell.listing(sizes)} images")]
        pairs += [("From", data.source), ("Checksum (sha256)", data.checksum)]
    return pairs
