"""Names for functions: one registry an axis, with an error that suggests the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

# An error that lists the names of a large model's layers would hide its own message.
_MOST_LISTED = 20


class UnknownNameError(ValueError, KeyError):
    """A name that is not known where it was used; the message suggests the nearest and lists the known ones.

    It is a KeyError too, so that a registry keeps a mapping's promises, `get` with its default among them.
    """

    __str__ = Exception.__str__  # KeyError would show the message in quotes


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `name`, whatever their case, or None where nothing is alike.

    >>> nearest("magnitud", ["lamp", "magnitude"])
    'magnitude'
    """
    spelled: dict[str, str] = {}
    for choice in sorted(known):
        spelled.setdefault(choice.lower(), choice)
    matches = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.5)
    return spelled[matches[0]] if matches else None


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that is not among the known ones."""
    choices = sorted(known)
    guess = nearest(str(name), choices)
    hint = f"; did you mean {guess!r}?" if guess else ""
    listed = ", ".join(choices[:_MOST_LISTED]) or "none"
    if len(choices) > _MOST_LISTED:
        listed += f" and {len(choices) - _MOST_LISTED} more"
    return UnknownNameError(f"unknown {kind} {name!r}{hint} (known: {listed})")


class Registry(Mapping[str, T]):
    """A mapping from names to the entries of one kind, filled by a decorator.

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
