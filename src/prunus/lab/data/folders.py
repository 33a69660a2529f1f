"""Folders that may have a dataset's files: the user's, PRUNUS_DATA, the cache, those of the system's packages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunus.errors import DataError

VARIABLE = "PRUNUS_DATA"


@dataclass(frozen=True)
class Place:
    """A folder to search, and its description for messages."""

    path: Path
    described: str


def cache_folder(name: str) -> Path:
    """Return the folder of a dataset in the user's cache, whether or not it exists.

    It is in $XDG_CACHE_HOME, or in ~/.cache if that is not set to an absolute path.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "prunus" / name


def find(name: str, files: Sequence[str], folder: Path | None, system: Sequence[Path] = ()) -> Place | None:
    """Return the first place that has all of a dataset's files, plain or gzipped, or None.

    In order: `folder`/`name`, `folder`, the same two in the folder of PRUNUS_DATA, the user's cache, the `system`
    folders.

    Raises:
        DataError: `folder` or PRUNUS_DATA is not a folder, or a place has only some of the files (the cache may: an
            interrupted download continues there).
    """
    cache = Place(cache_folder(name), "the cache")
    for place in _places(name, folder, cache, system):
        missing = missing_files(place.path, files)
        if not missing:
            return place
        if len(missing) < len(files) and place is not cache:
            raise DataError(
                f"{place.path} has some of the files of {name!r} but lacks {', '.join(missing)} (plain or .gz); "
                "add the missing files, or remove the others so that this folder is skipped"
            )
    return None


def missing_files(folder: Path, files: Iterable[str]) -> list[str]:
    """Return the files that a folder lacks, plain and gzipped."""
    return [name for name in files if existing(folder, name) is None]


def existing(folder: Path, file: str) -> Path | None:
    """Return the path of a file in a folder, plain before gzipped; None if there is neither."""
    candidates = (folder / file, folder / f"{file}.gz")
    return next((path for path in candidates if path.exists()), None)


def _places(name: str, folder: Path | None, cache: Place, system: Sequence[Path]) -> list[Place]:
    places = []
    variable = os.environ.get(VARIABLE)
    for named, described in ((folder, "the folder given"), (Path(variable) if variable else None, VARIABLE)):
        if named is None:
            continue
        root = named.expanduser()
        if not root.is_dir():
            raise DataError(f"{described} is {str(root)!r}, which is not a folder; expected one with {name!r} in it")
        places += [Place(root / name, described), Place(root, described)]
    return [*places, cache, *(Place(path, "the system") for path in system)]
