"""Figures on the weights: how they are spread, where they were cut, and which layers they went from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plotly import graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from prunus.masks import Masks
from prunus.receipt import ModelFacts, Receipt
from prunus.report import distributions, drawing, spell
from prunus.report.distributions import Bins, Cut, Histogram
from prunus.report.drawing import Figure

DRAWN_LAYERS = 8
REMOVED = {"color": drawing.GREY, "opacity": 0.6}
# bars of a page's height; the table lists every layer
DRAWN_BARS = 60


def spread(receipt: Receipt, weights: Mapping[str, Mapping[str, Tensor]], masks: Masks) -> Figure:
    """Draw how the prunable weights are spread in each model, the dense one's removed weights marked.

    Args:
        receipt: gives the models their colours.
        weights: the state dict of each model, the dense one first.
        masks: which weights live; only their parameters are drawn.
    """
    taken = {model: [state[name] for name in masks] for model, state in weights.items()}
    dense, look = next(iter(weights)), drawing.marks(receipt)
    threshold = distributions.cut(weights[dense], masks)
    edges = threshold.middle if threshold and threshold.clean else None
    into = distributions.bins(max(distributions.drawn_limit(tensors) for tensors in taken.values()), edges)
    counts = {model: distributions.histogram(tensors, into) for model, tensors in taken.items()}
    kept = distributions.histogram((weights[dense][name] * mask for name, mask in masks.items()), into)
    drawn = make_subplots(
        rows=len(counts),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.09,
        subplot_titles=[_panel_title(model, found) for model, found in counts.items()],
    )
    for row, (model, found) in enumerate(counts.items(), start=1):
        colour = look[model].colour if model in look else drawing.GREY
        shown = kept if model == dense else found
        _bars(drawn, into, shown.counts, {"color": colour}, drawing.text(model), row)
        if model == dense:
            _bars(drawn, into, _difference(found, kept), REMOVED, "removed", row)
    if edges is not None:
        _lines(drawn, edges)
    drawn.update_xaxes(title_text="weight", row=len(counts), col=1)
    drawn.update_yaxes(title_text="weights", rangemode="tozero")
    return drawing.figure(
        "weights",
        f"Histograms of {spell.plural(masks.num_weights, 'prunable weight')} in {spell.listing(list(counts))}, "
        f"{spell.count(masks.num_pruned)} of them removed. {threshold_words(threshold)}",
        drawn,
        height=60 + 190 * len(counts),
        top=28,
        note=threshold_words(threshold) + _outside_words(counts),
        barmode="stack",
        bargap=0,
        showlegend=False,
    )


def threshold_words(found: Cut | None) -> str:
    """Say where the weights were cut, or that no single threshold explains it."""
    if found is None:
        return "The masks remove no weight, or every weight, so there is no threshold."
    low, high = _told_apart(found.largest_removed, found.smallest_kept)
    if found.clean:
        return (
            f"One threshold explains the choice (dashed lines): the largest weight removed has |w| = {low}, "
            f"the smallest kept {high}."
        )
    return (
        f"No single threshold on the dense weights explains the choice: weights up to |w| = {low} went, "
        f"while others as small as {high} stayed."
    )


def by_layer(weights: Mapping[str, Tensor], masks: Masks, colour: str) -> Figure:
    """Draw each layer's dense weights, kept and removed; of many layers the first and the last ones."""
    names = _first_and_last(list(masks), DRAWN_LAYERS)
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    titles = [
        f"{name}: {_removed_share(masks[raw])} removed" for raw, name in zip(names, drawing.texts(names), strict=True)
    ]
    drawn = make_subplots(
        rows=rows, cols=columns, subplot_titles=titles, vertical_spacing=0.3 / rows, horizontal_spacing=0.08
    )
    for at, name in enumerate(names):
        threshold = distributions.cut(weights, Masks({name: masks[name]}))
        edges = threshold.middle if threshold and threshold.clean else None
        into = distributions.bins(distributions.drawn_limit([weights[name]]), edges, half=30)
        found = distributions.histogram([weights[name]], into)
        kept = distributions.histogram([weights[name] * masks[name]], into)
        row, column = at // columns + 1, at % columns + 1
        _bars(drawn, into, kept.counts, {"color": colour}, "kept", row, column)
        _bars(drawn, into, _difference(found, kept), REMOVED, "removed", row, column)
    part = f" {len(names)} of {len(masks)} layers are drawn." if len(names) < len(masks) else ""
    return drawing.figure(
        "weights-by-layer",
        f"Histograms of the dense weights in {spell.plural(len(names), 'layer')}, removed ones marked.",
        drawn,
        height=40 + 190 * rows,
        top=28,
        note=f"The same layer by layer, each with its own scale: a layer of small weights loses more of them.{part}",
        barmode="stack",
        bargap=0,
        showlegend=False,
    )


def layer_sparsity(receipt: Receipt, model: ModelFacts) -> Figure:
    """Draw which share of each layer is zero."""
    layers = model.layers[:DRAWN_BARS]
    drawn = go.Figure()
    drawn.add_bar(
        x=[100 * layer.sparsity for layer in layers],
        y=drawing.texts(layer.name for layer in layers),
        orientation="h",
        marker={"color": drawing.marks(receipt)[model.name].colour},
        text=[
            f"{spell.percent(layer.sparsity)}: {spell.count(layer.parameters - layer.nonzero)} of "
            f"{spell.count(layer.parameters)}"
            for layer in layers
        ],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}<br>%{text}<extra></extra>",
    )
    most = max(model.sparsity, *(layer.sparsity for layer in layers)) or 1.0
    drawn.add_vline(x=100 * model.sparsity, line={"dash": "dash", "width": 1.5, "color": drawing.GREY})
    said = [f"{spell.plain(layer.name)} {spell.percent(layer.sparsity)}" for layer in layers[:12]]
    part = f" The first {DRAWN_BARS} of {len(model.layers)} layers are drawn." if len(model.layers) > DRAWN_BARS else ""
    return drawing.figure(
        "layer-sparsity",
        f"Share of zeros in each layer: {'; '.join(said)}.",
        drawn,
        height=66 + 32 * len(layers),
        note=f"The share of each layer that is zero in {spell.plain(model.name)}; "
        f"the dashed line is the whole model's {spell.percent(model.sparsity)}.{part}",
        xaxis={"title": {"text": "zeros, % of the layer"}, "range": [0, 128 * most]},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def _bars(
    drawn: go.Figure,
    into: Bins,
    counts: Sequence[int],
    marker: Mapping[str, object],
    name: str,
    row: int,
    column: int = 1,
) -> None:
    drawn.add_bar(
        x=[float(f"{centre:.5g}") for centre in into.centres],
        y=list(counts),
        width=float(f"{2 * into.limit / into.number:.5g}"),
        name=name,
        marker={"line": {"width": 0}} | dict(marker),
        hovertemplate="w ≈ %{x:.3g}: %{y:,}",
        row=row,
        col=column,
    )


def _difference(whole: Histogram, part: Histogram) -> list[int]:
    return [a - b for a, b in zip(whole.counts, part.counts, strict=True)]


def _lines(drawn: go.Figure, threshold: float) -> None:
    for place in (-threshold, threshold):
        drawn.add_vline(x=place, line={"dash": "dash", "width": 1.5, "color": "#D55E00"}, row="all", col=1)


def _panel_title(model: str, found: Histogram) -> str:
    zeros = f": {spell.plural(found.zeros, 'weight')} exactly 0, not drawn" if found.zeros else ""
    return drawing.text(model) + zeros


def _outside_words(counts: Mapping[str, Histogram]) -> str:
    outside = max(found.outside for found in counts.values())
    return f" Up to {spell.plural(outside, 'weight')} a model lie outside the picture." if outside else ""


def _told_apart(low: float, high: float) -> tuple[str, str]:
    """Spell two values with as many digits as it takes to see which is larger."""
    digits = next((d for d in range(4, 17) if f"{low:.{d}g}" != f"{high:.{d}g}"), 4)
    return f"{low:.{digits}g}", f"{high:.{digits}g}"


def _removed_share(mask: Tensor) -> str:
    return spell.percent(1 - int(mask.sum()) / mask.numel()) if mask.numel() else "none"


def _first_and_last(names: list[str], most: int) -> list[str]:
    return names if len(names) <= most else names[: most // 2] + names[-(most // 2) :]
