"""The size of a model on disk: as a safetensors file, and of that file compressed."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunus import extras, files

# zstd -19 compresses about 2 MiB per second and gzip -9 5 to 20, so this takes up to a minute.
COMPRESS_LIMIT = 64 * 2**20
_PIECE = 2**20
_GZIP_WRAPPER = 31  # zlib's window bits for a gzip header, without a time, and trailer


class Sizes(NamedTuple):
    """Sizes by format, and notes on the formats that were left out."""

    bytes: dict[str, int]
    notes: tuple[str, ...]


def sizes(state: Mapping[str, Any], *, compress_limit: int = COMPRESS_LIMIT) -> Sizes:
    """Return the size of a state dict as a safetensors file, and of that file after ``gzip -9`` and ``zstd -19``.

    The file is that of `files.save_tensors`, in which a weight with two names is stored twice.

    Args:
        state: a model's ``state_dict()``.
        compress_limit: files larger than this are not compressed, since it takes minutes; the notes say so.

    >>> sizes({"weight": torch.zeros(1000)}).bytes["safetensors"]
    4080
    """
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = f"{value.dtype} {value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
            return Sizes({}, (f"bytes: {name!r} of the state dict is a {kind}, which safetensors can't hold",))
    with tempfile.TemporaryDirectory(prefix="prunus-") as folder:
        path = Path(folder) / "model.safetensors"
        files.save_tensors(path, state)
        size = path.stat().st_size
        if size > compress_limit:
            note = f"gzip, zstd: the file has {size:,} bytes, above the limit of {compress_limit:,} for compressing"
            return Sizes({"safetensors": size}, (note,))
        measured = {"safetensors": size, "gzip": _gzip(path)}
        try:
            return Sizes(measured | {"zstd": _zstd(path, size)}, ())
        except extras.MissingExtraError as error:
            return Sizes(measured, (str(error),))


def _gzip(path: Path) -> int:
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP_WRAPPER)
    return sum(len(packer.compress(piece)) for piece in _pieces(path)) + len(packer.flush())


def _zstd(path: Path, size: int) -> int:
    zstandard = extras.require("zstandard", "the size through zstd -19")
    packer = zstandard.ZstdCompressor(level=19).compressobj(size=size)
    return sum(len(packer.compress(piece)) for piece in _pieces(path)) + len(packer.flush())


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
