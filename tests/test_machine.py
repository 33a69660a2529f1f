from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
import pytest
import torch

from prunus.machine import cores, machine


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
