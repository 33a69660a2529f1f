"""Convert frozen dataclasses to JSON and back: no unknown or missing field, no other type, no NaN."""

from __future__ import annotations

import functools
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from prunus.registry import nearest

T = TypeVar("T")

# metadata of a field that older files lack; its default is used for them
MAY_LACK = types.MappingProxyType({"may_lack": True})


class FieldError(ValueError):
    """A value does not fit the annotation of its dataclass field; the message names the field."""


def dumps(value: Any) -> str:
    """Write a dataclass as JSON text, from which `loads` makes an equal one.

    Raises:
        FieldError: a field holds a value that JSON can't represent (NaN, an infinity, a tuple inside free-form data)
            or that its annotation does not allow.
    """
    checked = build(type(value), _plain(value))
    for item in fields(value):
        if getattr(checked, item.name) != getattr(value, item.name):
            raise FieldError(f"{item.name} does not survive JSON: use lists instead of tuples, and strings as keys")
    return json.dumps(_plain(checked), indent=2, allow_nan=False) + "\n"


def loads(kind: type[T], text: str) -> T:
    """Read a dataclass from JSON text.

    Raises:
        FieldError: the text is not JSON, or a field is unknown, missing, or of another type than its annotation.
    """
    value: T = build(kind, parse(text))
    return value


def parse(text: str) -> Any:
    """Read JSON text into plain values; NaN, infinities and repeated keys are errors.

    Raises:
        FieldError: the text is not valid JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except FieldError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError also covers numbers of thousands of digits
        raise FieldError(f"not valid JSON: {error}") from error


def build(kind: Any, value: Any, place: str = "") -> Any:
    """Convert plain JSON values to the annotated type; `place` names the value in errors.

    >>> build(tuple[float, ...], [1, 0.5], "ci95")
    (1.0, 0.5)
    >>> build(int, "7", "models[0].nonzero")
    Traceback (most recent call last):
    ...
    prunus.files.strict_json.FieldError: models[0].nonzero must be an integer, got '7'
    """
    origin = typing.get_origin(kind)
    if is_dataclass(kind):
        return _build_dataclass(kind, value, place)
    if origin is tuple:
        return _build_tuple(typing.get_args(kind), value, place)
    if origin is dict:
        _, item = typing.get_args(kind)
        entries = _expect(value, dict, "an object", place)
        return {_key(key, place): build(item, entry, f"{place}[{key!r}]") for key, entry in entries.items()}
    if origin in (typing.Union, types.UnionType):
        (inner,) = (choice for choice in typing.get_args(kind) if choice is not types.NoneType)
        return None if value is None else build(inner, value, place)
    return _build_plain(value, place) if kind is Any else _build_scalar(kind, value, place)


def _build_dataclass(kind: Any, value: Any, place: str) -> Any:
    entries = _expect(value, dict, "an object", place)
    annotations = _annotations(kind)
    missing = [name for name in annotations if name not in entries and name not in _may_lack(kind)]
    if missing:
        raise FieldError(f"{_join(place, missing[0])} is missing")
    for name in entries:
        if name not in annotations:
            guess = nearest(str(name), annotations)
            raise FieldError(f"{_join(place, name)} is unknown" + (f"; did you mean {guess!r}?" if guess else ""))
    values = {
        name: build(annotation, entries[name], _join(place, name))
        for name, annotation in annotations.items()
        if name in entries
    }
    try:
        return kind(**values)
    except ValueError as error:
        raise FieldError(f"{place}: {error}" if place else str(error)) from error


def _build_tuple(kinds: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    entries = _expect(value, list, "a list", place)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(entries)
    if len(entries) != len(kinds):
        raise FieldError(f"{place} must hold {len(kinds)} values, got {len(entries)}")
    return tuple(
        build(kind, entry, f"{place}[{i}]") for i, (kind, entry) in enumerate(zip(kinds, entries, strict=True))
    )


def _build_scalar(kind: Any, value: Any, place: str) -> Any:
    if kind is float:
        return _finite(_expect(value, (int, float), "a number", place), place)
    _expect(value, kind, {int: "an integer", str: "a text", bool: "true or false"}[kind], place)
    if kind is int:
        _finite(value, place)  # so that it can be converted to a float
    return value


def _build_plain(value: Any, place: str) -> Any:
    if isinstance(value, dict):
        return {_key(key, place): _build_plain(entry, f"{place}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list):
        return [_build_plain(entry, f"{place}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, float):
        return _finite(value, place)
    return value if value is None else _expect(value, (str, int, bool), "a plain JSON value", place)


def _expect(value: Any, kind: Any, words: str, place: str) -> Any:
    wrong_bool = isinstance(value, bool) and kind is not bool and not (isinstance(kind, tuple) and bool in kind)
    if wrong_bool or not isinstance(value, kind):
        raise FieldError(f"{place or 'the whole'} must be {words}, got {value!r:.60}")
    return value


def _finite(value: float, place: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FieldError(f"{place} must be a finite number, got {number}")
    return number


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str):
        raise FieldError(f"{place} must have strings as keys, got {key!r}")
    return key


def _join(place: str, name: object) -> str:
    return f"{place}.{name}" if place else str(name)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (tuple, list)) else value


@functools.cache
def _annotations(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in fields(kind)}


@functools.cache
def _may_lack(kind: Any) -> frozenset[str]:
    return frozenset(item.name for item in fields(kind) if item.metadata.get("may_lack"))


def _refuse_constant(constant: str) -> Any:
    raise FieldError(f"not valid JSON: {constant} is not a JSON number")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise FieldError(f"not valid JSON: the key {key!r} appears twice")
        entries[key] = value
    return entries
