"""Write files whole or not at all, and read safetensors files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

_METADATA_KEY = "prunus"

# The limit of numpy; PyTorch allows more, but then fails in other functions.
_MOST_DIMENSIONS = 64

# The names of unfinished files: those of `whole_file`, and the temporary files that safetensors writes beside them.
_UNFINISHED = (".*.part", ".tmp??????")


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, otherwise it is deleted.

    The content is on the disk before the file is renamed, so a killed process or a crashed machine leaves either the
    old file or the new one, never a part. `remove_left_overs` deletes the temporary files of killed processes.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory; give the name of a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    # not tempfile.mkstemp, whose files only the owner may read: these permissions follow the umask
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None  # names the path of the caller
    permissions = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(permissions)  # safetensors replaces the file by one that only the owner may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_left_overs(folder: Path) -> None:
    """Delete the unfinished files of killed processes in a folder to which no other process is writing."""
    for name in _UNFINISHED:
        for left_over in folder.rglob(name):
            left_over.unlink()


def write_text(path: Path | str, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as JSON, whole or not at all; NaN and infinity, which JSON lacks, raise ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as one safetensors file, whole or not at all.

    Tensors that share memory are written once per name, since safetensors refuses shared memory. The metadata is one
    JSON text in the header: safetensors writes several entries in a random order, so the same content would not give
    the same bytes.
    """
    header = {_METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)} if metadata else None
    with whole_file(path) as temporary:
        safetensors.torch.save_file(_independent(tensors), temporary, header)


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values, independent of order, device and memory layout.

    >>> content_hash({"a": torch.zeros(2)}) == content_hash({"a": torch.zeros(2, dtype=torch.float64)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # a tensor of one element may have any stride, but a view as bytes needs stride 1
        flat = tensor.as_strided((tensor.numel(),), (1,))
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checksum_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of the content of a file without the checksum itself."""
    text = json.dumps([content_hash(tensors), sorted(metadata.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, contiguous, none sharing memory; copied only if necessary."""
    independent: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        independent[name] = plain.clone() if memory in used else plain
        used.add(memory)
    return independent


def load_tensors(path: Path | str, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a safetensors file, or it is damaged.
    """
    return load_with_metadata(path, device)[0]


def load_with_metadata(
    path: Path | str, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and the metadata in its header; errors as `load_tensors`."""
    place = torch.device(device)
    with _opened(path) as file:
        tensors = {name: _tensor(file, name) for name in file.keys()}  # noqa: SIM118
        metadata = _metadata(dict(file.metadata() or {}))
    return {name: tensor.to(place) for name, tensor in tensors.items()}, metadata


def load_metadata(path: Path | str) -> dict[str, str]:
    """Read the metadata in a safetensors file's header without its tensors; errors as `load_tensors`."""
    with _opened(path) as file:
        return _metadata(dict(file.metadata() or {}))


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}; expected a .safetensors file")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (safetensors.SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} is not a readable safetensors file ({error}); "
            "it may be truncated, or saved by torch.save, which prunus never loads"
        ) from error


def _tensor(file: Any, name: str) -> Tensor:
    """Return a tensor of an open file.

    Raises:
        ValueError: it has more dimensions than PyTorch can handle, or holds bools that are neither 0 nor 1, with which
            PyTorch's results are undefined.
    """
    if len(file.get_slice(name).get_shape()) > _MOST_DIMENSIONS:
        raise ValueError(f"tensor {name!r:.60} has more than {_MOST_DIMENSIONS} dimensions")
    tensor: Tensor = file.get_tensor(name)
    if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
        raise ValueError(f"tensor {name!r:.60} holds bools that are neither 0 nor 1")
    return tensor


def _metadata(header: dict[str, str]) -> dict[str, str]:
    """Return the metadata that `save_tensors` wrote as one entry; a header of another program is returned as it is."""
    if _METADATA_KEY not in header:
        return header
    packed = json.loads(header[_METADATA_KEY])
    plain = isinstance(packed, dict) and all(isinstance(value, str) for value in packed.values())
    return packed if plain else header
