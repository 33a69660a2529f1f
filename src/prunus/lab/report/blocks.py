"""What a section of the page is made of; the template draws each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunus.lab.report.drawing import Figure


@dataclass(frozen=True)
class Table:
    """A table: names in the first column, figures in the others, but for those of `prose`, which hold sentences."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    prose: tuple[int, ...] = ()
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """An image inside the page, with what it shows in words."""

    uri: str
    alt: str
    caption: str
    verdict: str = ""


@dataclass(frozen=True)
class Pictures:
    """Wide images, one below the other."""

    pictures: tuple[Picture, ...]
    note: str = ""
    kind: str = "pictures"


@dataclass(frozen=True)
class Gallery:
    """Small images side by side."""

    pictures: tuple[Picture, ...]
    note: str = ""
    kind: str = "gallery"


@dataclass(frozen=True)
class Code:
    """Text shown letter by letter."""

    text: str
    caption: str
    kind: str = "code"


@dataclass(frozen=True)
class Pairs:
    """Names and what they stand for."""

    pairs: tuple[tuple[str, str], ...]
    kind: str = "pairs"


Part = Figure | Table | Pictures | Gallery | Code | Pairs


@dataclass(frozen=True)
class Section:
    """A section: `lead` says how to read it, `missing` what had to be left out and why."""

    id: str
    title: str
    lead: str
    parts: tuple[Part, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """A key number: `tone` is good, bad or plain, and is said by `verdict` in words."""

    label: str
    value: str
    detail: str
    verdict: str
    tone: str = "plain"


def section(id: str, title: str, lead: str, parts: Sequence[Part | None] = (), missing: Sequence[str] = ()) -> Section:
    """Return a section of the parts that are there."""
    return Section(id, title, lead, tuple(part for part in parts if part is not None), tuple(missing))
