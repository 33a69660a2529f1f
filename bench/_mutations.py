"""Programs, masks and recipes with something changed: by accident, or by someone who computes the checksum anew."""

from __future__ import annotations

import copy
import json
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunus.files import checksum_of, load_with_metadata, save_tensors

Way = Callable[[bytes, random.Random], bytes]

_HOSTILE: tuple[Any, ...] = (
    *(-1, 0, 1, 2, 3, 7, 255, 65_535, 2**24, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63, 10**400, 0.5, -0.0, 1e308),
    *(None, True, False, "", "relu", "0", [], {}, [0], [[]], [1, 1, 1], [2**20] * 3, [0, 2**40], "x" * 3000),
)
_NUMBERS = (0.0, -1.0, 1e38, float("nan"), float("inf"), -float("inf"), 2**31 - 1, -(2**31), 1, 1000, 17)


def safetensors_mutations(data: bytes, count: int, seed: int, text_key: str) -> Iterator[tuple[str, bytes]]:
    """Return changed files of `files.save_tensors`, with what was done; ``and resealed`` where the checksum fits.

    Args:
        data: the file.
        count: how many.
        seed: the same gives the same.
        text_key: which entry of its metadata is JSON.
    """
    original = _Parts.of(data)
    ways: dict[str, Way] = {
        "truncated": _truncated,
        "flipped": _flipped,
        "spliced": _spliced,
        "overwritten": _overwritten,
        "header edited": lambda content, draw: _with_header(content, draw),
        "value replaced": lambda _, draw: original.with_value(draw, text_key),
        "text edited": lambda _, draw: original.with_text(draw, text_key),
        "numbers overwritten": lambda _, draw: original.with_numbers(draw),
        "tensors exchanged": lambda _, draw: original.with_tensors_exchanged(draw),
    }
    yield from _drawn(data, count, seed, ways, lambda name: name in list(ways)[5:])


def text_mutations(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Return changed recipes."""
    ways: dict[str, Way] = {
        "truncated": _truncated,
        "flipped": _flipped,
        "spliced": _spliced,
        "overwritten": _overwritten,
        "token inserted": _token_inserted,
        "value replaced": _setting_replaced,
        "aliases": _aliases,
        "nested": _nested,
    }
    yield from _drawn(data, count, seed, ways, lambda _: False)


def _drawn(
    data: bytes, count: int, seed: int, ways: dict[str, Way], sealed: Callable[[str], bool]
) -> Iterator[tuple[str, bytes]]:
    draw = random.Random(seed)
    while count:
        name = draw.choice(list(ways))
        changed = ways[name](data, draw)
        if changed != data:
            count -= 1
            yield f"{name}{' and resealed' if sealed(name) else ''}", changed


class _Parts:
    """A file's tensors and metadata."""

    def __init__(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        self.tensors = tensors
        self.metadata = {name: text for name, text in metadata.items() if name != "checksum"}

    @classmethod
    def of(cls, data: bytes) -> _Parts:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file.safetensors"
            path.write_bytes(data)
            return cls(*load_with_metadata(path))

    def sealed(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file.safetensors"
            save_tensors(path, tensors, metadata | {"checksum": checksum_of(tensors, metadata)})
            return path.read_bytes()

    def with_value(self, draw: random.Random, key: str) -> bytes:
        """Replace one or more leaves or branches of the JSON by something hostile."""
        tree = json.loads(self.metadata[key])
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            places = list(_places(tree))
            if not places:
                break
            holder, place = draw.choice(places)
            kept = holder[place]
            grown = kept + draw.choice((-1, 1, 2)) if type(kept) is int else kept
            holder[place] = copy.deepcopy(draw.choice((*_HOSTILE, grown, grown, grown, [kept] * 500)))
        return self.sealed(self.tensors, self.metadata | {key: json.dumps(tree)})

    def with_text(self, draw: random.Random, key: str) -> bytes:
        """Change some characters of the JSON."""
        text = self.metadata[key]
        for _ in range(draw.choice((1, 1, 3))):
            at = draw.randrange(len(text))
            piece = draw.choice(("", "0", "9", "-1", "999999", '"', "[", "}", "null", "a", "1e999", "NaN", "[" * 5000))
            text = text[:at] + piece + text[at + draw.randrange(3) :]
        return self.sealed(self.tensors, self.metadata | {key: text})

    def with_numbers(self, draw: random.Random) -> bytes:
        """Change some numbers of a tensor, or its dtype or shape."""
        name = draw.choice(list(self.tensors))
        tensor = self.tensors[name].clone()
        way = draw.randrange(5)
        if way == 0:
            dtypes = (
                torch.float16,
                torch.int64,
                torch.float64,
                torch.bool,
                torch.uint8,
                torch.complex64,
                torch.bfloat16,
            )
            tensor = tensor.to(draw.choice(dtypes))
        elif way == 1:
            tensor = tensor.flatten()[: draw.randrange(tensor.numel() + 1)]
        elif way == 2:
            tensor = tensor[None]
        elif tensor.numel():
            flat = tensor.view(-1)
            for _ in range(draw.choice((1, 1, 5))):
                number = draw.choice(_NUMBERS)
                is_float = flat.is_floating_point()
                flat[draw.randrange(len(flat))] = number if is_float else int(number) if abs(number) < 2**33 else 1
        return self.sealed(self.tensors | {name: tensor}, self.metadata)

    def with_tensors_exchanged(self, draw: random.Random) -> bytes:
        """Let a tensor have another's place, or leave it out."""
        first, second = draw.choice(list(self.tensors)), draw.choice(list(self.tensors))
        tensors = self.tensors | {first: self.tensors[second].clone(), second: self.tensors[first].clone()}
        if draw.random() < 0.3:
            del tensors[first]
        return self.sealed(tensors, self.metadata)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    entries = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for place, value in entries:
        yield tree, place
        yield from _places(value)


def _truncated(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _spliced(data: bytes, draw: random.Random) -> bytes:
    first, second = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return draw.choice((data[:first] + data[second:], data[:second] + data[first:], data[first:] + data[:first]))


def _overwritten(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.choice((b"\0", b"\xff", draw.randbytes(1))) * draw.randrange(1, 9) + data[at + 8 :]


def _with_header(data: bytes, draw: random.Random) -> bytes:
    """Change some characters of a safetensors header, and its length with it."""
    (size,) = struct.unpack("<Q", data[:8])
    text = bytearray(data[8 : 8 + size])
    for _ in range(draw.choice((1, 1, 3))):
        at = draw.randrange(len(text))
        piece = draw.choice((b"", b"0", b"9", b"-1", b"999999", b'"', b"[", b"}", b"null", b"a", b"F64", b"[" * 3000))
        text[at : at + draw.randrange(3)] = piece
    return struct.pack("<Q", draw.choice((len(text), len(text), len(text), 2**40))) + bytes(text) + data[8 + size :]


def _token_inserted(data: bytes, draw: random.Random) -> bytes:
    tokens = (
        b"[",
        b"{",
        b"&a ",
        b"*a",
        b"<<: *a\n",
        b"!!python/object:os.system x",
        b"? ",
        b"- ",
        b"\t",
        b"|",
        b"%YAML 9.9\n",
    )
    tokens += (
        b"---\n",
        b"...\n",
        b"1" * 5000,
        b"1e999",
        b".nan",
        b"0x" + b"f" * 500,
        b"\xf0\x9f\x98\x80",
        b"'",
        b'"\\x',
        b": ",
    )
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice(tokens) + data[at:]


def _setting_replaced(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    settings = [place for place, line in enumerate(lines) if b": " in line]
    place = draw.choice(settings)
    values = (
        b"-1",
        b"0",
        b"1e308",
        b"10" * 200,
        b".nan",
        b"[]",
        b"{}",
        b"null",
        b"true",
        b"[[[]]]",
        b"1e-320",
        b"'" + b"x" * 9000 + b"'",
    )
    values += (
        b"2",
        b"0.5",
        b"[1, 2, 3]",
        b"[" + b"9, " * 5000 + b"9]",
        b"lenet",
        b"magnitude",
        b"2:4",
        b"block-4x99999999",
    )
    lines[place] = lines[place].partition(b": ")[0] + b": " + draw.choice(values)
    return b"\n".join(lines)


def _aliases(data: bytes, draw: random.Random) -> bytes:
    levels, width = draw.choice(((2, 3), (9, 9), (40, 2), (5, 50), (300, 3)))
    kind = draw.choice((b"[%s]", b"{k: [%s]}"))
    lines = [b"z0: &z0 " + kind % b", ".join([b"x" * draw.choice((1, 1000))] * width)]
    lines += [b"z%d: &z%d " % (n, n) + kind % b", ".join([b"*z%d" % (n - 1)] * width) for n in range(1, levels)]
    places = (data + b"\n" + b"\n".join(lines), b"\n".join(lines) + b"\n" + data, b"\n".join(lines) + b"\nname: *z0\n")
    return draw.choice(places)


def _nested(data: bytes, draw: random.Random) -> bytes:
    depth, (opened, closed) = (
        draw.choice((10, 500, 5000, 30_000)),
        draw.choice(((b"[", b"]"), (b"{a: ", b"}"), (b"- ", b""))),
    )
    return data + b"\ndeep: " + opened * depth + (closed * depth if draw.random() < 0.5 else b"") + b"\n"
