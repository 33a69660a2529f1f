"""The figures of a receipt as tables: parameters and accuracy, sizes, multiply-adds and memory, latencies."""

from __future__ import annotations

from collections.abc import Iterator

from prunus.measuring import spell
from prunus.measuring.receipt import Latency, ModelFacts, Receipt
from prunus.tables import Table, pairs

# the number of rows of each table in a printed receipt, so that all tables fit one screen
MAX_ROWS = 8


def overview(receipt: Receipt) -> list[Table]:
    """Return the tables of a receipt's models, without tables for which nothing was measured."""
    tables = (contents(receipt), sizes(receipt), work(receipt), latencies(receipt))
    return [table for table in tables if table is not None]


def contents(receipt: Receipt) -> Table | None:
    """Return the parameters of each model and, if any was tested, its accuracy; None if there is no model."""
    models = everything(receipt)
    tested = any(model.accuracy for model in models)
    rows = [
        (
            model.name,
            spell.count(model.parameters),
            spell.count(model.nonzero),
            spell.percent(model.sparsity),
            *(_quality(model) if tested else ()),
        )
        for model in models
    ]
    quality = ("accuracy [95% interval]", "NLL", "ECE") if tested else ()
    columns = ("model", "parameters", "nonzero", "sparsity", *quality)
    caption = "NLL: mean negative log-likelihood; ECE: expected calibration error." if tested else ""
    return _of_models(receipt, columns, rows, caption) if rows else None


def sizes(receipt: Receipt) -> Table | None:
    """Return the bytes of each model in each file format; None if no size was measured."""
    models = everything(receipt)
    forms = list(dict.fromkeys(form for model in models for form in model.bytes))
    in_c = any(model.embedded for model in models)
    if not forms and not in_c:
        return None
    rows = [
        (
            model.name,
            *(spell.count(model.bytes.get(form)) for form in forms),
            *(_in_c(model) if in_c else ()),
        )
        for model in models
    ]
    columns = ("model", *forms, *(("C: flash", "C: RAM") if in_c else ()))
    caption = "Bytes of the weights as a file of each format." + (
        " C: of the exported source; its code takes a little more flash." if in_c else ""
    )
    return _of_models(receipt, columns, rows, caption)


def work(receipt: Receipt) -> Table | None:
    """Return multiply-adds, memory and seconds of making each model; None if none of these was measured."""
    columns: dict[str, list[str]] = {
        "multiply-adds": [spell.count(model.macs) for model in everything(receipt)],
        "nonzero multiply-adds": [spell.count(model.nonzero_macs) for model in everything(receipt)],
        "peak memory, bytes": [spell.count(model.peak_memory_bytes) for model in everything(receipt)],
        "seconds to make": [_seconds(model) for model in everything(receipt)],
    }
    measured = {name: cells for name, cells in columns.items() if set(cells) - {spell.ABSENT}}
    if not measured:
        return None
    names = [model.name for model in everything(receipt)]
    rows = list(zip(names, *measured.values(), strict=True))
    return _of_models(receipt, ("model", *measured), rows, "Multiply-adds of one sample; memory of the largest batch.")


def latencies(receipt: Receipt) -> Table | None:
    """Return the time of one call of each model in each runtime and setting; None if nothing was timed."""
    models = [model for model in everything(receipt) if model.latency_us]
    runtimes = list(dict.fromkeys(runtime for model in models for runtime in model.latency_us))
    if not models:
        return None
    pairs = [(runtime, model) for runtime in runtimes for model in models if runtime in model.latency_us]
    columns = grid(models)
    rows = tuple(
        (
            f"{spell.runtime(runtime)}: {model.name}",
            *(spell.latency(latency(model, runtime, *setting)) for setting in columns),
        )
        for runtime, model in pairs
    )
    breaks = tuple(at for at in range(1, len(pairs)) if pairs[at][0] != pairs[at - 1][0])
    caption = "Time of one call: median [10th, 90th percentile]."
    return Table(("runtime: model", *(spell.setting(*setting) for setting in columns)), rows, caption, breaks=breaks)


def of_model(model: ModelFacts) -> Table:
    """Return all figures of one model, one per row."""
    rows = [
        ("model", model.name),
        ("parameters", spell.count(model.parameters)),
        ("nonzero", f"{spell.count(model.nonzero)} ({spell.percent(model.sparsity)} sparsity)"),
        ("multiply-adds", spell.count(model.macs)),
        ("nonzero multiply-adds", spell.count(model.nonzero_macs)),
        *((f"{form}, bytes", spell.count(size)) for form, size in model.bytes.items()),
        ("peak memory, bytes", spell.count(model.peak_memory_bytes)),
        ("accuracy [95% interval]", spell.accuracy(model.accuracy)),
        *(
            (f"{spell.runtime(runtime)}: {spell.setting(threads, batch)}", spell.latency(time))
            for runtime, threads, batch, time in settings(model)
        ),
    ]
    return pairs(rows, "; ".join(model.notes))


def everything(receipt: Receipt) -> tuple[ModelFacts, ...]:
    """Return the models and the controls of a receipt."""
    return (*receipt.models, *receipt.controls)


def settings(model: ModelFacts) -> Iterator[tuple[str, str, str, Latency]]:
    """Yield every (runtime, threads, batch, latency) of a model."""
    for runtime, by_threads in model.latency_us.items():
        for threads, by_batch in by_threads.items():
            for batch, measured in by_batch.items():
                yield runtime, threads, batch, measured


def grid(models: list[ModelFacts]) -> list[tuple[str, str]]:
    """Return every (threads, batch) for which a model was timed."""
    return list(dict.fromkeys(setting[1:3] for model in models for setting in settings(model)))


def latency(model: ModelFacts, runtime: str, threads: str, batch: str) -> Latency | None:
    """Return a model's latency in a setting; None if it was not measured."""
    return model.latency_us.get(runtime, {}).get(threads, {}).get(batch)


def _of_models(receipt: Receipt, columns: tuple[str, ...], rows: list[tuple[str, ...]], caption: str) -> Table:
    """Return a table with a row for each model; a rule separates the controls."""
    breaks = (len(receipt.models),) if receipt.models and receipt.controls else ()
    return Table(columns, tuple(rows), caption, breaks=breaks)


def _quality(model: ModelFacts) -> tuple[str, str, str]:
    if model.accuracy is None:
        return (spell.ABSENT,) * 3
    return spell.accuracy(model.accuracy), f"{model.accuracy.nll:.4f}", spell.percent(model.accuracy.ece, 2)


def _in_c(model: ModelFacts) -> tuple[str, str]:
    cost = model.embedded
    return (spell.count(cost.flash_bytes), spell.count(cost.ram_bytes)) if cost else (spell.ABSENT, spell.ABSENT)


def _seconds(model: ModelFacts) -> str:
    return spell.ABSENT if model.seconds is None else f"{model.seconds:.1f}"
