"""The page's tables and lists of facts."""

from __future__ import annotations

from prunus.lab.report import accuracy_sentences, claims, spell, steps
from prunus.lab.report.blocks import Pairs, Table
from prunus.measuring.receipt import Latency, ModelFacts, Receipt

# what the controls of `prunus run` are; a control of another name is shown without a gloss
CONTROLS = {
    "random": "the same steps, but the weights to remove were drawn at random",
    "small-dense": "a narrower network of about as many parameters, trained from scratch and never pruned",
    "dense-longer": "the unpruned network, given the same extra epochs",
}


def controls(receipt: Receipt) -> Table:
    """Return the controls, and the result they stand beside."""
    glosses = CONTROLS | {receipt.models[-1].name: "the result of this run"} if receipt.models else CONTROLS
    rows = tuple(
        (
            spell.plain(model.name),
            glosses.get(model.name, ""),
            spell.count(model.parameters),
            spell.count(model.nonzero),
            _reached(model),
        )
        for model in (*receipt.controls, *receipt.models[-1:])
    )
    return Table(("model", "what it is", "parameters", "nonzero", "test accuracy"), rows, prose=(1,))


def road(receipt: Receipt) -> Table | None:
    """Return what each step saved; None where the receipt is not of a run that shrank and packed its model."""
    found = steps.steps(receipt)
    if not found:
        return None
    columns = ("step", *steps.COLUMNS, *(f"one call: {heading}" for heading in steps.time_columns(found)))
    rows = tuple(
        (name, *(f"{figure} ({worth})" if worth else figure for figure, worth in cells))
        for name, cells in steps.rows(found)
    )
    caption = (
        "What each step saved, from the model before it. The file is the plain one (safetensors) until the last step "
        "packs it; times are medians, told apart where their 95% intervals are."
    )
    return Table(columns, rows, caption)


def latencies(receipt: Receipt) -> Table | None:
    """Return the time of one call of each model in each runtime; None where there are not several to compare."""
    models = claims.timed(receipt)
    runtimes = list(dict.fromkeys(runtime for model in models for runtime in model.latency_us))
    if len(runtimes) < 2:
        return None
    grid = claims.grid(models)
    rows = tuple(
        (
            f"{spell.runtime(runtime)}: {spell.plain(model.name)}",
            *(_time(claims.latency(model, runtime, *setting)) for setting in grid),
        )
        for runtime in runtimes
        for model in models
        if runtime in model.latency_us
    )
    columns = [f"{spell.threads(threads)}, batch {spell.plain(batch)}" for threads, batch in grid]
    return Table(("runtime: model", *columns), rows, "Time of one call: median [10th, 90th percentile].")


def layers(receipt: Receipt) -> Table | None:
    """Return the last model's layers, with what they held in the first one; None where there are none."""
    if not receipt.models or not receipt.models[-1].layers:
        return None
    before = {layer.name: layer for layer in receipt.models[0].layers}
    narrower = any(x.name in before and before[x.name].shape != x.shape for x in receipt.models[-1].layers)
    rows = tuple(
        (
            spell.plain(layer.name),
            *((spell.shape(was.shape) if was else spell.ABSENT,) if narrower else ()),
            spell.shape(layer.shape),
            spell.count(layer.parameters),
            _optional(was.nonzero if was else None),
            spell.count(layer.nonzero),
            spell.percent(layer.sparsity),
            _optional(layer.macs),
            _optional(layer.nonzero_macs),
        )
        for layer in receipt.models[-1].layers
        for was in (before.get(layer.name),)
    )
    shapes = ("shape before", "shape now") if narrower else ("shape",)
    columns = ("layer", *shapes, "parameters", "nonzero before", "nonzero now", "sparsity")
    return Table((*columns, "multiply-adds", "of them nonzero"), rows)


def paired_tests(receipt: Receipt) -> Table | None:
    """Return the paired tests; None where there are none."""
    rows = tuple(
        (
            f"{spell.plain(test.first)} → {spell.plain(test.second)}",
            spell.count(test.only_first),
            spell.count(test.only_second),
            spell.points(test.difference),
            spell.points_interval(test.ci95),
            spell.p_value(test.p_value).removeprefix("p = ").removeprefix("p "),
            "yes" if test.p_value < claims.SIGNIFICANCE else "no",
        )
        for test in receipt.comparisons
    )
    caption = (
        "Paired tests (McNemar's, exact): only images that one of the two models gets right and the other wrong tell "
        f"them apart. More than chance: p < {claims.SIGNIFICANCE}."
    )
    columns = (
        "models",
        "only first right",
        "only second right",
        "difference, points",
        "95% interval",
        "p",
        "more than chance",
    )
    return Table(columns, rows, caption) if rows else None


def quality(receipt: Receipt) -> Table:
    """Return what every model holds and, where any was tested, how often it is right."""
    measured = (*receipt.models, *receipt.controls)
    tested = any(model.accuracy for model in measured)
    rows = tuple(
        (
            spell.plain(model.name),
            spell.count(model.parameters),
            spell.count(model.nonzero),
            spell.percent(model.sparsity),
            *(_quality(model) if tested else ()),
        )
        for model in measured
    )
    held = ("model", "parameters", "nonzero", "sparsity")
    if not tested:
        return Table(held, rows, "All models.")
    caption = "All models. NLL: mean negative log-likelihood; ECE: expected calibration error."
    return Table((*held, "test accuracy", "NLL", "ECE"), rows, caption)


def costs(receipt: Receipt) -> Table:
    """Return what every model takes."""
    measured = (*receipt.models, *receipt.controls)
    formats = list(dict.fromkeys(form for model in measured for form in model.bytes))
    rows = tuple(
        (
            spell.plain(model.name),
            *(_optional(model.bytes.get(form)) for form in formats),
            _optional(model.macs),
            _optional(model.nonzero_macs),
            _optional(model.peak_memory_bytes),
            f"{model.seconds:.1f}" if model.seconds is not None else spell.ABSENT,
        )
        for model in measured
    )
    sizes = [f"{spell.plain(form)} bytes" for form in formats]
    columns = ("model", *sizes, "multiply-adds", "of them nonzero", "peak memory, bytes", "seconds to make")
    return Table(columns, rows, "What they take: on disk, for one input, in memory, and to make.")


def checks(receipt: Receipt) -> Table | None:
    """Return the run's checks; None where there are none."""
    rows = tuple(
        (spell.plain(c.name), spell.plain(c.what), f"{c.value:g}", f"{c.limit:g}", "passed" if c.passed else "FAILED")
        for c in receipt.checks
    )
    columns = ("check", "what is checked", "value", "limit", "result")
    return Table(columns, rows, "Checks of the run.", prose=(1,)) if rows else None


def facts(receipt: Receipt) -> Pairs:
    """Return what was measured, where and with what."""
    machine, data = receipt.machine, receipt.data
    memory = f"{machine.memory_bytes / 2**30:.1f} GiB" if machine.memory_bytes else "not told by the system"
    found = [
        ("prunus", receipt.prunus),
        ("PyTorch", receipt.torch),
        ("Processor", f"{machine.processor}, {spell.plural(machine.cores, 'core')}"),
        ("Threads by default", str(machine.threads)),
        ("Memory", memory),
        ("System", machine.system),
        ("Accelerator", machine.accelerator or "none"),
        ("Models ran on", receipt.device),
    ]
    if receipt.recipe:
        found += [("Seed", str(receipt.seed)), ("Recipe's hash", receipt.recipe_hash or "none")]
    if data:
        sizes = [f"{spell.count(getattr(data, split))} {split}" for split in ("train", "validation", "test")]
        found.append(("Data", f"{data.name}: {spell.listing(sizes)} images"))
        found += [("From", data.source), ("Checksum (sha256)", data.checksum)]
    return Pairs(tuple((name, spell.plain(value)) for name, value in found))


def _quality(model: ModelFacts) -> tuple[str, str, str]:
    if model.accuracy is None:
        return (spell.ABSENT,) * 3
    return _reached(model), f"{model.accuracy.nll:.4f}", spell.percent(model.accuracy.ece, 2)


def _reached(model: ModelFacts) -> str:
    return accuracy_sentences.with_interval(model.accuracy) if model.accuracy else spell.ABSENT


def _time(measured: Latency | None) -> str:
    return spell.spread(measured.median, measured.p10, measured.p90) if measured else spell.ABSENT


def _optional(number: int | None) -> str:
    return spell.ABSENT if number is None else spell.count(number)
