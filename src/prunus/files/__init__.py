"""Files that are written whole or not at all."""

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

# As many as numpy takes; PyTorch takes more, and then fails in odd places.
_MOST_DIMENSIONS = 64

# The names of unfinished files: those of `whole_file`, and those that safetensors writes in turn for each of them.
_UNFINISHED = (".*.part", ".tmp??????")


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, else it goes.

    The content reaches the disk before the name does, so a killed process or a lost machine leaves either
    the old file or the new one, never a part. What a killed process leaves beside it, `remove_left_overs` finds.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory; give the name of a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    # not tempfile.mkstemp: its files are for the owner only, while these permissions follow the umask
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None  # the name the caller knows
    permissions = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(permissions)  # safetensors puts a file of its own in place, for the owner only
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_left_overs(folder: Path) -> None:
    """Remove the unfinished files of killed processes, in a folder where no other process is writing now."""
    for name in _UNFINISHED:
        for left_over in folder.rglob(name):
            left_over.unlink()


def write_text(path: Path | str, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as JSON, whole or not at all; NaN and infinity are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as one safetensors file, whole or not at all.

    Tensors that share memory are written once each under their own name, as safetensors wants. The metadata
    goes into the header as one JSON text: with several entries safetensors orders them anew each time, and
    the same content would not give the same bytes.
    """
    header = {_METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)} if metadata else None
    with whole_file(path) as temporary:
        safetensors.torch.save_file(_independent(tensors), temporary, header)


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return sha256 over names, dtypes, shapes and values, whatever the order, device or memory layout.

    >>> content_hash({"a": torch.zeros(2)}) == content_hash({"a": torch.zeros(2, dtype=torch.float64)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.as_strided(
            (tensor.numel(),), (1,)
        )  # one element may have any stride, which a view of bytes minds
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checksum_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return sha256 over all that a file is to hold, its checksum itself left out."""
    text = json.dumps([content_hash(tensors), sorted(metadata.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, contiguous, each in memory of its own; copied only where it has to be."""
    independent: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        independent[name] = plain.clone() if memory in taken else plain
        taken.add(memory)
    return independent


def load_tensors(path: Path | str, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a safetensors file, or a damaged one.
    """
    return load_with_metadata(path, device)[0]


def load_with_metadata(
    path: Path | str, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and the text its header carries; errors as `load_tensors`."""
    place = torch.device(device)
    with _opened(path) as file:
        tensors = {name: _tensor(file, name) for name in file.keys()}  # noqa: SIM118
        metadata = _metadata(dict(file.metadata() or {}))
    return {name: tensor.to(place) for name, tensor in tensors.items()}, metadata


def load_metadata(path: Path | str) -> dict[str, str]:
    """Read the text that a safetensors file's header carries, and none of its tensors; errors as `load_tensors`."""
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
        ValueError: it has more dimensions than PyTorch can print or pass on, or is of bools that are neither true nor
            false: what PyTorch computes with those is undefined.
    """
    if len(file.get_slice(name).get_shape()) > _MOST_DIMENSIONS:
        raise ValueError(f"tensor {name!r:.60} has more than {_MOST_DIMENSIONS} dimensions")
    tensor: Tensor = file.get_tensor(name)
    if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
        raise ValueError(f"tensor {name!r:.60} holds bools that are neither 0 nor 1")
    return tensor


def _metadata(header: dict[str, str]) -> dict[str, str]:
    """Return what `save_tensors` packed into one entry; a header another program wrote is taken as it is."""
    if _METADATA_KEY not in header:
        return header
    packed = json.loads(header[_METADATA_KEY])
    plain = isinstance(packed, dict) and all(isinstance(value, str) for value in packed.values())
    return packed if plain else header
