"""Figures of accuracy: of each model, per class, while training, and when pruned further."""

from __future__ import annotations

import math
from itertools import groupby

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from prunus.lab.report import drawing
from prunus.lab.report.drawing import Figure
from prunus.lab.report.folder import Epoch, Sensitivity
from prunus.measuring import spell
from prunus.measuring.receipt import ModelFacts, Receipt

# the largest number of classes drawn: those that differ most
DRAWN_CLASSES = 20
# with more layers than this, all have the same thin line, since so many colours can't be distinguished
COLOURED_LAYERS = 8
ALL_LAYERS = "all layers"
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
PHASE_SHADES = ("rgba(0,114,178,0.07)", "rgba(213,94,0,0.09)", "rgba(0,158,115,0.09)")


def accuracy(receipt: Receipt) -> Figure:
    """Draw each model's test accuracy with its 95% interval."""
    tested = [model for model in (*receipt.models, *receipt.controls) if model.accuracy]
    look = drawing.marks(receipt)
    drawn = go.Figure()
    for model, name in zip(tested, drawing.texts(model.name for model in tested), strict=True):
        assert model.accuracy is not None
        top1, mark = 100 * model.accuracy.top1, look[model.name]
        low, high = (100 * bound for bound in model.accuracy.ci95)
        drawn.add_scatter(
            x=[top1],
            y=[name],
            error_x=drawing.errors(top1, low, high, mark.colour),
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 12},
            mode="markers+text",
            text=[f"{top1:.2f}"],
            textposition="top center",
            hovertemplate=f"%{{y}}<br>{top1:.2f}% [{low:.2f}, {high:.2f}]<extra></extra>",
        )
    figures = [f"{spell.plain(m.name)} {spell.accuracy(m.accuracy)}" for m in tested if m.accuracy]
    return drawing.figure(
        "accuracy",
        f"Test accuracy with 95% intervals: {'; '.join(figures)}.",
        drawn,
        height=70 + 46 * len(tested),
        showlegend=False,
        xaxis={"title": {"text": "test accuracy, %"}},
        yaxis={"range": [len(tested) - 0.5, -0.75], "type": "category"},
    )


def per_class(receipt: Receipt) -> Figure | None:
    """Draw the accuracy of each class for each model of the run; None if it was not measured."""
    tested = [model for model in receipt.models if model.accuracy and model.accuracy.per_class]
    if not tested:
        return None
    classes, look = _drawn_classes(tested[0], tested[-1]), drawing.marks(receipt)
    drawn = go.Figure()
    for at, (model, name) in enumerate(zip(tested, drawing.texts(m.name for m in tested), strict=True)):
        shift = (at - (len(tested) - 1) / 2) * 0.6 / len(tested)
        drawn.add_scatter(
            x=[place + shift for place in range(len(classes))],
            y=[_percent(_of_class(model, number)) for number in classes],
            name=name,
            mode="markers",
            marker={"color": look[model.name].colour, "symbol": look[model.name].symbol, "size": 10},
            customdata=classes,
            hovertemplate="class %{customdata}: %{y:.2f}%",
        )
    total = len(tested[-1].accuracy.per_class) if tested[-1].accuracy else 0
    part = f" (the {DRAWN_CLASSES} of {total} classes that differ most)" if total > len(classes) else ""
    ticks = {"tickvals": list(range(len(classes))), "ticktext": [str(number) for number in classes]}
    return drawing.figure(
        "per-class",
        f"Test accuracy of each class in {spell.listing([spell.plain(m.name) for m in tested])}{part}.",
        drawn,
        height=330,
        top=36,
        note=f"Test accuracy class by class{part}: a model can keep its average and still lose one class.",
        xaxis={"title": {"text": "class"}, "showgrid": False, "zeroline": False, **ticks},
        yaxis={"title": {"text": "test accuracy, %"}},
    )


def training(log: tuple[Epoch, ...]) -> Figure:
    """Draw loss, accuracy and sparsity over the epochs, the phases shaded."""
    drawn = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.38, 0.42, 0.2])
    epochs = list(range(1, len(log) + 1))
    lines = (
        (1, "loss", [epoch.loss for epoch in log], drawing.COLOURS[3], "solid"),
        (2, "training accuracy", [100 * epoch.train_accuracy for epoch in log], drawing.COLOURS[5], "dot"),
        (2, "validation accuracy", [100 * epoch.validation_accuracy for epoch in log], drawing.COLOURS[0], "solid"),
        (3, "sparsity", [100 * epoch.sparsity for epoch in log], drawing.GREY, "solid"),
    )
    for row, name, values, colour, dash in lines:
        # one-shot pruning is between two epochs
        line = {"color": colour, "dash": dash, "width": 2, "shape": "hvh" if name == "sparsity" else "linear"}
        style = {"line": line, "mode": "lines+markers", "showlegend": row == 2}
        drawn.add_scatter(x=epochs, y=values, name=name, **style, row=row, col=1)
    _shade_phases(drawn, log)
    last = log[-1]
    drawn.update_yaxes(title_text="loss", rangemode="tozero", row=1, col=1)
    drawn.update_yaxes(title_text="accuracy, %", row=2, col=1)
    drawn.update_yaxes(title_text="sparsity, %", rangemode="tozero", row=3, col=1)
    drawn.update_xaxes(title_text="epoch", row=3, col=1)
    return drawing.figure(
        "training",
        f"Loss, accuracy and sparsity over {len(log)} epochs, ending at {spell.percent(last.validation_accuracy, 2)} "
        f"validation accuracy and {spell.percent(last.sparsity)} sparsity.",
        drawn,
        height=520,
        top=36,
        hovermode="x",
    )


def sensitivity(curves: Sensitivity, reached: float | None) -> Figure:
    """Draw the accuracy after one-shot pruning of each layer alone, and of all together.

    Args:
        curves: accuracy by layer and sparsity.
        reached: the sparsity of this run, marked by a line.
    """
    drawn = go.Figure()
    layers = [name for name in curves.curves if name != ALL_LAYERS]
    many = len(layers) > COLOURED_LAYERS
    for at, (name, shown) in enumerate(zip(layers, drawing.texts(layers), strict=True)):
        colours = (*drawing.COLOURS, *drawing.CONTROL_COLOURS)
        line = {"color": drawing.GREY, "width": 1} if many else {"color": colours[at], "width": 2}
        symbol = drawing.SYMBOLS[at % len(drawing.SYMBOLS)]
        _curve(drawn, curves, name, shown, {"line": line, "marker": {"size": 3 if many else 7, "symbol": symbol}})
    if ALL_LAYERS in curves.curves:
        thick = {"color": drawing.COLOURS[1] if many else drawing.GREY, "width": 4, "dash": "dash"}
        _curve(drawn, curves, ALL_LAYERS, "all layers together", {"line": thick, "marker": {"size": 6}})
    if reached is not None:
        line = {"dash": "dot", "width": 1.5, "color": drawing.GREY}
        label = {"text": "this run's sparsity", "y": 0, "yanchor": "bottom"}
        drawn.add_vline(x=_stretched(reached), line=line, annotation=label)
    return drawing.figure(
        "sensitivity",
        f"Accuracy on {spell.plural(curves.total, f'{spell.plain(curves.split)} image')} against sparsity, "
        f"for {spell.plural(len(layers), 'layer')} alone and for all together.",
        drawn,
        height=440,
        top=36,
        note="The axis is stretched towards 100%: each step to the right removes the same share of what was left."
        + (" The grey lines are single layers; pointing at one names it." if many else ""),
        showlegend=not many,
        xaxis={"title": {"text": "sparsity of what is pruned, %"}, "zeroline": False} | _sparsity_ticks(curves),
        yaxis={"title": {"text": f"{drawing.text(curves.split)} accuracy, %"}},
    )


def _curve(drawn: go.Figure, curves: Sensitivity, name: str, shown: str, style: dict[str, object]) -> None:
    drawn.add_scatter(
        x=[_stretched(sparsity) for sparsity in curves.sparsities],
        y=[100 * value for value in curves.curves[name]],
        name=shown,
        mode="lines+markers",
        customdata=[100 * sparsity for sparsity in curves.sparsities],
        hovertemplate="%{customdata:.3g}% pruned: %{y:.2f}%",
        **style,
    )


def _stretched(sparsity: float) -> float:
    """Return the position of a sparsity on an axis where equal steps remove equal shares of the remaining weights."""
    return -math.log10(1 - min(sparsity, 0.9999))


def _sparsity_ticks(curves: Sensitivity) -> dict[str, object]:
    shown = [value for value in TICKS if value <= max(curves.sparsities)]
    return {"tickvals": [_stretched(value) for value in shown], "ticktext": [f"{100 * value:g}" for value in shown]}


def _shade_phases(drawn: go.Figure, log: tuple[Epoch, ...]) -> None:
    start = 0
    for at, (phase, epochs) in enumerate(groupby(log, key=lambda epoch: epoch.phase)):
        end = start + len(list(epochs))
        drawn.add_vrect(
            x0=start + 0.5,
            x1=end + 0.5,
            fillcolor=PHASE_SHADES[at % len(PHASE_SHADES)],
            line_width=0,
            layer="below",
            row="all",
            col=1,
        )
        drawn.add_annotation(
            x=(start + 1 + end) / 2, y=1, yref="paper", yanchor="top", text=drawing.text(phase), showarrow=False
        )
        start = end


def _drawn_classes(first: ModelFacts, last: ModelFacts) -> list[int]:
    assert last.accuracy is not None
    number = len(last.accuracy.per_class)
    moved = sorted(range(number), key=lambda at: -abs((_of_class(last, at) or 0) - (_of_class(first, at) or 0)))
    return sorted(moved[:DRAWN_CLASSES])


def _of_class(model: ModelFacts, number: int) -> float | None:
    assert model.accuracy is not None
    return model.accuracy.per_class[number] if number < len(model.accuracy.per_class) else None


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
