"""Show a receipt: as tables on the terminal, as a page with figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prunus import extras
from prunus.measuring.receipt import Receipt

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["summary", "terminal", "write_page"]


def terminal(receipt: Receipt, console: Console | None = None) -> None:
    """Print a receipt: the outcome in two sentences, tables, and caveats.

    Args:
        receipt: the receipt.
        console: where to print; the standard output by default.

    Raises:
        MissingExtraError: rich is not installed.
    """
    extras.require("rich.console", "printing a receipt")
    from rich.console import Console

    from prunus.lab.report.printing import show

    show(receipt, console or Console())


def summary(receipts: Sequence[Receipt], console: Console | None = None) -> None:
    """Print several seeds of one recipe: mean, spread and range of every model's accuracy, and the paired tests.

    Args:
        receipts: one per seed, all of the same recipe.
        console: where to print; the standard output by default.

    Raises:
        ValueError: there is no receipt, two share a seed, or they are of different recipes.
        MissingExtraError: rich is not installed.
    """
    extras.require("rich.console", "printing a summary")
    from rich.console import Console

    from prunus.lab.report import seeds
    from prunus.lab.report.printing import show_tables, show_title

    seeds.check(receipts)
    console = console or Console()
    show_title(seeds.title(receipts), console)
    show_tables(filter(None, (seeds.models(receipts), seeds.tests(receipts))), console)


def write_page(folder: Path | str) -> Path:
    """Write `folder`/report.html: one file with figures and tables that needs no network.

    If a file is missing or damaged, its section is left out, and the page says so. The same folder gives the same
    bytes.

    Args:
        folder: the folder of a run of ``prunus run``; only receipt.json is required.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: there is no receipt.json.
        ValueError: receipt.json is damaged or of another schema.
        MissingExtraError: jinja2 or plotly is not installed.
    """
    extras.require("jinja2", "writing report.html")
    extras.require("plotly.graph_objects", "drawing the figures of report.html")
    from prunus.lab.report.page import write

    return write(Path(folder))
