from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import psutil
import pytest
import torch

from prunus import machine as described
from prunus.machine import cores, machine

X86 = "flags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_vnni amx_int8\n"
ARM = "Features\t: fp asimd asimddp i8mm\n"


def test_the_machine_is_described():
    found = machine()
    assert found.memory_bytes == psutil.virtual_memory().total
    assert found.threads == torch.get_num_threads()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert platform.system() in found.system
    assert found.processor
    assert (found.accelerator is None) == (not torch.accelerator.is_available())


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="needs /proc/cpuinfo")
def test_the_processor_is_named_as_the_system_names_it():
    assert machine().processor in Path("/proc/cpuinfo").read_text() or machine().processor == platform.machine()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity mask")
def test_cores_are_those_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("listing", "named"),
    [
        (X86, ("SSE4.2", "AVX", "AVX2", "FMA", "AVX-512", "AVX-512 VNNI", "AMX int8")),
        (ARM, ("NEON", "dot products of 8 bits", "matrices of 8 bits")),
    ],
)
def test_instructions_are_those_that_the_system_lists(
    listing: str, named: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: A processor\n" + listing)
    monkeypatch.setattr(described, "Path", lambda _: path)
    assert machine().instructions == named
    path.unlink()
    assert len(machine().instructions) <= 1  # what PyTorch found


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="asks Linux on x86-64")
def test_avx2_is_told_where_lscpu_tells_it() -> None:
    listed = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, timeout=20).stdout.split()
    assert ("AVX2" in machine().instructions) == ("avx2" in listed)
