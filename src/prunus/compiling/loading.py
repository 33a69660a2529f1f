"""One `load` for all files that prunus writes: models, programs, masks and scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast, overload

import torch
from torch import nn

from prunus import files, packing
from prunus.compiling.program import Program
from prunus.compiling.saving import load_program
from prunus.errors import PackError
from prunus.packing import container
from prunus.pruning.masks import Masks
from prunus.quantizing.scales import Scales

T = TypeVar("T")

_WORDS = {nn.Module: "a model", Program: "a program", Masks: "masks", Scales: "scales"}


@overload
def load(
    path: Path | str,
    model: nn.Module | None = None,
    *,
    expect: type[T],
    device: torch.device | str | None = None,
    threads: int | None = None,
    tune: bool = True,
    max_bytes: int | None = None,
) -> T: ...


@overload
def load(
    path: Path | str,
    model: nn.Module | None = None,
    *,
    device: torch.device | str | None = None,
    threads: int | None = None,
    tune: bool = True,
    max_bytes: int | None = None,
) -> Any: ...


def load(
    path: Path | str,
    model: nn.Module | None = None,
    *,
    expect: type[T] | None = None,
    device: torch.device | str | None = None,
    threads: int | None = None,
    tune: bool = True,
    max_bytes: int | None = None,
) -> Any:
    """Read a model (`save`), a program, masks or scales (`Program.save`, ...); the file tells which it holds.

    No file is unpickled, nothing in it is run as code, and what it claims is checked before memory is taken.

    Args:
        path: the file.
        model: for a model's file: where the weights go; without, a model is made of what the file says, in eval mode,
            and nothing of the class it had is needed.
        expect: `torch.nn.Module`, `Program`, `Masks` or `Scales`: what has to be in the file; the result is of that
            type.
        device: for a model: where one that is made goes; the CPU by default.
        threads: for a program: the most that a call may use; None: as many as when it was saved, and no more than there
            are cores.
        tune: for a program: whether kernels are chosen by timing them, see `compile`.
        max_bytes: how much memory a model's tensors, or a program, may take; without, a multiple of the file's size.

    Raises:
        FileNotFoundError: there is no such file.
        PackError: it holds none of these, or something else than was expected; or a model's file is damaged.
        ProgramError, MaskError, ScalesError: a program's file, or one of masks or scales, is damaged.
        TypeError, ValueError: an option is for another kind of file, or names, shapes or number types do not fit the
            model that was given, which was not changed.
        MissingExtraError: a package is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Masks({"weight": torch.tensor([True, False])}).save(f"{folder}/masks.safetensors")
    ...     load(f"{folder}/masks.safetensors", expect=Masks)
    Masks(1 parameters, 1 of 2 weights pruned)
    """
    if expect is not None and expect not in _WORDS:
        raise TypeError(
            f"expect must be torch.nn.Module, prunus.Program, prunus.Masks or prunus.Scales, got {expect!r}"
        )
    kind = _kind(path)
    if expect is not None and kind is not expect:
        raise PackError(f"{str(path)!r} holds {_WORDS[kind]}, not {_WORDS[cast(type[Any], expect)]}")
    of_model: dict[str, object] = {"model": model, "device": device}
    of_program: dict[str, object] = {"threads": threads, "tune": None if tune else tune}
    _check_options(path, kind, {nn.Module: of_model, Program: of_program})
    if kind is nn.Module:
        return packing.load(path, model, device=device or "cpu", max_bytes=max_bytes)
    if kind is Program:
        return load_program(path, threads=threads, tune=tune, max_bytes=max_bytes)
    return Scales.load(path) if kind is Scales else Masks.load(path)


def _kind(path: Path | str) -> type[Any]:
    """Tell what a file holds, by how it begins."""
    if not Path(path).is_file():
        container.read(path)  # says what is wrong
    with Path(path).open("rb") as file:
        start = file.read(9)
    if start.startswith(container.MAGIC) or start[8:9] != b"{":
        return nn.Module  # or nothing that prunus reads, which is said where it is read
    try:
        metadata = files.load_metadata(path)
    except ValueError as error:
        raise PackError(str(error)) from error
    if "program" in metadata:
        return Program
    if metadata.get("kind") == "scales":
        return Scales
    if metadata.get("kind") == "masks" or "names" in metadata:
        return Masks
    raise PackError(
        f"{str(path)!r} holds tensors, but neither masks, scales nor a program: "
        "model.load_state_dict(safetensors.torch.load_file(path)) loads weights"
    )


def _check_options(path: Path | str, kind: type[Any], options: dict[type[Any], dict[str, object]]) -> None:
    for owner, arguments in options.items():
        for name, value in arguments.items():
            if value is not None and owner is not kind:
                raise TypeError(f"{name} is for {_WORDS[owner]}, and {str(path)!r} holds {_WORDS[kind]}")
