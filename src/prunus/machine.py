"""A description of this machine, for receipts and reports."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import torch

from prunus.files import strict_json

# What the system calls instructions that decide on a model's time, and what their makers do; in the order of reports.
_INSTRUCTIONS = {
    "sse4_2": "SSE4.2",
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX bf16",
    "asimd": "NEON",
    "asimddp": "dot products of 8 bits",
    "i8mm": "matrices of 8 bits",
    "sve": "SVE",
}


@dataclass(frozen=True)
class Machine:
    """The machine of a measurement; `threads` is PyTorch's default, `memory_bytes` is None if it is unknown.

    `instructions` are those that decide on a model's time, such as AVX2 and AVX-512 VNNI; empty if they are unknown.
    """

    processor: str
    cores: int
    threads: int
    memory_bytes: int | None
    system: str
    accelerator: str | None = None
    instructions: tuple[str, ...] = field(default=(), metadata=strict_json.MAY_LACK)


def machine() -> Machine:
    """Describe this machine: its processor, the cores that this process may use, memory, system, accelerator."""
    return Machine(
        processor=_from_listing("model name") or platform.processor() or platform.machine() or "unknown",
        cores=cores(),
        threads=torch.get_num_threads(),
        memory_bytes=_memory_bytes(),
        system=_system(),
        accelerator=_accelerator(),
        instructions=_instructions(),
    )


def cores() -> int:
    """Return how many logical cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux: an affinity mask may allow fewer cores than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _system() -> str:
    release = platform.release().partition("-")[0]  # the rest names the build of the kernel
    return f"{platform.system()} {release} {platform.machine()}, Python {platform.python_version()}"


def _instructions() -> tuple[str, ...]:
    """Return the usual names of the processor's instructions; where the system lists none, what PyTorch found."""
    listed = f"{_from_listing('flags')} {_from_listing('Features')}".split()
    if listed:
        return tuple(name for flag, name in _INSTRUCTIONS.items() if flag in listed)
    found = torch.backends.cpu.get_cpu_capability()
    return () if found == "DEFAULT" else (found.replace("AVX512", "AVX-512"),)


def _from_listing(wanted: str) -> str:
    """Return what Linux lists of the first processor under a key; empty if there is none."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == wanted and value.strip():
                return value.strip()
    return ""


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
