"""A built library with its constants and workspaces: it computes arrays at addresses."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy
import torch

from prunus.compiling.codegen.source import Source

_ALIGNMENT = 64


class _Context(ctypes.Structure):
    """What C calls by the same name, in its order."""

    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("work", ctypes.c_void_p),
        ("threads", ctypes.c_long),
        ("most_single", ctypes.c_long),
        ("share_steps", ctypes.c_long),
    )


class Engine:
    """Calls a program's functions; several threads may do so at once. A call releases the GIL while it computes.

    Args:
        library: the built program.
        source: what it was built from.
        itemsize: bytes of a number.
        threads: the most a call may use.
        most_single: remainders of up to this many samples run one by one.
        share_steps: whether threads share the steps of a task where there are fewer tasks than threads.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        source: Source,
        itemsize: int,
        threads: int = 1,
        most_single: int = 0,
        share_steps: bool = False,
    ) -> None:
        self.source, self.threads = source, threads
        self._itemsize, self._settings = itemsize, (most_single, int(share_steps))
        self._constants = _Memory(len(source.constants))
        self._constants.fill(source.constants)
        self._run = _function(library.prunus_run, 3, 1, ctypes.c_long)
        self._call = _function(library.prunus_call, 3, 1, ctypes.c_long)
        self._step = _function(library.prunus_step, 1, 3)
        self._idle: list[tuple[_Memory, _Context, int]] = []  # what no call has: taking and giving are atomic

    def run(self, inputs: Any, outputs: Any, batch: int) -> int:
        """Compute a batch; inputs and outputs are ctypes arrays of addresses.

        Returns:
            0; where the program looks for infinities and NaN and a contraction was to read one, that one's output
            counted from 1.
        """
        taken = self._take()
        nonfinite: int = self._run(taken[2], inputs, outputs, batch)
        self._idle.append(taken)
        return nonfinite

    def call(self, source: int, target: int, batch: int) -> int:
        """Compute a batch of one input and one output, given their addresses; returns what `run` does."""
        taken = self._take()
        nonfinite: int = self._call(taken[2], source, target, batch)
        self._idle.append(taken)
        return nonfinite

    def step_seconds(self, block: bool, step: int, times: int) -> float:
        """Return how long one step took, on average over repeated calls."""
        taken = self._take()
        passed = _timed(self._step, taken[2], int(block), step, times)
        self._idle.append(taken)
        return passed / times

    def _take(self) -> tuple[_Memory, _Context, int]:
        try:
            return self._idle.pop()
        except IndexError:
            memory = _Memory(self.source.workspace * self._itemsize * self.threads)
            context = _Context(self._constants.address, memory.address, self.threads, *self._settings)
            return memory, context, ctypes.addressof(context)


class Trials:
    """Operations built to be timed, one at a time on one thread.

    Args:
        library: what `write_trials` gave, built.
        source: what it was built from.
        itemsize: bytes of a number.
    """

    def __init__(self, library: ctypes.CDLL, source: Source, itemsize: int) -> None:
        self._constants = _Memory(len(source.constants))
        self._constants.fill(source.constants)
        self._work = _Memory(source.workspace * itemsize)
        self._context = _Context(self._constants.address, self._work.address, 1, 0, 0)
        self._function = _function(library.prunus_trial, 1, 2)

    def seconds(self, trial: int, times: int) -> float:
        """Return how long one of them took, on average over repeated calls."""
        return _timed(self._function, ctypes.addressof(self._context), trial, times) / times


def _timed(function: Any, *arguments: int) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


class _Memory:
    """Memory of zeros that begins with a cache line."""

    def __init__(self, size: int) -> None:
        self._bytes = torch.zeros(size + _ALIGNMENT, dtype=torch.uint8, device="cpu")
        self._skip = -self._bytes.data_ptr() % _ALIGNMENT
        self.address = self._bytes.data_ptr() + self._skip

    def fill(self, content: bytes) -> None:
        """Write to its beginning."""
        self._bytes.numpy()[self._skip : self._skip + len(content)] = numpy.frombuffer(content, numpy.uint8)


def _function(found: Any, addresses: int, numbers: int, result: Any = None) -> Any:
    found.argtypes = [ctypes.c_void_p] * addresses + [ctypes.c_long] * numbers
    found.restype = result
    return found
