"""`prunus ls`: what there is to choose from."""

from __future__ import annotations

from prunus.cli import listing, mistakes, terminal
from prunus.cli.options import Json
from prunus.registry import unknown_name


def ls(kind: str | None = None, /, *, json: Json = None) -> None:
    """List what there is to choose from.

    For example:
      prunus ls
      prunus ls criteria

    Args:
        kind: recipes, models, data, criteria, patterns, scopes or schedules; without it, all of them.
    """
    if kind is not None and kind not in listing.KINDS:
        raise unknown_name("kind", kind, listing.KINDS)
    lists = {kind: listing.entries(kind)} if kind is not None else {name: _entries(name) for name in listing.KINDS}
    if json is not None:
        terminal.write_json(lists if kind is None else lists[kind], json)
    if str(json) != "-":
        terminal.show_lists(lists)


def _entries(kind: str) -> dict[str, str]:
    """Let the others be listed where one kind needs a package that is missing."""
    try:
        return listing.entries(kind)
    except ImportError as error:
        return {"": mistakes.in_words(error)}
