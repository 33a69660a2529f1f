"""A built library with its constants and workspaces: it computes arrays at addresses."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy
import torch
from torch import Tensor

from prunus.runtime.codegen.source import Source
from prunus.runtime.toolchain import Library

_ALIGNMENT = 64


class Engine:
    """Calls a program's functions; several threads may do so at once, and hold no lock of Python while it computes.

    Args:
        library: the built program.
        source: what it was built from.
        itemsize: bytes of a number.
        threads: the most a call may use.
    """

    def __init__(self, library: Library, source: Source, itemsize: int, threads: int) -> None:
        self.library, self.source, self.threads = library, source, threads
        self._itemsize = itemsize
        memory, self._constants = _aligned(len(source.constants))
        memory.numpy()[: len(source.constants)] = numpy.frombuffer(source.constants, numpy.uint8)
        self._memory = memory
        self._run = _function(library.handle.prunus_run, 4, 4)
        self._step = _function(library.handle.prunus_step, 2, 3)
        self._idle: list[tuple[Tensor, int]] = []  # workspaces that no call has: taking and giving are atomic

    def run(self, inputs: Any, outputs: Any, batch: int, threads: int, most_single: int, share_steps: bool) -> None:
        """Compute a batch; inputs and outputs are ctypes arrays of addresses."""
        workspace = self._take()
        self._run(self._constants, workspace[1], inputs, outputs, batch, threads, most_single, share_steps)
        self._idle.append(workspace)

    def step_seconds(self, block: bool, step: int, times: int) -> float:
        """Return how long one step took, on average over repeated calls."""
        return self._seconds(self._step, (int(block), step), times)

    def trial_seconds(self, trial: int, times: int) -> float:
        """Return how long one of the trials took, on average over repeated calls."""
        return self._seconds(_function(self.library.handle.prunus_trial, 2, 2), (trial,), times)

    def _seconds(self, function: Any, which: tuple[int, ...], times: int) -> float:
        workspace = self._take()
        start = time.perf_counter()
        function(self._constants, workspace[1], *which, times)
        taken = time.perf_counter() - start
        self._idle.append(workspace)
        return taken / times

    def _take(self) -> tuple[Tensor, int]:
        try:
            return self._idle.pop()
        except IndexError:
            return _aligned(self.source.workspace * self._itemsize * self.threads)


def _function(found: Any, addresses: int, numbers: int) -> Any:
    found.argtypes = [ctypes.c_void_p] * addresses + [ctypes.c_long] * numbers
    found.restype = None
    return found


def _aligned(size: int) -> tuple[Tensor, int]:
    """Return memory of zeros that begins with a cache line, and its address."""
    memory = torch.zeros(size + _ALIGNMENT, dtype=torch.uint8)
    part = memory[-memory.data_ptr() % _ALIGNMENT :]
    return part, part.data_ptr()
