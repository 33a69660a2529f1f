"""Shared by all figures: one colour per model, one layout, escaped text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from plotly import graph_objects as go

from prunus.measuring import spell
from prunus.measuring.receipt import Receipt

# Okabe and Ito's colours, distinguishable with any colour blindness; each model has the same one in all figures
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
CONTROL_COLOURS = ("#8A8F98", "#A6761D", "#7570B3", "#5B9A9A")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x")
GREY = "#8A8F98"
LONGEST_NAME = 42


@dataclass(frozen=True)
class Figure:
    """A figure of the page; `label` describes it in words, for readers who can't see it."""

    id: str
    label: str
    spec: dict[str, Any]
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """The colour and symbol of a model in figures."""

    colour: str
    symbol: str


def marks(receipt: Receipt) -> dict[str, Mark]:
    """Return the colour and symbol of each model of a receipt, the same in all figures."""
    road = {facts.name: _mark(COLOURS, at) for at, facts in enumerate(receipt.models)}
    return road | {facts.name: _mark(CONTROL_COLOURS, at, "-open") for at, facts in enumerate(receipt.controls)}


def figure(
    id: str, label: str, drawn: go.Figure, *, height: int, top: int = 8, note: str = "", **layout: Any
) -> Figure:
    """Set size and margins of a plotly figure, without a template (the page has its own, light or dark).

    Args:
        id: the id of its element in the page.
        label: a description in words.
        drawn: the figure.
        height: the height in pixels, including the axis below.
        top: the pixels above the plot, for a legend or titles.
        note: a caption.
        **layout: further settings of plotly's layout.
    """
    drawn.update_layout(
        template=None,
        height=height,
        margin={"l": 8, "r": 16, "t": top, "b": 44},
        hovermode="closest",
        dragmode=False,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"},
    )
    drawn.update_annotations(font={"size": 13})
    drawn.update_xaxes(automargin=True, fixedrange=True)
    drawn.update_yaxes(automargin=True, fixedrange=True)
    drawn.update_layout(**layout)
    return Figure(id, label, drawn.to_plotly_json(), note)


def text(name: str) -> str:
    """Return a name for figures: escaped, and only its end if it is too long.

    >>> text("<script>")
    '&lt;script&gt;'
    """
    shown = spell.plain(name)
    if len(shown) > LONGEST_NAME:
        shown = "…" + shown[-LONGEST_NAME + 1 :]
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def texts(names: Iterable[str]) -> list[str]:
    """Return names for figures, all different: equal ones are numbered."""
    shown: list[str] = []
    for name in names:
        label, again = text(name), 1
        while label in shown:
            again += 1
            label = f"{text(name)} ({again})"
        shown.append(label)
    return shown


def errors(middle: float, low: float, high: float, colour: str) -> dict[str, Any]:
    """Return an error bar from `low` to `high`."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - middle],
        "arrayminus": [middle - low],
        "color": colour,
        "thickness": 2,
        "width": 5,
    }


def _mark(colours: tuple[str, ...], at: int, suffix: str = "") -> Mark:
    return Mark(colours[at % len(colours)], SYMBOLS[at % len(SYMBOLS)] + suffix)
