"""Figures of weights: histograms, the pruning threshold, and the sparsity of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plotly import graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from prunus.lab.report import distributions, drawing
from prunus.lab.report.distributions import Bins, Histogram
from prunus.lab.report.drawing import Figure
from prunus.measuring import spell
from prunus.measuring.receipt import ModelFacts, Receipt
from prunus.pruning.masks import Masks

DRAWN_LAYERS = 8
REMOVED = {"color": drawing.GREY, "opacity": 0.6}
# the largest number of bars; the table lists every layer
DRAWN_BARS = 60


def spread(receipt: Receipt, weights: Mapping[str, Mapping[str, Tensor]], masks: Masks) -> Figure:
    """Draw a histogram of the prunable weights of each model, with the removed weights of the dense one marked.

    Args:
        receipt: gives the models their colours.
        weights: the state dict of each model, the dense one first.
        masks: which weights live; only their parameters are drawn.
    """
    taken = {model: [state[name] for name in masks] for model, state in weights.items()}
    dense = next(iter(weights.values()))
    cut = distributions.cut(dense, masks)
    threshold = cut.middle if cut and cut.clean else None
    into = distributions.bins(max(distributions.drawn_limit(tensors) for tensors in taken.values()), threshold)
    counts = {model: distributions.histogram(tensors, into) for model, tensors in taken.items()}
    kept = distributions.histogram((dense[name] * mask for name, mask in masks.items()), into)
    drawn = _panels(receipt, into, counts, kept)
    for place in (-threshold, threshold) if threshold else ():
        drawn.add_vline(x=place, line={"dash": "dash", "width": 1.5, "color": "#D55E00"}, row="all", col=1)
    words = threshold_words(dense, masks)
    return drawing.figure(
        "weights",
        f"Histograms of {spell.plural(masks.num_weights, 'prunable weight')} in {spell.listing(list(counts))}, "
        f"{spell.count(masks.num_pruned)} of them removed. {words}",
        drawn,
        height=60 + 190 * len(counts),
        top=28,
        note=words + _outside_words(counts),
        barmode="stack",
        bargap=0,
        showlegend=False,
    )


def threshold_words(dense: Mapping[str, Tensor], masks: Masks) -> str:
    """Say which threshold separates removed from kept weights, or that there is none."""
    cut = distributions.cut(dense, masks)
    if cut is None:
        return "The masks remove no weight, or every weight, so there is no threshold."
    low, high = _told_apart(cut.largest_removed, cut.smallest_kept)
    if cut.clean:
        return (
            f"One threshold explains the choice (dashed lines): the largest weight removed has |w| = {low}, "
            f"the smallest kept {high}."
        )
    alone = [distributions.cut(dense, Masks({name: mask})) for name, mask in masks.items()]
    if all(cut.clean for cut in alone if cut):
        return "Each layer was cut at a threshold of its own, so the bars overlap here."
    return (
        f"No threshold on the dense weights explains the choice: weights up to |w| = {low} went, while others as "
        f"small as {high} stayed."
    )


def by_layer(weights: Mapping[str, Tensor], masks: Masks, colour: str) -> Figure:
    """Draw each layer's dense weights, kept and removed; of many layers the first and the last ones."""
    names = _first_and_last(list(masks), DRAWN_LAYERS)
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    shown = zip(names, drawing.texts(names), strict=True)
    titles = [f"{label}<br>{spell.percent(_share(masks[name]))} removed" for name, label in shown]
    drawn = make_subplots(
        rows=rows, cols=columns, subplot_titles=titles, vertical_spacing=0.4 / rows, horizontal_spacing=0.08
    )
    for at, name in enumerate(names):
        _layer_panel(drawn, weights[name], masks[name], colour, at // columns + 1, at % columns + 1)
    part = f" {len(names)} of {len(masks)} layers are drawn." if len(names) < len(masks) else ""
    return drawing.figure(
        "weights-by-layer",
        f"Histograms of the dense weights in {spell.plural(len(names), 'layer')}, removed ones marked.",
        drawn,
        height=40 + 200 * rows,
        top=44,
        note=f"The same layer by layer, each with its own scale.{part}",
        barmode="stack",
        bargap=0,
        showlegend=False,
    )


def layer_sparsity(receipt: Receipt, model: ModelFacts) -> Figure:
    """Draw the fraction of zeros in each layer."""
    layers = model.layers[:DRAWN_BARS]
    drawn = go.Figure()
    drawn.add_bar(
        x=[100 * layer.sparsity for layer in layers],
        y=drawing.texts(layer.name for layer in layers),
        orientation="h",
        marker={"color": drawing.marks(receipt)[model.name].colour},
        text=[spell.percent(layer.sparsity) for layer in layers],
        customdata=[f"{spell.count(x.parameters - x.nonzero)} of {spell.count(x.parameters)}" for x in layers],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}<br>%{text}: %{customdata}<extra></extra>",
    )
    most = max(model.sparsity, *(layer.sparsity for layer in layers)) or 1.0
    drawn.add_vline(x=100 * model.sparsity, line={"dash": "dash", "width": 1.5, "color": drawing.GREY})
    figures = [f"{spell.plain(layer.name)} {spell.percent(layer.sparsity)}" for layer in layers[:12]]
    part = f" The first {DRAWN_BARS} of {len(model.layers)} layers are drawn." if len(model.layers) > DRAWN_BARS else ""
    return drawing.figure(
        "layer-sparsity",
        f"Share of zeros in each layer: {'; '.join(figures)}.",
        drawn,
        height=66 + 32 * len(layers),
        note=f"The share of each layer that is zero in {spell.plain(model.name)}; "
        f"the dashed line is the whole model's {spell.percent(model.sparsity)}.{part}",
        xaxis={"title": {"text": "zeros, % of the layer"}, "range": [0, 115 * most]},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def _panels(receipt: Receipt, into: Bins, counts: Mapping[str, Histogram], kept: Histogram) -> go.Figure:
    """Draw one histogram per model; in the first, removed weights are stacked on kept ones."""
    titles = [_panel_title(model, histogram) for model, histogram in counts.items()]
    drawn = make_subplots(rows=len(counts), cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=titles)
    look = drawing.marks(receipt)
    for row, (model, histogram) in enumerate(counts.items(), start=1):
        colour = look[model].colour if model in look else drawing.GREY
        shown = kept if row == 1 else histogram
        _bars(drawn, into, shown.counts, {"color": colour}, drawing.text(model), row)
        if row == 1:
            _bars(drawn, into, _difference(histogram, kept), REMOVED, "removed", row)
    drawn.update_xaxes(title_text="weight", row=len(counts), col=1)
    drawn.update_yaxes(title_text="weights", rangemode="tozero")
    return drawn


def _layer_panel(drawn: go.Figure, weight: Tensor, mask: Tensor, colour: str, row: int, column: int) -> None:
    cut = distributions.cut({"": weight}, Masks({"": mask}))
    threshold = cut.middle if cut and cut.clean else None
    into = distributions.bins(distributions.drawn_limit([weight]), threshold, half=30)
    whole, kept = (distributions.histogram([values], into) for values in (weight, weight * mask))
    _bars(drawn, into, kept.counts, {"color": colour}, "kept", row, column)
    _bars(drawn, into, _difference(whole, kept), REMOVED, "removed", row, column)


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


def _panel_title(model: str, histogram: Histogram) -> str:
    zeros = f": {spell.plural(histogram.zeros, 'weight')} exactly 0, not drawn" if histogram.zeros else ""
    return drawing.text(model) + zeros


def _outside_words(counts: Mapping[str, Histogram]) -> str:
    outside = max(histogram.outside for histogram in counts.values())
    return f" Up to {spell.plural(outside, 'weight')} a model lie outside the picture." if outside else ""


def _told_apart(low: float, high: float) -> tuple[str, str]:
    """Format two values with enough digits to see which is larger."""
    digits = next((d for d in range(4, 17) if f"{low:.{d}g}" != f"{high:.{d}g}"), 4)
    return f"{low:.{digits}g}", f"{high:.{digits}g}"


def _share(mask: Tensor) -> float:
    return 1 - int(mask.sum()) / mask.numel() if mask.numel() else 0.0


def _first_and_last(names: list[str], most: int) -> list[str]:
    return names if len(names) <= most else names[: most // 2] + names[-(most // 2) :]
