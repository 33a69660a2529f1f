"""What pydantic finds wrong with settings, in the words of this package: where, what was expected, what was given."""

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

# A given value is cut to this many characters in a message.
_LONGEST = 60


def problems(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """Return one line for each thing that is wrong with settings of the kind `root`."""
    return [_describe(dict(problem), root) for problem in error.errors()]


def shown(value: object) -> str:
    """Return a value as a person would write it, cut where it is long.

    >>> shown(None), shown(True), shown("a")
    ('nothing', 'true', "'a'")
    """
    if value is None:
        return "nothing"
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _describe(problem: Mapping[str, Any], root: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    kind, given, details = problem["type"], shown(problem["input"]), problem.get("ctx", {})
    if kind == "missing":
        return f"{place}: is missing"
    if kind == "extra_forbidden":
        return _unknown_setting([str(part) for part in problem["loc"]], root)
    if kind == "value_error":
        return f"{place}: {details['error']}" if place else str(details["error"])
    if kind not in _EXPECTED:
        return f"{place}: {problem['msg']}, got {given}"
    return f"{place}: must be {_EXPECTED[kind].format(**details)}, got {given}"


def _unknown_setting(place: list[str], root: type[BaseModel]) -> str:
    """Say that there is no such setting, and where there is one of that name or of a similar one."""
    *groups, name = place  # a name of the user's may have dots
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
    """Return the class of the group of settings that a field holds, None where it holds one setting."""
    if name not in section.model_fields:
        return None
    annotation = section.model_fields[name].annotation
    candidates = getattr(annotation, "__args__", (annotation,))
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)
