"""Examine this installation: versions, packages, data, compiler; what is missing and how to get it."""

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

# "all" has the packages of all other extras; "dev" is for developers of prunus.
_NO_FEATURE = ("all", "dev")
_REQUIREMENT = re.compile(r"""([\w.-]+)\s*(?:>=\s*([\w.]+))?.*;\s*extra\s*==\s*['"](\w+)['"]""")


@dataclass(frozen=True)
class Finding:
    """The state of one thing that prunus may use.

    Attributes:
        topic: versions, machine, packages or data.
        name: its name.
        state: whether it is there and works.
        told: its version or what is wrong, in words; the name is a key of `prunus doctor --json`.
        remedy: how to get or fix it; empty if it works.
    """

    topic: str
    name: str
    state: State
    told: str
    remedy: str = ""


def examine(data_folder: Path | None = None) -> list[Finding]:
    """Examine everything that prunus may use, without downloading or writing anything.

    Args:
        data_folder: a folder to search for data first.
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
    here = machine()
    yield Finding("machine", "processor", "ok", here.processor)
    yield Finding("machine", "cores", "ok", f"{here.cores}; PyTorch uses {here.threads} of them")
    if here.memory_bytes is not None:
        yield Finding("machine", "memory", "ok", f"{here.memory_bytes / 2**30:.1f} GiB")
    yield Finding("machine", "accelerator", "ok", here.accelerator or "none that PyTorch can use; all runs on the CPU")
    yield _compiler()
    yield _cache()


def _compiler() -> Finding:
    from prunus.compiling import toolchain
    from prunus.compiling.toolchain import MissingCompilerError

    try:
        compiler = toolchain.compiler()
    except MissingCompilerError:
        if os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang"))):
            return Finding("machine", "C compiler", "broken", "it can't be started", "reinstall gcc or clang")
        remedy = "install gcc or clang, or: pip install 'prunus[compile]'"
        return Finding("machine", "C compiler", "missing", "none found; prunus.compile needs one", remedy)
    return Finding("machine", "C compiler", "ok", f"{compiler.version}, by {' '.join(compiler.command)}")


def _cache() -> Finding:
    folder = cache_folder("mnist").parent
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        return Finding("machine", "data cache", "ok", f"{folder} can be written")
    remedy = "set XDG_CACHE_HOME to a folder that can be written"
    detail = f"{existing} can't be written, so downloads can't be kept"
    return Finding("machine", "data cache", "broken", detail, remedy)


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
    for extra, packages in extras.items():
        yield _extra(extra, packages)


def _extra(extra: str, packages: list[tuple[str, str]]) -> Finding:
    installed, lacking = [], []
    for package, least in packages:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            lacking.append(package)
            continue
        if _release(version) < _release(least):
            lacking.append(f"{package} {least} (here is {version})")
        else:
            installed.append(f"{package} {version}")
    if lacking:
        remedy = f"pip install --upgrade 'prunus[{extra}]'"
        return Finding("packages", extra, "missing", f"lacks {', '.join(lacking)}", remedy)
    return Finding("packages", extra, "ok", ", ".join(installed))


def _release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, to compare releases.

    >>> _release("2.13.0+cpu") < _release("2.6")
    False
    """
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def _datasets(folder: Path | None) -> Iterator[Finding]:
    for name in data.names():
        try:
            loaded = data.load(name, folder=folder, download=False)
        except UnavailableError:
            remedy = f"prunus run downloads it, or put its files into a folder and name that by --data or {VARIABLE}"
            yield Finding("data", name, "missing", "not on this machine", remedy)
        except ImportError as error:
            yield Finding("data", name, "missing", str(error))
        except DataError as error:
            yield Finding("data", name, "broken", str(error))
        else:
            total = len(loaded.train) + len(loaded.validation) + len(loaded.test)
            yield Finding("data", name, "ok", f"{total:,} images, from {loaded.source}")
