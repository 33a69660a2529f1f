"""Figures on what the models cost: parameters and bytes."""

from __future__ import annotations

from plotly import graph_objects as go

from prunus.lab.report import claims, drawing, spell, steps
from prunus.lab.report.drawing import Figure
from prunus.measuring.receipt import ModelFacts, Receipt

# bars of a page's height; the table lists every layer
DRAWN_BARS = 40


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
        text=[_used(model) for model in models],
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
        xaxis={"title": {"text": "parameters"}, "range": [0, 1.5 * max(model.parameters for model in models)]},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def _used(model: ModelFacts) -> str:
    if not claims.zeros(model):
        return spell.count(model.parameters)
    return f"{spell.count(model.nonzero)} of {spell.count(model.parameters)}"


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
        note="Bytes of the same weights as a plain safetensors file, after a general compressor, and packed.",
        barmode="group",
        xaxis={"title": {"text": "bytes"}, "range": [0, 1.25 * max(max(model.bytes.values()) for model in models)]},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def road(receipt: Receipt) -> Figure | None:
    """Draw what each model of the road takes as a plain file and as a packed one; None where none was packed."""
    models = [model for model in receipt.models if "safetensors" in model.bytes and steps.PACKED in model.bytes]
    if not models:
        return None
    names, drawn = drawing.texts(model.name for model in models), go.Figure()
    for form, title, colour in (
        ("safetensors", "plain file", drawing.GREY),
        (steps.PACKED, "packed", drawing.COLOURS[0]),
    ):
        found = [model.bytes[form] for model in models]
        drawn.add_bar(
            x=found,
            y=names,
            orientation="h",
            name=title,
            marker={"color": colour},
            text=[spell.count(size) for size in found],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:,} bytes",
        )
    most = max(model.bytes["safetensors"] for model in models)
    said = [
        f"{spell.plain(m.name)} {spell.count(m.bytes['safetensors'])} and {spell.count(m.bytes['packed'])}"
        for m in models
    ]
    return drawing.figure(
        "road",
        f"Bytes of each model as a plain file and packed: {'; '.join(said)}.",
        drawn,
        height=100 + 52 * len(models),
        top=36,
        note="From the first model to the last, as a plain safetensors file and as a packed one (.prunus). "
        "Only the last packed file is what the run hands out; the others show what packing alone would give.",
        barmode="group",
        xaxis={"title": {"text": "bytes"}, "range": [0, 1.25 * most]},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def widths(receipt: Receipt) -> Figure | None:
    """Draw how many outputs each layer has in the first and the last model; None where no layer became narrower."""
    if len(receipt.models) < 2:
        return None
    first, last = receipt.models[0], receipt.models[-1]
    after = {layer.name: layer.shape[0] for layer in last.layers}
    pairs = [(x.name, x.shape[0], after[x.name]) for x in first.layers if x.name in after][:DRAWN_BARS]
    if all(was == now for _, was, now in pairs):
        return None
    names, look, drawn = drawing.texts(name for name, _, _ in pairs), drawing.marks(receipt), go.Figure()
    for model, at in ((first, 1), (last, 2)):
        drawn.add_bar(
            x=[pair[at] for pair in pairs],
            y=names,
            orientation="h",
            name=drawing.text(model.name),
            marker={"color": look[model.name].colour},
            text=[spell.count(int(pair[at])) for pair in pairs],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:,} outputs",
        )
    part = f" The first {DRAWN_BARS} layers are drawn." if len(pairs) == DRAWN_BARS else ""
    said = [f"{spell.plain(name)} {was} to {now}" for name, was, now in pairs[:12]]
    return drawing.figure(
        "widths",
        f"Outputs of each layer before and after: {'; '.join(said)}.",
        drawn,
        height=100 + 44 * len(pairs),
        top=36,
        note=f"How many outputs (channels, neurons) each layer has in {spell.plain(first.name)} and in "
        f"{spell.plain(last.name)}: those that are missing were taken out, with every weight that led to or from them."
        f"{part}",
        barmode="group",
        xaxis={"title": {"text": "outputs"}, "range": [0, 1.2 * max(was for _, was, _ in pairs)]},
        yaxis={"autorange": "reversed", "type": "category"},
    )
