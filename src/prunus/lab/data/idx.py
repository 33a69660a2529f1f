"""Reading the IDX format, in which MNIST and sets like it are published.

A file is two zero bytes, a byte for the type (08: unsigned byte), a byte for the number of dimensions, each
dimension as a big-endian 32-bit number, then the values, the last dimension running fastest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from prunus.errors import DataError

UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"
MAX_DEFLATE_RATIO = 1032  # no deflate stream grows by more: https://zlib.net/zlib_tech.html
MAX_BYTES = 2**30  # MNIST has 47 MB
ADVICE = "take it away or put a whole one in its place"


def read(path: Path, dimensions: int) -> tuple[Tensor, str]:
    """Read an IDX file of unsigned bytes, plain or gzipped; which of the two, its content tells, not its name.

    Args:
        path: the file.
        dimensions: how many the values have: 1 for labels, 3 for grey images.

    Returns:
        The values as a uint8 tensor of the shape the header gives, and the sha256 of the uncompressed bytes in hex.

    Raises:
        DataError: the file can't be opened or its compression is damaged.
        DataError: it is not an IDX file of unsigned bytes with that many dimensions.
        DataError: it is shorter than its header says.
        DataError: it is longer, or the header declares more than `MAX_BYTES`.
    """
    try:
        with path.open("rb") as file:
            return parse(file, dimensions, str(path))
    except OSError as error:
        raise DataError(f"{path} can't be read ({error}); expected an IDX file, plain or gzipped") from error


def parse(file: io.BufferedIOBase, dimensions: int, origin: str) -> tuple[Tensor, str]:
    """Parse an open IDX file as `read` does; `origin` names it in errors.

    Memory is only taken for bytes that can be there: the sizes in the header are held against the file's length first.
    """
    stored = file.seek(0, os.SEEK_END)
    file.seek(0)
    packed = file.read(2) == GZIP_MAGIC
    file.seek(0)
    try:
        if packed:
            with gzip.GzipFile(fileobj=file) as stream:
                return _parse_stream(stream, dimensions, stored * MAX_DEFLATE_RATIO, origin)
        return _parse_stream(file, dimensions, stored, origin)
    except EOFError as error:
        raise DataError(f"{origin} is truncated: its gzip stream breaks off; {ADVICE}") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{origin} is a damaged gzip file ({error}); {ADVICE}") from error


def _parse_stream(stream: io.BufferedIOBase, dimensions: int, most: int, origin: str) -> tuple[Tensor, str]:
    header = stream.read(4 + 4 * dimensions)
    shape = _shape(header, dimensions, origin)
    size = math.prod(shape)
    described = f"{origin} declares {' x '.join(map(str, shape))} bytes"
    if size == 0:
        raise DataError(f"{described}, which is no data at all")
    if size > MAX_BYTES:
        raise DataError(f"{described}; more than {MAX_BYTES} is refused")
    if size > most - len(header):
        raise DataError(f"{described}, but is truncated: it can hold no more than {most - len(header)}; {ADVICE}")
    content = bytearray(size)
    found = stream.readinto(content)
    if found < size:
        raise DataError(f"{described}, but is truncated: only {found} follow the header; {ADVICE}")
    if stream.read(1):  # at the end of a gzip stream this also checks its CRC
        raise DataError(f"{described}, but more follow; {ADVICE}")
    digest = hashlib.sha256(header)
    digest.update(content)
    return torch.frombuffer(content, dtype=torch.uint8).view(shape), digest.hexdigest()


def _shape(header: bytes, dimensions: int, origin: str) -> tuple[int, ...]:
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if len(header) >= len(magic) and header[:4] != magic:
        raise DataError(
            f"{origin} starts with the bytes {header[:4].hex(' ')}, expected {magic.hex(' ')}: "
            f"an IDX file of unsigned bytes in {dimensions} dimension{'s' * (dimensions > 1)}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{origin} is truncated: an IDX header takes {4 + 4 * dimensions} bytes, got {len(header)}")
    return struct.unpack(f">{dimensions}I", header[4:])
