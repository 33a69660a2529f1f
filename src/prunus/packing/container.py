"""The file: magic, version, two checksums, a header, and the coded tensors.

    bytes  what
    4      ``PRUN``
    1      version of the format, 1
    8      of the SHA-256 of everything that follows
    8      of the SHA-256 of what the file decodes to: the header, and name, type, shape and bits of each tensor
    1-10   bytes of the packed header, and its packing: 4 n + packing
    1-10   bytes of the header
    n      the header, JSON, packed
    rest   the tensors, one stream of the range coder

The first checksum finds damage before anything is read; the second shows that what was read is what was written, on
another machine and with other versions of the libraries too. Both are cut to eight bytes: they find accidents, which
slip through once in 2 ** 64 times, and whoever wants to forge a file can compute a longer one just as well, so safety
never rests on them.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prunus.errors import PackError
from prunus.packing.errors import DamagedError
from prunus.strict_json import FieldError, parse

T = TypeVar("T")

MAGIC = b"PRUN"
VERSION = 1
_CHECKSUM = 8
_START = len(MAGIC) + 1 + 2 * _CHECKSUM

# A header may be as large as this, and so many times the file: JSON takes many times its size in memory.
_HEADER_ALWAYS = 1 << 18
_HEADER_TIMES = 64
# What a header is likely to hold; deflate finds it there instead of in the file. Part of the format: a change is a new
# version.
_DICTIONARY = (
    b'running_mean","running_var","num_batches_tracked","in_proj_weight","in_proj_bias","out_proj.weight","out_proj.bias'
    b'"embedding.weight","layers.0.norm1.weight","self_attn.q_proj.weight","attention.self.query.weight","mlp.fc1.weight'
    b'"bn1.weight","conv1.weight","conv1.bias","conv2.weight","fc.bias","fc1.weight","fc1.bias","bfloat16","float16","int64"'
    b'{"graph":{"tied":{"0.weight","0.bias","2.weight","2.bias"},"dtype":"float32","tensors":[["weight",["bias",'
    b'{"model":"lenet-300-100","model":"lenet5","model":"resnet20","arguments":{"shortcut":"projected","image_size":32,'
    b'{"model":"lenet5-caffe","arguments":{"num_classes":10,"in_channels":1,"image_size":28,"widths":[20,50,500]},"dtype":"float32"}'
)
_LZMA = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 24, "lc": 3, "lp": 0, "pb": 0, "nice_len": 273, "depth": 0}]
_STORED, _DEFLATED, _LZMAED = range(3)
_NUM_PACKINGS = 4

# How other files begin that someone might take for one of these.
_KNOWN_STARTS = {
    b"PK\x03\x04": "a zip archive, such as torch.save writes",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\xfd7zXZ": "an xz file",
}


class Content(NamedTuple):
    """What lies in a file.

    Attributes:
        header: JSON values.
        header_text: the header as it was written.
        stream: the coded tensors.
        checksum: of what they decode to.
        size: of the file, in bytes.
    """

    header: dict[str, Any]
    header_text: bytes
    stream: memoryview
    checksum: bytes
    size: int


def content_checksum(header_text: bytes, tensors: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the checksum of what a file decodes to.

    Args:
        header_text: the header.
        tensors: of each, its name, type and shape as one text, and the SHA-256 of its bits, little-endian.
    """
    digest = hashlib.sha256(header_text)
    for told, of_bits in tensors:
        digest.update(told.encode() + b"\n" + of_bits)
    return digest.digest()[:_CHECKSUM]


def header_text(header: dict[str, Any]) -> bytes:
    """Return a header as it is written: compact JSON."""
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def join(text: bytes, stream: bytes, checksum: bytes) -> bytes:
    """Return a whole file.

    Args:
        text: the header, of `header_text`.
        stream: the coded tensors.
        checksum: of `content_checksum`.
    """
    packings = {
        _STORED: text,
        _DEFLATED: _deflate(text),
        _LZMAED: lzma.compress(text, lzma.FORMAT_RAW, filters=_LZMA),
    }
    packing, packed = min(packings.items(), key=lambda item: len(item[1]))
    if len(text) > _most_header(_START + len(packed) + len(stream)):
        packing, packed = _STORED, text
    start = checksum + _varint(_NUM_PACKINGS * len(packed) + packing) + _varint(len(text)) + packed
    digest = hashlib.sha256(start)
    digest.update(stream)
    return b"".join((MAGIC, bytes([VERSION]), digest.digest()[:_CHECKSUM], start, stream))


def read(path: Path | str) -> Content:
    """Read a file up to its header; the tensors are left coded.

    Raises:
        FileNotFoundError: there is none.
        PackError: it is something else, of a later version, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        raise PackError(f"{str(path)!r} is a directory; give a .prunus file")
    if not path.exists():
        raise FileNotFoundError(f"no file at {str(path)!r}; expected a .prunus file")
    return named(path, lambda: split(path.read_bytes()))


def named(path: Path | str, work: Callable[[], T]) -> T:
    """Call `work`, and let a PackError begin with the file's name."""
    try:
        return work()
    except PackError as error:
        raise PackError(f"{str(path)!r} can't be read: {error}") from error
    except RecursionError as error:
        raise PackError(f"{str(path)!r} can't be read: its header is nested too deeply") from error


def split(data: bytes) -> Content:
    """Return what lies in the bytes of a whole file; errors as `read`."""
    _check_start(data)
    body = memoryview(data)[len(MAGIC) + 1 + _CHECKSUM :]
    told = data[len(MAGIC) + 1 : len(MAGIC) + 1 + _CHECKSUM]
    if hashlib.sha256(body).digest()[:_CHECKSUM] != told:
        raise DamagedError("its checksum is not that of its content; copy or download it anew")
    packed_size, at = _read_varint(data, _START)
    size, at = _read_varint(data, at)
    packed_size, packing = divmod(packed_size, _NUM_PACKINGS)
    if packed_size > len(data) - at:
        raise DamagedError(f"its header is said to take {packed_size:,} bytes, but {len(data) - at:,} are left")
    if size > _most_header(len(data)):
        raise DamagedError(f"its header is said to be {size:,} bytes long, too many for a file of {len(data):,}")
    text = _unpack(data[at : at + packed_size], packing, size)
    return Content(_parse(text), text, memoryview(data)[at + packed_size :], bytes(body[:_CHECKSUM]), len(data))


def _check_start(data: bytes) -> None:
    if not data:
        raise PackError("it is empty")
    if not data.startswith(MAGIC[: len(data)]):
        known = next((told for start, told in _KNOWN_STARTS.items() if data.startswith(start)), None)
        if data[8:9] == b"{":
            known = "a safetensors file, which prunus.files.load_tensors reads"
        raise PackError(f"it is not a .prunus file{f', but {known}' if known else ''}")
    if len(data) > len(MAGIC) and data[len(MAGIC)] > VERSION:
        raise PackError(
            f"it has version {data[len(MAGIC)]} of the format, and this prunus reads up to {VERSION}; upgrade prunus"
        )
    if len(data) < _START + 2 or data[len(MAGIC)] == 0:
        raise DamagedError("it is too short" if len(data) < _START + 2 else "its version is 0")


def _most_header(file_size: int) -> int:
    return _HEADER_ALWAYS + _HEADER_TIMES * file_size


def _deflate(text: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=_DICTIONARY)
    return packer.compress(text) + packer.flush()


def _unpack(packed: bytes, packing: int, size: int) -> bytes:
    """Unpack at most `size` bytes, which must be all."""
    try:
        if packing == _STORED:
            text = packed
        elif packing == _DEFLATED:
            text = zlib.decompressobj(-15, zdict=_DICTIONARY).decompress(packed, size + 1)
        elif packing == _LZMAED:
            text = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA).decompress(packed, size + 1)
        else:
            raise DamagedError("its header is packed in an unknown way")
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise DamagedError("its header can't be unpacked") from error
    if len(text) != size:
        raise DamagedError(f"its header does not have the {size:,} bytes it is said to have")
    return text


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = parse(text.decode())
    except (FieldError, UnicodeDecodeError) as error:
        raise DamagedError(f"its header is no text of JSON ({error})") from error
    if not isinstance(header, dict):
        raise DamagedError("its header is no JSON object")
    return header


def _varint(number: int) -> bytes:
    """Return a whole number in bytes of seven bits, the low ones first; all but the last have the high bit set."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 0x7F) << 7 * place
        if byte <= 0x7F:
            return number, at + place + 1
    raise DamagedError("a length in it has no end")
