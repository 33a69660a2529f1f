"""`prunus ls`: what there is to choose from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from prunus.cli import options, terminal
from prunus.cli.group import explain
from prunus.registry import unknown_name


def ls(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="recipes, models, data, criteria, patterns, scopes or schedules; without it, all of them.",
        ),
    ] = None,
    json: options.Json = None,
) -> None:
    """List what there is to choose from.

    \b
    Examples:
      prunus ls
      prunus ls criteria
    """
    if kind is not None and kind not in _KINDS:
        raise unknown_name("kind", kind, _KINDS)
    found = {kind: _KINDS[kind]()} if kind is not None else {name: _whole(find) for name, find in _KINDS.items()}
    if json is not None:
        terminal.write_json(found if kind is None else found[kind], json)
    if str(json) != "-":
        terminal.show_lists(found)


def _whole(find: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Let the others be listed where one kind needs a package that is missing."""
    try:
        return find()
    except ImportError as error:
        return {"": explain(error)}


def _recipes() -> dict[str, str]:
    from prunus.lab import recipe

    return {name: recipe.load(name).description for name in recipe.names()}


def _models() -> dict[str, str]:
    from prunus.lab.models import MODELS

    return _summaries(MODELS)


def _data() -> dict[str, str]:
    from prunus.lab.data import DATASETS

    return _summaries(DATASETS)


def _criteria() -> dict[str, str]:
    from prunus.pruning.criteria import CRITERIA

    return _summaries({name: criterion.score for name, criterion in CRITERIA.items()})


def _patterns() -> dict[str, str]:
    from prunus.pruning.patterns import PATTERNS, resolve

    examples = {name: family.examples for name, family in PATTERNS.items()}
    told = _summaries({name: type(resolve(written[0])) for name, written in examples.items()})
    return {
        name: text if examples[name] == (name,) else f"{text} Such as {', '.join(examples[name])}."
        for name, text in told.items()
    }


def _scopes() -> dict[str, str]:
    from prunus.pruning.scopes import SCOPES

    return _summaries(SCOPES)


def _schedules() -> dict[str, str]:
    from prunus.pruning.schedules import SCHEDULES

    return _summaries(SCHEDULES)


_KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "recipes": _recipes,
    "models": _models,
    "data": _data,
    "criteria": _criteria,
    "patterns": _patterns,
    "scopes": _scopes,
    "schedules": _schedules,
}


def _summaries(entries: Mapping[str, object]) -> dict[str, str]:
    """Return the first paragraph of each entry's docstring."""
    documented = {name: inspect.getdoc(entry) or "" for name, entry in entries.items()}
    return {name: " ".join(text.partition("\n\n")[0].replace("`", "").split()) for name, text in documented.items()}
