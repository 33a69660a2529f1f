"""A run's folder: a lock, its recipe, and results with fingerprints of everything they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunus import packing as pack
from prunus.extras import require
from prunus.files import load_with_metadata, remove_left_overs, save_tensors, strict_json, write_json, write_text
from prunus.lab.recipe import Recipe, load

# The files of the measuring stage, the receipt first, since the others are invalid without it.
CONCLUSIONS = ("receipt.json", "report.html", "sensitivity.json", "predictions.safetensors")


class RunLockedError(RuntimeError):
    """Another process is using this folder."""


class RecipeChangedError(ValueError):
    """The folder holds results of another recipe or other data."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder for this process; the lock is released when the process ends in any way.

    Raises:
        RunLockedError: another process has locked it.
    """
    filelock = require("filelock", "running a recipe")
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise RunLockedError(
            f"another prunus run is using {str(folder)!r}; wait for it to end, or give this one another folder"
        ) from error
    try:
        remove_left_overs(folder)
        yield
    finally:
        lock.release()


def claim(folder: Path, recipe: Recipe, *, redo: bool) -> None:
    """Write the recipe into the folder, unless the folder belongs to another one.

    Args:
        folder: the folder of one seed.
        recipe: the recipe to run.
        redo: whether to overwrite the results of another recipe; those that both recipes share are kept.

    Raises:
        RecipeChangedError: the folder holds a run of another recipe, and `redo` is not set.
    """
    path = folder / "recipe.yaml"
    if path.is_file() and (earlier := load(path)).hash != recipe.hash:
        if not redo:
            raise RecipeChangedError(
                f"{str(folder)!r} holds a run of another recipe ({'; '.join(differences(earlier, recipe))}); give "
                "another folder with --out, or --redo to keep what both share and make the rest again"
            )
        for name in CONCLUSIONS:  # they are about models that are made again now
            (folder / name).unlink(missing_ok=True)
    write_text(path, recipe.yaml())


def differences(earlier: Recipe, later: Recipe) -> list[str]:
    """Return the settings that differ between two recipes: ``"train.epochs: 12 -> 3"``."""
    before, after = _flat(earlier.model_dump(mode="json")), _flat(later.model_dump(mode="json"))
    keys = sorted((before.keys() | after.keys()) - {"description"})
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def store(path: Path, model: nn.Module, made_from: str) -> None:
    """Write a model's state dict as the result of a stage; `made_from` is the fingerprint of what it depends on."""
    save_tensors(path, model.state_dict(), {"made_from": made_from})


def restore(path: Path, model: nn.Module, made_from: str, beside: Sequence[Path] = ()) -> bool:
    """Load a stage's result into the model if its fingerprint is the same; return whether it was loaded.

    Args:
        path: the model's file.
        model: the model that the weights are loaded into.
        made_from: the fingerprint of everything the result depends on.
        beside: further files of the stage; if one is missing or has another fingerprint, nothing is loaded.

    Raises:
        ValueError: a file is damaged.
    """
    if not all(file.is_file() for file in (path, *beside)):
        return False
    tensors, metadata = load_with_metadata(path)
    headers = [metadata, *(load_with_metadata(file)[1] for file in beside)]
    if any(header.get("made_from") != made_from for header in headers):
        return False
    model.load_state_dict(tensors)
    return True


def store_packed(path: Path, model: nn.Module, made_from: str, example: Tensor, bits: int | None = None) -> None:
    """Write a model as a `.prunus` file, the result of a stage, and its fingerprint to a second file.

    The fingerprint is written second, with a hash of the content, so it is ignored after a kill between the two.

    Args:
        path: the file; the fingerprint is in ``<its stem>.json``.
        model: the model to write.
        made_from: the fingerprint of everything the result depends on.
        example: an input of the model, to trace it with.
        bits: the `codebook_bits` of `prunus.save`.
    """
    pack.save(model, path, example_inputs=example, codebook_bits=bits)
    vouch(path, made_from)


def vouch(path: Path, made_from: str) -> None:
    """Write the fingerprint of a stage's file beside it."""
    write_json(_beside(path), {"made_from": made_from, "sha256": _sha256(path)})


def restore_packed(path: Path, made_from: str) -> nn.Module | None:
    """Return the model of a stage's `.prunus` file if its fingerprint is the same, otherwise None.

    Raises:
        PackError: the file is damaged.
    """
    if not path.is_file() or vouched(path) != made_from:
        return None
    return pack.load(path)


def vouched(path: Path) -> str | None:
    """Return the fingerprint beside a stage's file; None if there is none, or it is of another content."""
    beside = _beside(path)
    if not path.is_file() or not beside.is_file():
        return None
    try:
        record = json.loads(beside.read_text(encoding="utf-8"))
        return str(record["made_from"]) if record["sha256"] == _sha256(path) else None
    except (ValueError, KeyError, TypeError, RecursionError):  # damaged
        return None


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def made_from_of(path: Path) -> str | None:
    """Return the fingerprint in a result's header; None if it has none."""
    return load_with_metadata(path)[1].get("made_from")


class Seconds:
    """The seconds of each stage, kept in `seconds.json`; stages that a later start skips keep theirs.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "seconds.json"
        self._seconds: dict[str, float] = {}
        if self._path.is_file():
            self._seconds = _seconds_in(self._path)

    def __getitem__(self, stage: str) -> float | None:
        return self._seconds.get(stage)

    def __setitem__(self, stage: str, seconds: float) -> None:
        self._seconds[stage] = round(seconds, 3)
        write_json(self._path, self._seconds)


def _seconds_in(path: Path) -> dict[str, float]:
    try:
        text = path.read_text(encoding="utf-8")
        seconds: dict[str, float] = strict_json.build(dict[str, float], strict_json.parse(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} does not hold the seconds of stages ({error}); delete it") from error
    return seconds
