"""A program in memory: constants, steps and workspaces, run by the kernels' library."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from prunus.compiling.assembling import Assembly
from prunus.compiling.kernels.calls import Call
from prunus.compiling.kernels.library import Library

_ALIGNMENT = 64

# Of `most_single`: there are no blocks. The largest int64: no call has more samples.
ALL_SINGLY = (1 << 63) - 1


class _Step(ctypes.Structure):
    """What C calls prunus_step."""

    _fields_ = (("kernel", ctypes.c_void_p), ("arguments", ctypes.c_void_p))


class _Program(ctypes.Structure):
    """What C calls prunus_program, in its order."""

    _fields_ = (
        ("constants", ctypes.c_void_p),
        ("work", ctypes.c_void_p),
        ("block_steps", ctypes.c_void_p),
        ("single_steps", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("block_count", "single_count", "block", "work_bytes", "threads")),
        *((name, ctypes.c_int64) for name in ("most_single", "share_steps")),
    )


class Engine:
    """Calls a program; several threads may do so at once. A call releases the GIL while it computes.

    Args:
        library: the kernels.
        assembly: the program.
        threads: the most a call may use.
        most_single: remainders of up to this many samples run one by one; `ALL_SINGLY`: all samples do.
    """

    def __init__(
        self,
        library: Library,
        assembly: Assembly,
        threads: int = 1,
        most_single: int = 0,
    ) -> None:
        self.threads, self._most_single = threads, most_single
        self.share_steps = False  # whether threads share the steps of a task where there are fewer tasks than threads
        self._constants = _Memory(len(assembly.constants))
        self._constants.fill(assembly.constants)
        self._block_size = assembly.block_size
        self._work_bytes = -(-assembly.work_bytes // _ALIGNMENT) * _ALIGNMENT
        self._steps = [
            steps_of(sequence.calls, library.addresses, self._constants.address)
            for sequence in (assembly.block, assembly.single)
        ]
        self._operations = [assembly.block.operations, assembly.single.operations]
        self._run = _function(library.runner.prunus_run, 3, 1, ctypes.c_long)
        self._call = _function(library.runner.prunus_call, 3, 1, ctypes.c_long)
        self._repeat = _function(library.runner.prunus_repeat, 3, 1)
        self._idle: list[tuple[_Memory, _Program, int]] = []  # what no call has: taking and giving are atomic

    def run(self, inputs: Any, outputs: Any, batch: int) -> int:
        """Compute a batch; inputs and outputs are ctypes arrays of addresses.

        Returns:
            0; or the output, counted from 1, of a contraction that was to read an infinity or NaN, where the program
            looks for those; or less that of a layer that was to look up a row that its table does not have.
        """
        taken = self._take()
        refused: int = self._run(taken[2], inputs, outputs, batch)
        self._idle.append(taken)
        return refused

    def call(self, source: int, target: int, batch: int) -> int:
        """Compute a batch of one input and one output, given their addresses; returns what `run` does."""
        taken = self._take()
        refused: int = self._call(taken[2], source, target, batch)
        self._idle.append(taken)
        return refused

    def operations_of(self, single: bool) -> Sequence[int | None]:
        """Return, for each call of one sample or of a block, the number of the operation it belongs to in its plan."""
        return self._operations[int(single)]

    def step_seconds(self, single: bool, call: int, times: int) -> float:
        """Return how long one call of a kernel took, on average over repeated calls."""
        taken = self._take()
        address = ctypes.addressof(self._steps[int(single)][call])
        passed = _timed(self._repeat, self._constants.address, taken[0].address, address, times)
        self._idle.append(taken)
        return passed / times

    def set_share_steps(self, share_steps: bool) -> None:
        """Let threads share the steps of a task, or not, from now on; no call may be running."""
        self.share_steps = share_steps
        for _, program, _ in self._idle:
            program.share_steps = int(share_steps)

    def set_most_single(self, most_single: int) -> None:
        """Have remainders of up to so many samples run one by one from now on; no call may be running."""
        self._most_single = most_single
        for _, program, _ in self._idle:
            program.most_single = most_single

    def _take(self) -> tuple[_Memory, _Program, int]:
        try:
            return self._idle.pop()
        except IndexError:
            memory = _Memory(self._work_bytes * self.threads)
            blocks, singles = self._steps
            program = _Program(
                self._constants.address,
                memory.address,
                ctypes.addressof(blocks),
                ctypes.addressof(singles),
                len(blocks),
                len(singles),
                self._block_size,
                self._work_bytes,
                self.threads,
                self._most_single,
                int(self.share_steps),
            )
            return memory, program, ctypes.addressof(program)


class Trials:
    """Calls that are timed, one at a time on one thread.

    Args:
        library: the kernels.
        work_bytes: of a workspace that is large enough for all of them.
    """

    def __init__(self, library: Library, work_bytes: int) -> None:
        self._library, self.saturates = library, library.saturates
        self._work = _Memory(work_bytes)
        self._work.write_zeros()  # pages that were only read are all one, which the nearest cache holds
        self._repeat = _function(library.runner.prunus_repeat, 3, 1)

    def prepare(self, calls: Sequence[Call], constants: bytes | bytearray) -> None:
        """Take the calls that are timed next, and what they read."""
        self._constants = _Memory(len(constants))
        self._constants.fill(constants)
        self._steps = steps_of(calls, self._library.addresses, self._constants.address)

    def seconds(self, call: int, times: int) -> float:
        """Return how long one of them took, on average over repeated calls."""
        address = ctypes.addressof(self._steps[call])
        return _timed(self._repeat, self._constants.address, self._work.address, address, times) / times


def steps_of(calls: Sequence[Call], addresses: Mapping[str, int], constants: int) -> Any:
    """Return calls as an array of what C calls prunus_step."""
    steps = [_Step(addresses[call.kernel], constants + call.arguments_at) for call in calls]
    return (_Step * len(steps))(*steps)


def _timed(function: Any, *arguments: int) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


class _Memory:
    """Memory of zeros that begins with a cache line; pages that were never written take none."""

    def __init__(self, size: int) -> None:
        self._bytes = numpy.zeros(size + _ALIGNMENT, dtype=numpy.uint8)
        self._skip = -self._bytes.ctypes.data % _ALIGNMENT
        self.address = self._bytes.ctypes.data + self._skip

    def write_zeros(self) -> None:
        """Write to all of it."""
        self._bytes[:] = 0

    def fill(self, content: bytes | bytearray) -> None:
        """Write to its beginning."""
        self._bytes[self._skip : self._skip + len(content)] = numpy.frombuffer(content, numpy.uint8)


def _function(function: Any, addresses: int, numbers: int, result: Any = None) -> Any:
    function.argtypes = [ctypes.c_void_p] * addresses + [ctypes.c_long] * numbers
    function.restype = result
    return function
