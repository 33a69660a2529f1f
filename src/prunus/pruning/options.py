"""Entries of an axis by name, with options written as text: ``channel:round_to=8,budget=macs``."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, TypeVar

from prunus.registry import Registry, unknown_name

T = TypeVar("T")
F = TypeVar("F")


def split(text: str) -> tuple[str, dict[str, int | str]]:
    """Split text into the name of an entry and its options; whole numbers become ints.

    Raises:
        ValueError: an option is not ``key=value``.

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
    """Join a name and options to text: the inverse of `split`.

    >>> join("channel", {"round_to": 8})
    'channel:round_to=8'
    """
    return f"{name}:{','.join(f'{key}={value}' for key, value in options.items())}" if options else name


def make(kind: str, name: str, maker: Callable[..., T] | None, options: Mapping[str, Any]) -> T:
    """Make an entry with options.

    Args:
        kind: the axis, for errors.
        name: the entry's name, for errors.
        maker: a function that takes the options as keywords; None if the entry has no options.
        options: name -> value.

    Raises:
        ValueError, TypeError: the entry has no such option, or the option is of another kind or out of range.
    """
    parameters = [] if maker is None else list(inspect.signature(maker).parameters)
    for key in options:
        if key not in parameters:
            raise unknown_name(f"option of {kind} {name!r}:", key, parameters)
    assert maker is not None
    return maker(**options)


def resolve(kind: type[T], functions: Registry[F], chosen: str | F | T) -> T:
    """Return an entry of an axis whose entries are a function and options.

    Args:
        kind: the class of the entries; its first argument is the function.
        functions: name -> function.
        chosen: a name, with options or without, a function, or an entry, which is returned as it is.

    Raises:
        ValueError: the name is unknown, or an option is out of range.
        TypeError: it is none of the three.
    """
    if isinstance(chosen, kind):
        return chosen
    entry: Callable[..., T] = kind
    if isinstance(chosen, str):
        name, options = split(chosen)
        return make(functions.kind, name, functools.partial(entry, functions[name]), options)
    return entry(chosen)


def function(kind: str, chosen: object, shape: str) -> None:
    """Check that an option is a function of two arguments.

    Args:
        kind: of the option, for the message.
        chosen: what was given.
        shape: its arguments and its result, for the message.

    Raises:
        TypeError: it can't be called with two arguments.
    """
    try:
        if not callable(chosen):
            raise TypeError
        inspect.signature(chosen).bind(None, None)
    except TypeError:
        raise TypeError(f"{kind} must be a name or a function {shape}, got {chosen!r}") from None
    except ValueError:  # a function of C tells no signature
        return


def whole(name: str, value: object, least: int) -> int:
    """Return a whole number that is at least `least`.

    Raises:
        TypeError: the value is not a whole number.
        ValueError: it is less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)
