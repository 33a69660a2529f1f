"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

_METADATA_KEY = "prunus"


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, else it goes.

    The content reaches the disk before the name does, so a killed process or a lost machine leaves either
    the old file or the new one, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


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
    independent = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    header = {_METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)} if metadata else None
    with whole_file(path) as temporary:
        safetensors.torch.save_file(independent, temporary, header)


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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}; expected a .safetensors file")
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is not a readable safetensors file ({error}); "
            "it may be truncated, or saved by torch.save, which prunus never loads"
        ) from error
    metadata = json.loads(header[_METADATA_KEY]) if _METADATA_KEY in header else header
    return tensors, metadata
