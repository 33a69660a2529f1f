"""The file: magic, version, two checksums, a header, and the coded tensors.

    bytes  content
    4      ``PRUN``
    1      version of the format, 2
    8      first bytes of the SHA-256 of everything that follows
    8      first bytes of the SHA-256 of the decoded content: the header, and name, type, shape and bits of each tensor
    1      the number of the dictionary that the header was deflated with; 0 if it was not deflated
    1-10   size of the deflated header in bytes
    1-10   size of the header in bytes
    n      the header, JSON, deflated
    rest   the tensors, one stream of the range coder

The first checksum finds damage before anything is decoded; the second shows that the decoded content is what was
written, also on another machine and with other versions of the libraries. Both have eight bytes: they miss one accident
in 2 ** 64. They are no protection against a forger, who could compute longer ones too, so safety never depends on them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prunus.errors import PackError
from prunus.files.strict_json import FieldError, parse
from prunus.packing.dictionaries import DICTIONARIES
from prunus.packing.errors import DamagedError

T = TypeVar("T")

MAGIC = b"PRUN"
VERSION = 2
_CHECKSUM = 8
_START = len(MAGIC) + 1 + 2 * _CHECKSUM

# The largest header: this many bytes, plus this many times the file, since JSON takes many times its size in memory.
_HEADER_ALWAYS = 1 << 18
_HEADER_TIMES = 64
_STORED = 0

# The first bytes of other files that someone might try to load.
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive, such as torch.save writes",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\xfd7zXZ": "an xz file",
}


class Content(NamedTuple):
    """The content of a file.

    Attributes:
        header: the header as JSON values.
        header_text: the header as text.
        stream: the coded tensors.
        checksum: the checksum of the decoded content.
        size: the size of the file in bytes.
    """

    header: dict[str, Any]
    header_text: bytes
    stream: memoryview
    checksum: bytes
    size: int


def content_checksum(header_text: bytes, tensors: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the checksum of the decoded content.

    Args:
        header_text: the header.
        tensors: name, type and shape of each tensor as one text, and the SHA-256 of its bits, little-endian.
    """
    digest = hashlib.sha256(header_text)
    for entry, bits_digest in tensors:
        digest.update(entry.encode() + b"\n" + bits_digest)
    return digest.digest()[:_CHECKSUM]


def header_text(header: dict[str, Any]) -> bytes:
    """Return a header as compact JSON."""
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def join(text: bytes, stream: bytes, checksum: bytes) -> bytes:
    """Return the bytes of a whole file.

    Args:
        text: the header, from `header_text`.
        stream: the coded tensors.
        checksum: from `content_checksum`.
    """
    number, packed = len(DICTIONARIES), _deflate(text)
    if len(text) > _max_header(_START + len(packed) + len(stream)):
        number, packed = _STORED, text
    start = checksum + bytes([number]) + _varint(len(packed)) + _varint(len(text)) + packed
    digest = hashlib.sha256(start)
    digest.update(stream)
    return b"".join((MAGIC, bytes([VERSION]), digest.digest()[:_CHECKSUM], start, stream))


def read(path: Path | str) -> Content:
    """Read a file and decode its header, but not its tensors.

    Raises:
        FileNotFoundError: there is no such file.
        PackError: it is not a `.prunus` file, of another version, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        raise PackError(f"{str(path)!r} is a directory; give a .prunus file")
    if not path.exists():
        raise FileNotFoundError(f"no file at {str(path)!r}; expected a .prunus file")
    return named(path, lambda: split(path.read_bytes()))


def named(path: Path | str, work: Callable[[], T]) -> T:
    """Call `work`; the message of a PackError then begins with the file's name."""
    try:
        return work()
    except PackError as error:
        raise PackError(f"{str(path)!r} can't be read: {error}") from error
    except RecursionError as error:
        raise PackError(f"{str(path)!r} can't be read: its header is nested too deeply") from error


def split(data: bytes) -> Content:
    """Return the content of the bytes of a whole file; errors as `read`."""
    _check_start(data)
    body = memoryview(data)[len(MAGIC) + 1 + _CHECKSUM :]
    checksum = data[len(MAGIC) + 1 : len(MAGIC) + 1 + _CHECKSUM]
    if hashlib.sha256(body).digest()[:_CHECKSUM] != checksum:
        raise DamagedError("its checksum is not that of its content; copy or download it again")
    packed_size, at = _read_varint(data, _START + 1)
    size, at = _read_varint(data, at)
    if packed_size > len(data) - at:
        raise DamagedError(f"its header should have {packed_size:,} bytes, but only {len(data) - at:,} are left")
    if size > _max_header(len(data)):
        raise DamagedError(f"its header should have {size:,} bytes unpacked, too many for a file of {len(data):,}")
    text = _unpack(data[at : at + packed_size], data[_START], size)
    return Content(_parse(text), text, memoryview(data)[at + packed_size :], bytes(body[:_CHECKSUM]), len(data))


def _check_start(data: bytes) -> None:
    if not data:
        raise PackError("it is empty")
    if not data.startswith(MAGIC[: len(data)]):
        other = next((kind for start, kind in _OTHER_KINDS.items() if data.startswith(start)), None)
        if data[8:9] == b"{":
            other = "a safetensors file, which prunus.files.load_tensors reads"
        raise PackError(f"it is not a .prunus file{f', but {other}' if other else ''}")
    if len(data) > len(MAGIC) and data[len(MAGIC)] > VERSION:
        raise PackError(
            f"it has version {data[len(MAGIC)]} of the format, and this prunus reads up to {VERSION}; upgrade prunus"
        )
    if data[len(MAGIC) : len(MAGIC) + 1] == b"\x01":
        raise PackError(
            "it is of prunus 0.1, whose files later versions can't read; extract its weights with prunus 0.1 "
            "(prunus unpack FILE --out weights.safetensors), load them into the model, and save the model again"
        )
    if len(data) < _START + 3 or data[len(MAGIC)] == 0:
        raise DamagedError("it is too short" if len(data) < _START + 3 else "its version is 0")


def _max_header(file_size: int) -> int:
    return _HEADER_ALWAYS + _HEADER_TIMES * file_size


def _deflate(text: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARIES[-1])
    return packer.compress(text) + packer.flush()


def _unpack(packed: bytes, number: int, size: int) -> bytes:
    """Unpack exactly `size` bytes with the dictionary of that number."""
    if number > len(DICTIONARIES):
        raise PackError(
            f"its header needs dictionary {number}, and this prunus has {len(DICTIONARIES)} of them; upgrade prunus"
        )
    try:
        text = packed
        if number != _STORED:
            text = zlib.decompressobj(-15, zdict=DICTIONARIES[number - 1]).decompress(packed, size + 1)
    except zlib.error as error:
        raise DamagedError("its header can't be unpacked") from error
    if len(text) != size:
        raise DamagedError(f"its header does not have {size:,} bytes")
    return text


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = parse(text.decode())
    except (FieldError, UnicodeDecodeError) as error:
        raise DamagedError(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise DamagedError("its header is not a JSON object")
    return header


def _varint(number: int) -> bytes:
    """Return a whole number as bytes of seven bits, the lowest first; all but the last have the high bit set."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 0x7F) << 7 * place
        if byte <= 0x7F:
            return number, at + place + 1
    raise DamagedError("a length in it has no end")
