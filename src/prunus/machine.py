"""A description of this machine, for receipts and reports."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Machine:
    """The machine of a measurement; `threads` is PyTorch's default, `memory_bytes` is None if it is unknown."""

    processor: str
    cores: int
    threads: int
    memory_bytes: int | None
    system: str
    accelerator: str | None = None


def machine() -> Machine:
    """Describe this machine: processor, cores this process may use, PyTorch's threads, memory, system, accelerator."""
    return Machine(
        processor=_processor(),
        cores=cores(),
        threads=torch.get_num_threads(),
        memory_bytes=_memory_bytes(),
        system=_system(),
        accelerator=_accelerator(),
    )


def cores() -> int:
    """Return how many logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux: an affinity mask may allow fewer cores than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _system() -> str:
    release = platform.release().partition("-")[0]  # the rest names the build of the kernel
    return f"{platform.system()} {release} {platform.machine()}, Python {platform.python_version()}"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def _accelerator() -> str | None:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.accelerator.is_available():
        return str(torch.accelerator.current_accelerator())
    return None
