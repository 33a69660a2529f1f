"""Messages for the errors that pydantic finds in settings: which setting, what was expected, what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from prunus.registry import unknown_name

# pydantic's kinds of errors; {...} is filled from the error's own details.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": "of lower-case letters, digits, '.', '_' and '-'",
    "tuple_type": "a list, such as [1, 2]",
    "dict_type": "a group of settings",
    "model_type": "a group of settings",
    "literal_error": "{expected}",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
}

# Values in messages are cut to this many characters.
_MAX_CHARACTERS = 60


def problems(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """Return one line for each error in settings of the class `root`."""
    return [_describe(dict(problem), root) for problem in error.errors()]


def shown(value: object) -> str:
    """Return a value as in YAML, cut if it is long.

    >>> shown(None), shown(True), shown("a")
    ('nothing', 'true', "'a'")
    """
    if value is None:
        return "nothing"
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


def _describe(problem: Mapping[str, Any], root: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    kind, value, details = problem["type"], shown(problem["input"]), problem.get("ctx", {})
    if kind == "missing":
        return f"{place}: is missing"
    if kind == "extra_forbidden":
        return _unknown_setting([str(part) for part in problem["loc"]], root)
    if kind == "value_error":
        return f"{place}: {details['error']}" if place else str(details["error"])
    if kind not in _EXPECTED:
        return f"{place}: {problem['msg']}, got {value}"
    return f"{place}: must be {_EXPECTED[kind].format(**details)}, got {value}"


def _unknown_setting(place: list[str], root: type[BaseModel]) -> str:
    """Say that there is no such setting, and suggest settings of the same or a similar name."""
    *groups, name = place  # the user's name may contain dots
    path = ".".join(groups)
    elsewhere = [setting for setting in _all_settings(root) if setting.rpartition(".")[2] == name]
    if elsewhere:
        return f"unknown setting {'.'.join(place)!r}; did you mean {' or '.join(map(repr, elsewhere[:3]))}?"
    section = root
    for part in groups:
        section = _section_of(section, part) or section
    return str(unknown_name(f"{path} setting".strip(), name, section.model_fields))


def _all_settings(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in section.model_fields:
        yield f"{prefix}{name}"
        if inner := _section_of(section, name):
            yield from _all_settings(inner, f"{prefix}{name}.")


def _section_of(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the class of the group of settings in a field; None if it is a single setting."""
    if name not in section.model_fields:
        return None
    annotation = section.model_fields[name].annotation
    candidates = getattr(annotation, "__args__", (annotation,))
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)
