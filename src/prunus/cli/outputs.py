"""The files that commands write: whether they may be written, and what tables say of the weights in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


def check_free(force: bool, *targets: Path) -> None:
    """Refuse files that can't be written, or must not be replaced.

    Raises:
        ValueError: two are the same.
        OSError: one is a folder, or is there already and `force` is not given.
    """
    if len({target.absolute() for target in targets}) < len(targets):
        raise ValueError(f"two results would go to the same file, {str(targets[0])!r}; give each a name of its own")
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"{str(target)!r} is a directory; give the name of a file in it")
        if target.exists() and not force:
            raise FileExistsError(f"{str(target)!r} is there already; give another name, or --force to replace it")


class Row(NamedTuple):
    """A row of a table about weights.

    Attributes:
        name: of the weight.
        shapes: as texts.
        counts: of its numbers; they add up over rows.
        minor: biases and the like are summed up in one row.
    """

    name: str
    shapes: tuple[str, ...]
    counts: tuple[int, ...]
    minor: bool


def with_totals(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows, but one for all that are minor, and one for all together."""
    every = list(rows)
    minor = [row for row in every if row.minor]
    yield from (row for row in every if not row.minor)
    for name, parts in (("biases and norms", minor), ("all of them", every)):
        if parts:
            counts = tuple(map(sum, zip(*(row.counts for row in parts), strict=True)))
            yield Row(name, ("",) * len(parts[0].shapes), counts, False)
