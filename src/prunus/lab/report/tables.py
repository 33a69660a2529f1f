"""A receipt at the terminal: tables that fit 100 columns, then the words."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.lab.report import accuracy_sentences, claims, sentences, spell, steps
from prunus.measuring.receipt import Accuracy, Latency, LayerFacts, ModelFacts, Receipt

# a larger model's layers are cut here; the page lists them all
LISTED_LAYERS = 40
# what the renderer puts between two columns
GAP = 2


def show(receipt: Receipt, console: Console) -> None:
    """Print a receipt: one row per model, then per layer, then the words."""
    parts = [
        title(receipt),
        models(receipt),
        road(receipt),
        costs(receipt),
        *latencies(receipt, console.width),
        layers(receipt),
        words(receipt),
    ]
    for part in filter(None, parts):
        console.print(part)
        console.print()


def title(receipt: Receipt) -> Text:
    """Return one line: which recipe, which seed, on which data; models compared without a recipe have no seed."""
    made = [str(receipt.recipe.get("name", "")), f"seed {receipt.seed}"] if receipt.recipe else ["models compared"]
    data = [f"{receipt.data.name}: {spell.plural(receipt.data.test, 'test image')}"] if receipt.data else []
    return Text(spell.plain(" · ".join(filter(None, [*made, *data]))), style="bold")


def models(receipt: Receipt) -> Table:
    """Return what each model holds and, where any was tested, how often it is right."""
    tested = any(model.accuracy for model in (*receipt.models, *receipt.controls))
    quality = ("accuracy\n[95% interval]", "NLL", "ECE") if tested else ()
    table = table_of("\nmodel" if tested else "model", ("parameters", "nonzero", "sparsity", *quality))
    for model in _with_controls(receipt, table):
        held = (spell.count(model.parameters), spell.count(model.nonzero), spell.percent(model.sparsity))
        table.add_row(_label(receipt, model), *held, *(_quality(model.accuracy) if tested else ()))
    return table


def costs(receipt: Receipt) -> Table | None:
    """Return what each model takes: bytes, multiply-adds, memory; None where nothing of it was measured."""
    measured = [*receipt.models, *receipt.controls]
    formats = list(dict.fromkeys(form for model in measured for form in model.bytes))
    if not formats and all(model.macs is None and model.peak_memory_bytes is None for model in measured):
        return None
    columns = [f"{spell.plain(form)}\nbytes" for form in formats]
    table = table_of("\nmodel", [*columns, "multiply-\nadds", "of them\nnonzero", "peak\nmemory"])
    for model in _with_controls(receipt, table):
        sizes = [_optional(model.bytes.get(form)) for form in formats]
        arithmetic = [_optional(model.macs), _optional(model.nonzero_macs)]
        table.add_row(_label(receipt, model), *sizes, *arithmetic, _optional(model.peak_memory_bytes))
    return table


def road(receipt: Receipt) -> Table | None:
    """Return what each step saved; None where the receipt is not of a run that shrank and packed its model."""
    found = steps.steps(receipt)
    if not found:
        return None
    times = [heading.replace(", ", "\n") for heading in steps.time_columns(found)]
    table = table_of("\nwhat each\nstep saved", [*(f"\n\n{column}" for column in steps.COLUMNS), *times])
    for name, cells in (rows := steps.rows(found)):
        if name == rows[-1][0]:
            table.add_section()
        table.add_row(Text(name, style="bold"), *("\n".join(filter(None, cell)) for cell in cells))
    table.caption = "the file: plain (safetensors) until the last step packs it"
    return table


def latencies(receipt: Receipt, width: int) -> list[Table]:
    """Return the time of one call, a row per model and runtime, in as many tables as the width asks for."""
    timed = claims.timed(receipt)
    runtimes = list(dict.fromkeys(runtime for model in timed for runtime in model.latency_us))
    rows = [(runtime, model) for runtime in runtimes for model in timed if runtime in model.latency_us]
    columns = [
        [_setting(*s), *(_time(claims.latency(model, runtime, *s)) for runtime, model in rows)]
        for s in claims.grid(timed)
    ]
    rest = width - max((len(spell.plain(model.name)) for model in timed), default=0)
    if len(runtimes) > 1:
        rest -= GAP + max(len(spell.runtime(runtime)) for runtime in runtimes)
    widest = max((len(line) for column in columns for cell in column for line in cell.split("\n")), default=1)
    at_once = max(1, rest // (widest + GAP))
    return [_latency_table(receipt, rows, columns[at : at + at_once]) for at in range(0, len(columns), at_once)]


def layers(receipt: Receipt) -> Table | None:
    """Return the last model's layers, with what they held in the first one."""
    if not receipt.models or not receipt.models[-1].layers:
        return None
    before = {layer.name: layer for layer in receipt.models[0].layers}
    last = receipt.models[-1]
    columns = ("shape", "parameters", "nonzero\nbefore", "nonzero\nnow", "sparsity", "multiply-\nadds")
    table = table_of(f"layer of\n{spell.plain(last.name)}", columns)
    for layer in last.layers[:LISTED_LAYERS]:
        was = before.get(layer.name)
        table.add_row(
            spell.plain(layer.name),
            _shapes(was, layer),
            spell.count(layer.parameters),
            _optional(was.nonzero if was else None),
            spell.count(layer.nonzero),
            spell.percent(layer.sparsity),
            _optional(layer.macs),
        )
    hidden = len(last.layers) - LISTED_LAYERS
    if hidden > 0:
        table.caption = f"and {spell.plural(hidden, 'more layer')}; receipt.json and report.html list them all"
    return table


def words(receipt: Receipt) -> Table:
    """Return the words, one topic a row."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for topic, sentence in sentences.paragraphs(receipt):
        grid.add_row(Text(topic), Text(sentence))
    return grid


def _shapes(was: LayerFacts | None, now: LayerFacts) -> str:
    """Spell a layer's shape, and in the line above the one it had, if that was another."""
    changed = was is not None and was.shape != now.shape
    return f"{spell.shape(was.shape)} →\n{spell.shape(now.shape)}" if was and changed else spell.shape(now.shape)


def _latency_table(receipt: Receipt, rows: list[tuple[str, ModelFacts]], columns: list[list[str]]) -> Table:
    """Name the runtime at the top where there is one, else in front of its first row."""
    (only,) = runtimes if len(runtimes := {runtime for runtime, _ in rows}) == 1 else ("",)
    first = f"time of one call\nin {spell.runtime(only)}" if only else "time of\none call"
    table = table_of(first, [*([] if only else [""]), *(header for header, *_ in columns)])
    before = ""
    for at, (runtime, model) in enumerate(rows, start=1):
        if before not in ("", runtime):
            table.add_section()
        named = [] if only else [spell.runtime(runtime) if runtime != before else ""]
        table.add_row(_label(receipt, model), *named, *(column[at] for column in columns))
        before = runtime
    table.caption = "median [10th, 90th percentile]"
    return table


def _setting(threads: str, batch: str) -> str:
    return f"{spell.threads(threads)}\nbatch {spell.plain(batch)}"


def _quality(measured: Accuracy | None) -> tuple[str, str, str]:
    if measured is None:
        return (spell.ABSENT,) * 3
    reached = accuracy_sentences.with_interval(measured)
    return reached, f"{measured.nll:.3f}", spell.percent(measured.ece, 2)


def _time(measured: Latency | None) -> str:
    return spell.spread(measured.median, measured.p10, measured.p90) if measured else spell.ABSENT


def _with_controls(receipt: Receipt, table: Table) -> Iterable[ModelFacts]:
    """Yield the models, then a line across the table, then the controls."""
    yield from receipt.models
    if receipt.controls:
        table.add_section()
        yield from receipt.controls


def _label(receipt: Receipt, model: ModelFacts) -> Text:
    is_control = any(model is control for control in receipt.controls)
    return Text(spell.plain(model.name), style="italic" if is_control else "bold")


def _optional(number: int | None) -> str:
    return spell.ABSENT if number is None else spell.count(number)


def table_of(first: str, columns: Iterable[str]) -> Table:
    """Return an empty table: names to the left, figures to the right under `columns`."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False, caption_justify="left")
    table.add_column(Text(first), overflow="fold")
    for column in columns:
        table.add_column(Text(column), justify="right", overflow="fold")
    return table
