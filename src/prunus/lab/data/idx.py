"""Read the IDX format, in which MNIST and similar datasets are published.

A file is two zero bytes, a byte for the type (08: unsigned byte), a byte for the number of dimensions, each
dimension as a big-endian 32-bit number, then the values in row-major order.
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
MAX_DEFLATE_RATIO = 1032  # the largest ratio of any deflate stream: https://zlib.net/zlib_tech.html
MAX_BYTES = 2**30  # MNIST has 47 MB
ADVICE = "remove it or replace it by a complete one"


def read(path: Path, dimensions: int) -> tuple[Tensor, str]:
    """Read an IDX file of unsigned bytes, plain or gzipped, whatever its name.

    Args:
        path: the file.
        dimensions: the number of dimensions: 1 for labels, 3 for grey images.

    Returns:
        The values as a uint8 tensor of the shape in the header, and the SHA-256 of the uncompressed bytes in hex.

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

    Memory is allocated only after the sizes in the header were compared with the file's length.
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
        raise DataError(f"{origin} is truncated: its gzip stream is incomplete; {ADVICE}") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{origin} is a damaged gzip file ({error}); {ADVICE}") from error


def _parse_stream(stream: io.BufferedIOBase, dimensions: int, max_bytes: int, origin: str) -> tuple[Tensor, str]:
    header = stream.read(4 + 4 * dimensions)
    shape = _shape(header, dimensions, origin)
    size = math.prod(shape)
    described = f"{origin} declares {' x '.join(map(str, shape))} bytes"
    if size == 0:
        raise DataError(f"{described}, so it is empty")
    if size > MAX_BYTES:
        raise DataError(f"{described}, above the limit of {MAX_BYTES}")
    if size > max_bytes - len(header):
        raise DataError(f"{described}, but is truncated: it can hold no more than {max_bytes - len(header)}; {ADVICE}")
    content = bytearray(size)
    num_read = stream.readinto(content)
    if num_read < size:
        raise DataError(f"{described}, but is truncated: only {num_read} follow the header; {ADVICE}")
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
