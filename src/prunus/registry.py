"""Registries: mappings from names to entries, whose error for an unknown name suggests the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

# An error that lists the names of a large model's layers would hide its own message.
_MOST_LISTED = 20


class UnknownNameError(ValueError, KeyError):
    """An unknown name; the message suggests the nearest known one and lists them all.

    It is also a KeyError, so that the methods of Mapping, such as `get` with a default, work on a registry.
    """

    __str__ = Exception.__str__  # KeyError would show the message in quotes


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice most similar to `name`, ignoring case; None if none is similar.

    >>> nearest("magnitud", ["lamp", "magnitude"])
    'magnitude'
    """
    spelled: dict[str, str] = {}
    for choice in sorted(choices):
        spelled.setdefault(choice.lower(), choice)
    matches = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    return spelled[matches[0]] if matches else None


def unknown_name(kind: str, name: object, choices: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that is not among the choices."""
    names = sorted(choices)
    guess = nearest(str(name), names)
    hint = f"; did you mean {guess!r}?" if guess else ""
    listed = ", ".join(names[:_MOST_LISTED]) or "none"
    if len(names) > _MOST_LISTED:
        listed += f" and {len(names) - _MOST_LISTED} more"
    return UnknownNameError(f"unknown {kind} {name!r}{hint} (known: {listed})")


class Registry(Mapping[str, T]):
    """A mapping from names to entries of one kind; a decorator adds an entry.

    >>> greetings = Registry[Callable[[], str]]("greeting")
    >>> @greetings.register("hello")
    ... def hello() -> str:
    ...     return "hello"
    >>> greetings["hello"]()
    'hello'
    >>> greetings["helo"]
    Traceback (most recent call last):
    ...
    prunus.registry.UnknownNameError: unknown greeting 'helo'; did you mean 'hello'? (known: hello)
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Enter the decorated object under `name`.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")

        def enter(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
