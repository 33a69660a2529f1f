"""`.prunus` files with something changed: by accident, or by someone who computes the checksum anew."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from prunus.packing import container

CHECKSUM = slice(5, 13)
BODY = 13


def resealed(data: bytes) -> bytes:
    """Return a file with the checksum of what it holds now."""
    return data[: CHECKSUM.start] + hashlib.sha256(data[BODY:]).digest()[:8] + data[BODY:]


def with_header(data: bytes, text: bytes, *, content: bytes | None = None) -> bytes:
    """Return a file with another header, and all checksums but that of the decoded content made to fit."""
    found = container.split(data)
    return container.join(text, bytes(found.stream), found.checksum if content is None else content)


def mutations(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Return mutated files with the name of what was done, each different from the original."""
    draw = random.Random(seed)
    ways = (_truncated, _flipped, _spliced, _overwritten, _header_edited, _lengths_edited)
    while count:
        way = draw.choice(ways)
        changed = way(data, draw)
        seal = len(changed) > BODY and draw.random() < 0.7
        changed = resealed(changed) if seal else changed
        if changed != data:
            count -= 1
            yield f"{way.__name__[1:]}{' and resealed' if seal else ''}", changed


def _truncated(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    start = draw.choice((0, 0, BODY + 8))
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(min(start, len(data) - 1), len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _spliced(data: bytes, draw: random.Random) -> bytes:
    first, second = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return draw.choice((data[:first] + data[second:], data[:second] + data[first:], data[first:] + data[:first]))


def _overwritten(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.choice((b"\0", b"\xff", draw.randbytes(1))) * draw.randrange(1, 9) + data[at + 8 :]


def _header_edited(data: bytes, draw: random.Random) -> bytes:
    """Change some characters of the header's JSON; numbers grow, names and brackets go."""
    text = bytearray(container.split(data).header_text)
    for _ in range(draw.choice((1, 1, 3))):
        at = draw.randrange(len(text))
        text[at : at + draw.randrange(3)] = draw.choice(
            (b"", b"0", b"9", b"-1", b"999999", b'"', b"[", b"}", b"null", b"a")
        )
    return with_header(data, bytes(text))


def _lengths_edited(data: bytes, draw: random.Random) -> bytes:
    """Change the lengths that come first, to any number of up to ten bytes."""
    number = bytes(draw.randrange(0x80, 0x100) for _ in range(draw.randrange(10))) + bytes([draw.randrange(0x80)])
    at = BODY + 8
    return data[:at] + number + data[at + draw.choice((0, 1, 2)) :]
