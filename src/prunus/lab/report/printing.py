"""Print tables and sentences on the terminal with rich, in its width."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from prunus.lab.report.caveats import caveats
from prunus.lab.report.outcome import headline
from prunus.lab.report.receipt_tables import all_tables
from prunus.measuring import spell
from prunus.measuring.receipt import Receipt
from prunus.tables import Table

# the largest number of rows of a table; the page lists all layers
LISTED_ROWS = 40


def show(receipt: Receipt, console: Console) -> None:
    """Print a receipt: the outcome, every table, and caveats."""
    show_title(title(receipt), console)
    console.print(Text(spell.plain(headline(receipt))))
    console.print()
    show_tables(all_tables(receipt), console)
    sentences = caveats(receipt)
    if sentences:
        grid = RichTable.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column()
        for topic, sentence in sentences:
            grid.add_row(topic, Text(spell.plain(sentence)))
        console.print(grid)
        console.print()


def title(receipt: Receipt) -> str:
    """Return the title: recipe, seed and data; models compared without a recipe have no seed."""
    run = [str(receipt.recipe.get("name", "")), f"seed {receipt.seed}"] if receipt.recipe else ["models compared"]
    data = [f"{receipt.data.name}: {spell.plural(receipt.data.test, 'test image')}"] if receipt.data else []
    return spell.plain(" · ".join(filter(None, [*run, *data])))


def show_title(text: str, console: Console) -> None:
    """Print the first line."""
    console.print(Text(text, style="bold"))
    console.print()


def show_tables(tables: Iterable[Table], console: Console) -> None:
    """Print tables, split into parts that fit the console's width."""
    for table in tables:
        parts = [_rich(part) for part in table.first(LISTED_ROWS).split(console.width)]
        for part in parts[:-1]:
            console.print(part)
            console.print()
        console.print(parts[-1])
        if table.caption:
            console.print(Text(spell.plain(table.caption), style="italic"))
        console.print()


def _rich(table: Table) -> RichTable:
    shown = RichTable(box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for place, lines in enumerate(table.headings()):
        left = place in (0, *table.words)
        shown.add_column(Text("\n".join(lines)), justify="left" if left else "right", overflow="fold")
    for at, row in enumerate(table.rows):
        if at in table.breaks:
            shown.add_section()
        name, *cells = (Text(spell.plain(cell)) for cell in row)
        name.stylize("bold")
        shown.add_row(name, *cells)
    return shown
