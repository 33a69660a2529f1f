"""Figures of time: of one call in each setting, and the break-even curve."""

from __future__ import annotations

from collections.abc import Sequence

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from prunus.lab.report import drawing
from prunus.lab.report.drawing import Figure
from prunus.measuring import overview, spell
from prunus.measuring.receipt import BreakEvenPoint, ModelFacts, Receipt

# the largest number of settings drawn; the table has all of them
DRAWN_SETTINGS = 8

# the name of a row, the model, and the runtime
Row = tuple[str, ModelFacts, str]


def latency(receipt: Receipt) -> Figure | None:
    """Draw the time of a call in each setting with its spread; None if it was not measured.

    One panel for each number of threads and batch, in it one row for each model, below each other by runtime.
    """
    models = [model for model in overview.everything(receipt) if model.latency_us]
    settings = overview.grid(models)
    if not settings:
        return None
    rows, drawn_settings = _rows(models), settings[:DRAWN_SETTINGS]
    columns = min(2, len(drawn_settings))
    lines = -(-len(drawn_settings) // columns)
    height = 90 + 24 * len(rows)
    drawn = make_subplots(
        rows=lines,
        cols=columns,
        subplot_titles=[drawing.text(spell.setting(*setting)) for setting in drawn_settings],
        shared_yaxes=True,
        vertical_spacing=64 / (lines * height),
        horizontal_spacing=0.05,
    )
    for at, setting in enumerate(drawn_settings):
        _panel(drawn, receipt, rows, setting, row=at // columns + 1, column=at % columns + 1)
    drawn.update_xaxes(rangemode="tozero")
    drawn.update_yaxes(
        range=[len(rows) - 0.5, -0.5], type="category", categoryorder="array", categoryarray=[name for name, *_ in rows]
    )
    return drawing.figure(
        "latency",
        f"Time of one call in {spell.plural(len(drawn_settings), 'setting')}, median with 10th to 90th percentile.",
        drawn,
        height=44 + lines * height,
        top=44,
        note="Dots are medians, bars reach from the 10th to the 90th percentile of single calls: medians can differ "
        "where bars overlap.",
        showlegend=False,
    )


def break_even(receipt: Receipt) -> Figure | None:
    """Draw the time of programs by sparsity, and of the dense model in other runtimes; None without the curve."""
    curve = receipt.break_even
    if curve is None:
        return None
    programs = {"program of prunus": (curve.points, curve.sparsity)}
    if curve.in_8_bits:
        programs["program in 8 bits, zeros in blocks"] = curve.in_8_bits, curve.sparsity_in_8_bits
    times = (*curve.dense_us.values(), *(point.latency_us for points, _ in programs.values() for point in points))
    unit, size = spell.time_unit(max(time.p90 for time in times))
    drawn = go.Figure()
    for at, (name, (points, sparsity)) in enumerate(programs.items()):
        _curve(drawn, name, points, drawing.COLOURS[at], (unit, size))
        if sparsity is not None:
            _mark(drawn, sparsity, drawing.COLOURS[at], height=1 - 0.08 * at)
    for at, (runtime, time) in enumerate(curve.dense_us.items(), start=len(programs)):
        name = f"dense in {drawing.text(spell.runtime(runtime))}"
        drawn.add_scatter(
            x=[0, 100],
            y=[time.median / size] * 2,
            mode="lines",
            name=name,
            line={"color": drawing.COLOURS[at % len(drawing.COLOURS)], "dash": "dash", "width": 2},
            hovertemplate=f"{spell.latency(time)}<extra>{name}</extra>",
        )
    figures = [
        f"{name}: "
        + ", ".join(f"{spell.percent(p.sparsity, 0)} {spell.microseconds(p.latency_us.median)}" for p in points)
        for name, (points, _) in programs.items()
    ]
    where = spell.setting(str(curve.threads), str(curve.batch))
    return drawing.figure(
        "break-even",
        f"Time of a call by sparsity, {where}; {'; '.join(figures)}.",
        drawn,
        height=400,
        top=64,
        note="Solid lines are programs of prunus, dashed lines the dense network in other runtimes; bars reach from "
        "the 10th to the 90th percentile.",
        xaxis={"title": {"text": "sparsity of the pruned weights"}, "ticksuffix": "%", "range": [-2, 102]},
        yaxis={"title": {"text": "time of one call"}, "ticksuffix": unit, "rangemode": "tozero"},
    )


def _mark(drawn: go.Figure, sparsity: float, colour: str, height: float) -> None:
    """Mark where a program becomes the fastest; the height of its words is a share of the picture's."""
    drawn.add_vline(x=100 * sparsity, line={"color": colour, "dash": "dot", "width": 2})
    drawn.add_annotation(
        x=100 * sparsity,
        y=height,
        yref="paper",
        yanchor="top",
        xanchor="left",
        showarrow=False,
        text=f" break-even: {spell.percent(sparsity, 0)}",
    )


def _curve(drawn: go.Figure, name: str, points: Sequence[BreakEvenPoint], colour: str, scale: tuple[str, int]) -> None:
    unit, size = scale
    times = [point.latency_us for point in points]
    drawn.add_scatter(
        x=[100 * point.sparsity for point in points],
        y=[time.median / size for time in times],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [(time.p90 - time.median) / size for time in times],
            "arrayminus": [(time.median - time.p10) / size for time in times],
            "color": colour,
            "thickness": 2,
            "width": 4,
        },
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 2},
        marker={"color": colour, "size": 8},
        hovertemplate=f"%{{x:.0f}}: %{{y:.3g}}{unit}<extra>{name}</extra>",
    )


def _rows(models: list[ModelFacts]) -> list[Row]:
    """Return a row for each runtime and each model that was timed in it."""
    runtimes = list(dict.fromkeys(runtime for model in models for runtime in model.latency_us))
    names = dict(zip((id(model) for model in models), drawing.texts(model.name for model in models), strict=True))
    several = len(runtimes) > 1
    return [
        (f"{drawing.text(spell.runtime(runtime))}: {names[id(model)]}" if several else names[id(model)], model, runtime)
        for runtime in runtimes
        for model in models
        if runtime in model.latency_us
    ]


def _panel(
    drawn: go.Figure, receipt: Receipt, rows: list[Row], setting: tuple[str, str], row: int, column: int
) -> None:
    look = drawing.marks(receipt)
    times = [overview.latency(model, runtime, *setting) for _, model, runtime in rows]
    unit, size = spell.time_unit(max(measured.p90 for measured in times if measured))
    drawn.update_xaxes(ticksuffix=unit, row=row, col=column)
    for (name, model, _), measured in zip(rows, times, strict=True):
        if measured is None:
            continue
        mark = look[model.name]
        drawn.add_scatter(
            x=[measured.median / size],
            y=[name],
            error_x=drawing.errors(measured.median / size, measured.p10 / size, measured.p90 / size, mark.colour),
            mode="markers",
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 10},
            hovertemplate=f"{spell.latency(measured)}<extra>{name}</extra>",
            row=row,
            col=column,
        )
