"""The parts of a section of the page; the template draws each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunus.lab.report.drawing import Figure
from prunus.tables import Table


@dataclass(frozen=True)
class Picture:
    """An image inside the page, with a description in words."""

    uri: str
    alt: str
    caption: str
    verdict: str = ""


@dataclass(frozen=True)
class Pictures:
    """Wide images, one below the other."""

    pictures: tuple[Picture, ...]
    note: str = ""


class Gallery(Pictures):
    """Small images side by side."""


@dataclass(frozen=True)
class Code:
    """Preformatted text."""

    text: str
    caption: str


@dataclass(frozen=True)
class Pairs:
    """Names and their values."""

    pairs: Sequence[tuple[str, str]]


Part = Figure | Table | Pictures | Gallery | Code | Pairs


@dataclass(frozen=True)
class PageSection:
    """A section: `lead` says how to read it, `missing` what is left out and why."""

    id: str
    title: str
    lead: str
    parts: tuple[Part, ...] = ()
    missing: tuple[str, ...] = ()


def section(
    id: str, title: str, lead: str, parts: Sequence[Part | None] = (), missing: Sequence[str] = ()
) -> PageSection:
    """Return a section of the parts that are not None."""
    return PageSection(id, title, lead, tuple(part for part in parts if part is not None), tuple(missing))
