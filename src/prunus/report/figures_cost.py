"""Figures on what the models cost: parameters, bytes, time."""

from __future__ import annotations

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from prunus.receipt import ModelFacts, Receipt
from prunus.report import claims, drawing, spell
from prunus.report.drawing import Figure

# with more settings than this the first are drawn; the table has them all
DRAWN_SETTINGS = 8


def parameters(receipt: Receipt) -> Figure | None:
    """Draw how many parameters of each model are zero and how many are not; None where there is no model."""
    models, look = list(receipt.models), drawing.marks(receipt)
    if not models:
        return None
    names, colours = drawing.texts(model.name for model in models), [look[model.name].colour for model in models]
    drawn = go.Figure()
    hover = "%{y}: %{x:,} %{fullData.name}<extra></extra>"
    bars = {"orientation": "h", "y": names, "cliponaxis": False, "hovertemplate": hover}
    drawn.add_bar(x=[model.nonzero for model in models], name="nonzero", marker={"color": colours}, **bars)
    drawn.add_bar(
        x=[claims.zeros(model) for model in models],
        name="zero",
        marker={"color": colours, "opacity": 0.3},
        text=[f"{spell.count(model.nonzero)} of {spell.count(model.parameters)}" for model in models],
        textposition="outside",
        **bars,
    )
    said = [f"{spell.plain(m.name)} {spell.count(m.nonzero)} of {spell.count(m.parameters)}" for m in models]
    return drawing.figure(
        "parameters",
        f"Nonzero parameters: {'; '.join(said)}.",
        drawn,
        height=66 + 50 * len(models),
        note="Nonzero parameters of all: the strong part of a bar is used, the pale part is zeros, still stored.",
        barmode="stack",
        showlegend=False,
        xaxis={"title": {"text": "parameters"}, "range": [0, 1.35 * max(model.parameters for model in models)]},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def sizes(receipt: Receipt) -> Figure | None:
    """Draw the bytes of each model in each format; None where they were not measured."""
    models, look = [model for model in receipt.models if model.bytes], drawing.marks(receipt)
    formats = list(dict.fromkeys(form for model in models for form in model.bytes))
    if not formats:
        return None
    drawn = go.Figure()
    for model, name in zip(models, drawing.texts(model.name for model in models), strict=True):
        found = [model.bytes.get(form) for form in formats]
        drawn.add_bar(
            x=found,
            y=drawing.texts(formats),
            orientation="h",
            name=name,
            marker={"color": look[model.name].colour},
            text=["" if size is None else spell.count(size) for size in found],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:,} bytes",
        )
    compared = spell.listing([spell.plain(model.name) for model in models])
    return drawing.figure(
        "bytes",
        f"Bytes of {compared} as {spell.listing([spell.plain(form) for form in formats])}.",
        drawn,
        height=100 + 24 * len(formats) * len(models) + 14 * len(formats),
        top=36,
        note="Bytes of the same weights as a plain safetensors file, and after a general compressor.",
        barmode="group",
        xaxis={"title": {"text": "bytes"}, "range": [0, 1.25 * max(max(model.bytes.values()) for model in models)]},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def latency(receipt: Receipt) -> Figure | None:
    """Draw the time of a call in each setting with its spread; None where it was not measured."""
    models = [model for model in (*receipt.models, *receipt.controls) if model.latency_us]
    settings = list(dict.fromkeys(setting[:3] for model in models for setting in claims.settings(model)))
    drawn_settings = settings[:DRAWN_SETTINGS]
    if not drawn_settings:
        return None
    columns = min(2, len(drawn_settings))
    rows = -(-len(drawn_settings) // columns)
    titles = [_title(*setting) for setting in drawn_settings]
    drawn = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=titles,
        shared_yaxes=True,
        vertical_spacing=0.38 / rows,
        horizontal_spacing=0.05,
    )
    for at, setting in enumerate(drawn_settings):
        _panel(drawn, receipt, models, setting, row=at // columns + 1, column=at % columns + 1)
    drawn.update_xaxes(rangemode="tozero")
    drawn.update_yaxes(range=[len(models) - 0.5, -0.5], type="category")
    rest = len(settings) - len(drawn_settings)
    more = f" {spell.plural(rest, 'more setting')} can be read in receipt.json." if rest else ""
    return drawing.figure(
        "latency",
        f"Time of one call in {spell.plural(len(drawn_settings), 'setting')}, median with 10th to 90th percentile.",
        drawn,
        height=44 + rows * (90 + 30 * len(models)),
        top=44,
        note="Dots are medians, bars reach from the 10th to the 90th percentile of single calls. A median is known "
        "better than a single call, so medians can differ where bars overlap: they are called different where "
        f"they are at least {spell.percent(claims.SAME_TIME, 0)} apart and their 95% intervals (not drawn) do not "
        f"overlap.{more}",
        showlegend=False,
    )


def _panel(
    drawn: go.Figure, receipt: Receipt, models: list[ModelFacts], setting: tuple[str, str, str], row: int, column: int
) -> None:
    look = drawing.marks(receipt)
    found = [claims.latency(model, *setting) for model in models]
    unit, size = spell.time_unit(max(measured.p90 for measured in found if measured))
    drawn.update_xaxes(ticksuffix=unit, row=row, col=column)
    for model, name in zip(models, drawing.texts(model.name for model in models), strict=True):
        measured = claims.latency(model, *setting)
        if measured is None:
            continue
        mark = look[model.name]
        drawn.add_scatter(
            x=[measured.median / size],
            y=[name],
            error_x=drawing.errors(measured.median / size, measured.p10 / size, measured.p90 / size, mark.colour),
            mode="markers",
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 10},
            hovertemplate=f"{spell.spread(measured.median, measured.p10, measured.p90)}<extra>{name}</extra>",
            row=row,
            col=column,
        )


def _title(runtime: str, threads: str, batch: str) -> str:
    number = spell.plural(int(threads), "thread") if threads.isdecimal() else f"{threads} threads"
    return f"{drawing.text(f'{runtime}, {number}')}<br>batch {drawing.text(batch)}"
