"""Options of an entry of an axis, as text has them: ``channel:round_to=8,budget=macs``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, TypeVar

from prunus.registry import unknown_name

T = TypeVar("T")


def split(text: str) -> tuple[str, dict[str, int | str]]:
    """Return an entry's name, and its options; whole numbers become ints.

    Raises:
        ValueError: an option is no ``key=value``.

    >>> split("channel:round_to=8,budget=macs"), split("2:4")
    (('channel', {'round_to': 8, 'budget': 'macs'}), ('2:4', {}))
    """
    name, _, rest = text.partition(":")
    if "=" not in rest:
        return text, {}
    options: dict[str, int | str] = {}
    for part in rest.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            raise ValueError(f"options are written name:key=value,key=value, got {text!r}")
        options[key.strip()] = int(value) if re.fullmatch(r"\s*[+-]?\d+\s*", value) else value.strip()
    return name, options


def join(name: str, options: Mapping[str, object]) -> str:
    """Return the text that `split` takes apart.

    >>> join("channel", {"round_to": 8})
    'channel:round_to=8'
    """
    return f"{name}:{','.join(f'{key}={value}' for key, value in options.items())}" if options else name


def make(kind: str, name: str, maker: Callable[..., T] | None, options: Mapping[str, Any]) -> T:
    """Make an entry with its options.

    Args:
        kind: of axis, for errors.
        name: of the entry.
        maker: takes the options as keywords; None where the entry has none.
        options: by name.

    Raises:
        ValueError, TypeError: the entry has no such option, or the option is of another kind or out of range.
    """
    known = [] if maker is None else list(inspect.signature(maker).parameters)
    for key in options:
        if key not in known:
            raise unknown_name(f"option of {kind} {name!r}:", key, known)
    assert maker is not None
    return maker(**options)


def whole(name: str, value: object, least: int) -> int:
    """Return a whole number of at least so many.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is less.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)
