"""What prunus finds where it runs: versions, packages, data, compiler; what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeAlias

import torch

import prunus
from prunus.errors import DataError, UnavailableError
from prunus.lab import data
from prunus.lab.data.folders import VARIABLE, cache_folder
from prunus.machine import machine

State: TypeAlias = Literal["ok", "missing", "broken"]

# The packages of "all" are those of the others together; "dev" is for those who work on prunus itself.
_NO_FEATURE = ("all", "dev")
_REQUIREMENT = re.compile(r"""([\w.-]+)\s*(?:>=\s*([\w.]+))?.*;\s*extra\s*==\s*['"](\w+)['"]""")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what it belongs to: versions, machine, packages or data.
        name: what was looked at.
        state: whether it is there and works.
        told: what was found, in words.
        remedy: how to get or mend it; empty where all is well.
    """

    topic: str
    name: str
    state: State
    told: str
    remedy: str = ""


def examine(data_folder: Path | None = None) -> list[Finding]:
    """Look at everything prunus may use; nothing is downloaded and nothing is written.

    Args:
        data_folder: a folder to look for data in first.
    """
    return [*_versions(), *_machine(), *_packages(), *_datasets(data_folder)]


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "prunus", "ok", f"{prunus.__version__}, from {Path(prunus.__file__).parent}")
    yield Finding("versions", "python", "ok", platform.python_version())
    made_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    if not (torch.version.cuda or torch.version.hip):
        made_for = "the CPU"
    yield Finding("versions", "torch", "ok", f"{torch.__version__}, made for {made_for}")


def _machine() -> Iterator[Finding]:
    found = machine()
    yield Finding("machine", "processor", "ok", found.processor)
    yield Finding("machine", "cores", "ok", f"{found.cores}; PyTorch uses {found.threads} threads")
    if found.memory_bytes is not None:
        yield Finding("machine", "memory", "ok", f"{found.memory_bytes / 2**30:.1f} GiB")
    yield Finding("machine", "accelerator", "ok", found.accelerator or "none that PyTorch can use; all runs on the CPU")
    yield _compiler()
    yield _cache()


def _compiler() -> Finding:
    from prunus.compiling import toolchain
    from prunus.compiling.toolchain import MissingCompilerError

    try:
        found = toolchain.compiler()
    except MissingCompilerError:
        if os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang"))):
            return Finding("machine", "C compiler", "broken", "it can't be started", "install gcc or clang anew")
        remedy = "install gcc or clang, or: pip install 'prunus[compile]'"
        return Finding("machine", "C compiler", "missing", "none found; prunus.compile needs one", remedy)
    return Finding("machine", "C compiler", "ok", f"{found.version}, by {' '.join(found.command)}")


def _cache() -> Finding:
    folder = cache_folder("mnist").parent
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return Finding("machine", "data cache", "ok", f"{folder} can be written")
    remedy = "set XDG_CACHE_HOME to a folder that can be written"
    return Finding("machine", "data cache", "broken", f"{there} can't be written, so downloads can't be kept", remedy)


def _packages() -> Iterator[Finding]:
    try:
        requirements = metadata.requires("prunus") or []
    except metadata.PackageNotFoundError:
        remedy = "pip install --editable . in the folder that holds pyproject.toml"
        yield Finding("packages", "prunus", "missing", "runs from its source without being installed", remedy)
        return
    extras: dict[str, list[tuple[str, str]]] = {}
    for requirement in requirements:
        if (match := _REQUIREMENT.fullmatch(requirement)) and match[3] not in _NO_FEATURE:
            extras.setdefault(match[3], []).append((match[1], match[2] or "0"))
    for extra, wanted in extras.items():
        yield _extra(extra, wanted)


def _extra(extra: str, wanted: list[tuple[str, str]]) -> Finding:
    there, lacking = [], []
    for package, least in wanted:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            lacking.append(package)
            continue
        if _release(version) < _release(least):
            lacking.append(f"{package} {least} (here is {version})")
        else:
            there.append(f"{package} {version}")
    if lacking:
        remedy = f"pip install --upgrade 'prunus[{extra}]'"
        return Finding("packages", extra, "missing", f"lacks {', '.join(lacking)}", remedy)
    return Finding("packages", extra, "ok", ", ".join(there))


def _release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: enough to tell which of two releases is older.

    >>> _release("2.13.0+cpu") < _release("2.6")
    False
    """
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def _datasets(folder: Path | None) -> Iterator[Finding]:
    for name in data.names():
        try:
            found = data.load(name, folder=folder, download=False)
        except UnavailableError:
            remedy = f"prunus run downloads it, or put its files into a folder and name that by --data or {VARIABLE}"
            yield Finding("data", name, "missing", "not on this machine", remedy)
        except ImportError as error:
            yield Finding("data", name, "missing", str(error))
        except DataError as error:
            yield Finding("data", name, "broken", str(error))
        else:
            total = len(found.train) + len(found.validation) + len(found.test)
            yield Finding("data", name, "ok", f"{total:,} images, from {found.source}")
