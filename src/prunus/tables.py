"""Small tables of figures as plain text, and how figures are formatted."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

# the cell of a figure that was not measured
ABSENT = "\N{EN DASH}"

# a printed table fits a terminal of 100 columns and one screen
WIDTH = 100
MAX_ROWS = 24
# a column of words counts as at most this wide, since a terminal wraps words
WORDS_WIDTH = 30
GAP = "  "

Units = tuple[tuple[str, int], ...]
TIMES: Units = ((" µs", 1), (" ms", 10**3), (" s", 10**6))
COUNTS: Units = (("", 1), (" k", 10**3), (" M", 10**6), (" G", 10**9), (" T", 10**12))


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first column names the row, the others hold figures.

    Printed, a table has at most `MAX_ROWS` rows and says how many it leaves out. Columns that do not fit into `WIDTH`
    are printed below the others, after the first column again. Only words may exceed `WIDTH`.

    Attributes:
        columns: the headings.
        rows: one text for each column.
        caption: what the table shows, in one line.
        words: the columns besides the first that hold words and are aligned to the left.
        breaks: the rows that are preceded by a rule, or by an empty line in plain text.

    >>> print(Table(("layer", "weights", "pruned"), (("conv", "500", "20.0%"), ("fc", "1,000", "0.0%"))))
    layer  weights  pruned
    conv       500   20.0%
    fc       1,000    0.0%
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    words: tuple[int, ...] = ()
    breaks: tuple[int, ...] = ()

    def first(self, max_rows: int) -> Table:
        """Return the table cut to its first rows; if rows are left out, a last row says how many."""
        hidden = len(self.rows) - max_rows
        if hidden <= 0:
            return self
        rest = (f"and {hidden:,} more", *[""] * (len(self.columns) - 1))
        return replace(self, rows=(*self.rows[:max_rows], rest))

    def headings(self) -> list[list[str]]:
        """Return the lines of each heading, wrapped to the width of its column; all have the same number of lines."""
        cells = [max((len(row[place]) for row in self.rows), default=0) for place in range(len(self.columns))]
        longest = [max(map(len, heading.split()), default=1) for heading in self.columns]
        widths = map(max, cells, longest)
        wrapped = [textwrap.wrap(plain(text), width) for text, width in zip(self.columns, widths, strict=True)]
        height = max(map(len, wrapped))
        return [[""] * (height - len(lines)) + lines for lines in wrapped]

    def widths(self) -> list[int]:
        """Return the width of each column in characters."""
        return [
            max(map(len, [*heading, *(row[place] for row in self.rows)]), default=0)
            for place, heading in enumerate(self.headings())
        ]

    def split(self, width: int) -> list[Table]:
        """Split the table into tables at most `width` characters wide, each with the first column."""
        names, *widths = (
            min(size, WORDS_WIDTH) if place in self.words else size for place, size in enumerate(self.widths())
        )
        groups: list[list[int]] = [[]]
        for place, size in enumerate(widths, start=1):
            taken = names + sum(len(GAP) + widths[other - 1] for other in groups[-1])
            if groups[-1] and taken + len(GAP) + size > width:
                groups.append([])
            groups[-1].append(place)
        return [self._of_columns([0, *group]) for group in groups]

    def _of_columns(self, places: list[int]) -> Table:
        columns, *rows = (tuple(row[place] for place in places) for row in (self.columns, *self.rows))
        words = tuple(at for at, place in enumerate(places) if place in self.words)
        return replace(self, columns=columns, rows=tuple(rows), words=words)

    def __str__(self) -> str:
        return self.text(MAX_ROWS)

    def text(self, max_rows: int) -> str:
        """Return the table as plain text with at most `max_rows` rows."""
        parts = ["\n".join(part._lines()) for part in self.first(max_rows).split(WIDTH)]
        return "\n\n".join(parts) + (f"\n{textwrap.fill(plain(self.caption), WIDTH)}" if self.caption else "")

    def _lines(self) -> list[str]:
        widths, top = self.widths(), zip(*self.headings(), strict=True)
        body = [line for at, row in enumerate(self.rows) for line in (((), row) if at in self.breaks else (row,))]
        return [self._line(row, widths) for row in (*top, *body)]

    def _line(self, row: Sequence[str], widths: list[int]) -> str:
        cells = [
            plain(cell).ljust(width) if place in (0, *self.words) else plain(cell).rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        return GAP.join(cells).rstrip()


def pairs(rows: Sequence[tuple[str, str]], caption: str = "") -> Table:
    """Return names and their values as a table without headings; values that were not measured are left out.

    >>> print(pairs([("bytes", "1,024"), ("largest difference", ABSENT)]))
    bytes  1,024
    """
    return Table(("", ""), tuple(row for row in rows if row[1] != ABSENT), caption, words=(1,))


def plain(text: str) -> str:
    """Replace unprintable characters, so that text from a file can't control the terminal.

    >>> plain("conv1" + chr(27) + "[2J")
    'conv1�[2J'
    """
    return "".join(character if character.isprintable() else "�" for character in text)


def count(number: int | None) -> str:
    """Format a count; None, not measured, is a dash.

    >>> count(160206), count(None)
    ('160,206', '–')
    """
    return ABSENT if number is None else f"{number:,}"


def percent(fraction: float, digits: int = 1) -> str:
    """Format a fraction as a percentage, with more digits if it would else be rounded to 0% or 100%.

    >>> percent(0.2), percent(0.99967), percent(1.0)
    ('20.0%', '99.97%', '100.0%')
    """
    while digits < 6 and fraction not in (0, 1) and round(fraction * 100, digits) in (0, 100):
        digits += 1
    return f"{fraction * 100:.{digits}f}%"


def shape(sizes: Sequence[int]) -> str:
    """Format a tensor's shape.

    >>> shape((20, 1, 5, 5))
    '20×1×5×5'
    """
    return "\N{MULTIPLICATION SIGN}".join(map(str, sizes)) or "scalar"


def microseconds(value: float) -> str:
    """Format a duration in microseconds with three significant digits.

    >>> microseconds(153.2), microseconds(1530), microseconds(2_100_000)
    ('153 µs', '1.53 ms', '2.1 s')
    """
    return scaled(value, TIMES)


def scaled(value: float, units: Units) -> str:
    """Format a value with three significant digits, in the unit in which it stays below 1000."""
    name, size = unit(value, units)
    return f"{three_digits(value / size):,.10g}{name}"


def unit(value: float, units: Units) -> tuple[str, int]:
    """Return the name and size of the unit in which a value stays below 1000.

    >>> unit(1530, TIMES)
    (' ms', 1000)
    """
    *smaller, largest = units
    return next((pair for pair in smaller if three_digits(value / pair[1]) < 1000), largest)


def three_digits(value: float) -> float:
    """Round to three significant digits.

    >>> three_digits(1534.0)
    1530.0
    """
    if value == 0:
        return 0.0
    return round(value, 2 - math.floor(math.log10(abs(value))))
