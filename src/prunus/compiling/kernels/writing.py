"""What a program's C is gathered in: constants, functions used, lines of text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray

_ALIGNMENT = 64


@dataclass
class Constants:
    """Arrays of a program, one behind the other in one block of memory; equal ones are kept once."""

    data: bytearray = field(default_factory=bytearray)
    _places: dict[bytes, int] = field(default_factory=dict)

    def add(self, array: NDArray[Any]) -> int:
        """Return where in the block an array lies, in bytes: a multiple of a cache line."""
        return self.add_bytes(numpy.ascontiguousarray(array).tobytes())

    def add_bytes(self, content: bytes) -> int:
        """Return where some bytes lie."""
        key = hashlib.blake2b(content, digest_size=16).digest()
        if key not in self._places:
            self.data += bytes(-len(self.data) % _ALIGNMENT)
            self._places[key] = len(self.data)
            self.data += content
        return self._places[key]


@dataclass
class Writer:
    """C text that grows line by line, with the indentation of its blocks."""

    lines: list[str] = field(default_factory=list)
    depth: int = 0

    def __call__(self, *lines: str) -> None:
        """Write lines."""
        self.lines += [("    " * self.depth + line).rstrip() for line in lines]

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Write a head with a brace, what is written inside, and the closing brace."""
        self(f"{head} {{" if head else "{")
        self.depth += 1
        yield
        self.depth -= 1
        self("}")

    @contextmanager
    def loops(self, names: Iterable[str], counts: Iterable[int]) -> Iterator[None]:
        """Write loops around what is written inside, the first name's outermost."""
        with ExitStack() as stack:
            for name, count in zip(names, counts, strict=True):
                stack.enter_context(self.block(f"for (long {name} = 0; {name} < {count}; ++{name})"))
            yield

    def text(self) -> str:
        """Return what was written."""
        return "\n".join(self.lines) + "\n"


def counters(count: int) -> list[str]:
    """Return names for the counters of so many nested loops, from the outermost.

    >>> counters(3)
    ['i', 'j', 'k']
    """
    return [*"ijklmnop", *(f"i{place}" for place in range(8, count))][:count]


def sum_of(*terms: str | int) -> str:
    """Return terms added up, zeros left out.

    >>> sum_of("y * 4", 0, 12)
    'y * 4 + 12'
    """
    nonzero = [str(term) for term in terms if str(term) not in ("0", "")]
    return " + ".join(nonzero) or "0"


def times(name: str, factor: int) -> str:
    """Return a counter times a constant.

    >>> times("y", 1), times("y", 0), times("y", 8)
    ('y', '', 'y * 8')
    """
    return "" if factor == 0 else name if factor == 1 else f"{name} * {factor}"
