"""What the commands print with: tables and prose for people, unbroken lines for pipes, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Prose is made for this width; a wider terminal doesn't make it easier to read.
READING_WIDTH = 100
# A program that reads lines wants each row on one of them, however long.
UNBROKEN = 10_000


def _console(piped_width: int) -> Console:
    width = None if sys.stdout.isatty() else piped_width
    return Console(width=width, highlight=False, markup=False, emoji=False)


def prose() -> Console:
    """Return a console for receipts and help on standard output, of a width that reads well."""
    console = _console(READING_WIDTH)
    console.width = min(console.width, READING_WIDTH)
    return console


def show(*sentences: str) -> None:
    """Print sentences on standard output, each on a line of its own; a line is broken only to fit a terminal."""
    console = _console(UNBROKEN)
    for sentence in sentences:
        console.print(printable(sentence))


def show_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1, words: int = 0) -> None:
    """Print a table without lines: the first `names` and the last `words` columns are text, the others numbers."""
    table = _table()
    for place, header in enumerate(headers):
        is_text = place < names or place >= len(headers) - words
        table.add_column(Text(header, style="bold"), justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _print(table)


def show_lists(lists: Mapping[str, Mapping[str, str]]) -> None:
    """Print names with what there is to say of them, under a heading for each list where there are several."""
    table = _table()
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    indent = "  " if len(lists) > 1 else ""
    for place, (heading, entries) in enumerate(lists.items()):
        if len(lists) > 1:
            table.add_row(Text(f"\n{heading}" if place else heading, style="bold"))
        for name, description in entries.items():
            table.add_row(Text(indent + printable(name)), Text(printable(description)))
    _print(table)


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _print(table: Table) -> None:
    console = _console(UNBROKEN)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def say(message: str) -> None:
    """Print to standard error, without any line breaks but the message's own."""
    sys.stderr.write(printable(message) + "\n")


def printable(text: str) -> str:
    r"""Return text that can't steer a terminal: what can't be printed becomes an escape, line breaks aside.

    >>> printable("a\x1b[31m")
    'a\\x1b[31m'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def plural(number: int, thing: str) -> str:
    """Return a number with its noun.

    >>> plural(1, "tensor"), plural(1200, "tensor")
    ('1 tensor', '1,200 tensors')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def by_x(shape: Iterable[object]) -> str:
    """Return a shape as the tables have it.

    >>> by_x((20, 1, 5, 5))
    '20x1x5x5'
    """
    return "x".join(map(str, shape))


def write_json(value: Any, target: Path) -> None:
    """Write a value as JSON to a file, whole or not at all; ``-`` stands for the standard output."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", target)


def write_text(text: str, target: Path) -> None:
    """Write text to a file, whole or not at all; ``-`` stands for the standard output."""
    if str(target) == "-":
        sys.stdout.write(text)
        return
    from prunus import files

    files.write_text(target, text)
