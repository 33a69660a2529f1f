"""Figures of cost: parameters, bytes, and widths of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plotly import graph_objects as go

from prunus.lab.report import claims, drawing
from prunus.lab.report.drawing import Figure
from prunus.measuring import spell
from prunus.measuring.receipt import ModelFacts, Receipt

# the largest number of bars; the table lists every layer
DRAWN_BARS = 40


def parameters(receipt: Receipt) -> Figure | None:
    """Draw the numbers of zero and nonzero parameters of each model; None if there is no model."""
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
        text=[_nonzero(model) for model in models],
        textposition="outside",
        **bars,
    )
    return drawing.figure(
        "parameters",
        f"Nonzero parameters: {'; '.join(f'{spell.plain(model.name)} {_nonzero(model)}' for model in models)}.",
        drawn,
        height=66 + 50 * len(models),
        note="Nonzero parameters of all: the strong part of a bar is used, the pale part is zeros, still stored.",
        barmode="stack",
        showlegend=False,
        xaxis={"title": {"text": "parameters"}, "range": [0, 1.5 * max(model.parameters for model in models)]},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def _nonzero(model: ModelFacts) -> str:
    if not claims.zeros(model):
        return spell.count(model.parameters)
    return f"{spell.count(model.nonzero)} of {spell.count(model.parameters)}"


def sizes(receipt: Receipt) -> Figure | None:
    """Draw the bytes of each model in each format; None if they were not measured."""
    models, look = [model for model in receipt.models if model.bytes], drawing.marks(receipt)
    formats = list(dict.fromkeys(form for model in models for form in model.bytes))
    if not formats:
        return None
    bars = [(model.name, look[model.name].colour, [model.bytes.get(form) for form in formats]) for model in models]
    compared = spell.listing([spell.plain(model.name) for model in models])
    return _grouped(
        "bytes",
        f"Bytes of {compared} as {spell.listing([spell.plain(form) for form in formats])}.",
        formats,
        bars,
        unit="bytes",
        note="Bytes of the same weights as a plain safetensors file, after a general compressor, and packed.",
    )


def widths(receipt: Receipt) -> Figure | None:
    """Draw the number of outputs of each layer in the first and the last model; None if no layer is narrower."""
    if len(receipt.models) < 2:
        return None
    first, last = receipt.models[0], receipt.models[-1]
    after = {layer.name: layer.shape[0] for layer in last.layers}
    before = {layer.name: layer.shape[0] for layer in first.layers if layer.name in after}
    names = list(before)[:DRAWN_BARS]
    if all(before[name] == after[name] for name in names):
        return None
    look = drawing.marks(receipt)
    part = f" The first {DRAWN_BARS} layers are drawn." if len(before) > DRAWN_BARS else ""
    return _grouped(
        "widths",
        "Outputs of each layer before and after: "
        f"{'; '.join(f'{spell.plain(name)} {before[name]} to {after[name]}' for name in names[:12])}.",
        names,
        [
            (model.name, look[model.name].colour, [width[name] for name in names])
            for model, width in ((first, before), (last, after))
        ],
        unit="outputs",
        note=f"Outputs (channels, neurons) of each layer in {spell.plain(first.name)} and in {spell.plain(last.name)}; "
        f"those that are missing were taken out.{part}",
    )


def _grouped(
    id: str,
    label: str,
    rows: Sequence[str],
    bars: Sequence[tuple[str, str, Sequence[int | None]]],
    *,
    unit: str,
    note: str,
) -> Figure:
    """Draw rows of bars side by side; each bar is (name, colour, one figure per row)."""
    drawn, names = go.Figure(), drawing.texts(rows)
    for (_, colour, figures), name in zip(bars, drawing.texts(name for name, *_ in bars), strict=True):
        marks: dict[str, Any] = {"name": name, "marker": {"color": colour}, "cliponaxis": False}
        drawn.add_bar(
            x=list(figures),
            y=names,
            orientation="h",
            text=["" if figure is None else spell.count(figure) for figure in figures],
            textposition="outside",
            hovertemplate=f"%{{y}}: %{{x:,}} {unit}",
            **marks,
        )
    most = max(figure or 0 for *_, figures in bars for figure in figures)
    return drawing.figure(
        id,
        label,
        drawn,
        height=100 + (20 * len(bars) + 12) * len(names),
        top=36,
        note=note,
        barmode="group",
        xaxis={"title": {"text": unit}, "range": [0, 1.25 * most]},
        yaxis={"autorange": "reversed", "type": "category"},
    )
