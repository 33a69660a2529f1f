"""Call every operation that a graph in a file may hold with hostile arguments, each in a process of its own.

    python bench/hostile_operations.py [--trials 300] [--seed 0] [--only grid_sampler] [--since NAME] [--out FILE]

The arguments are drawn from the operation's schema (`_hostile_arguments`): numbers out of range, huge, negative, zero
sizes, empty tensors, shapes and dtypes that don't fit, indices out of range, the least integer, NaN, empty lists.
Constants go through the checks that a document goes through, and the call through the guards that a loaded module has.
Each tensor lies between closed pages (`guarded_memory.c`, which needs a C compiler and Linux), so reading one element
outside of it is a fault. Each call is made twice, its memory filled with different bytes before: where the results
differ, memory was read that nobody had written. What is reported:

    SIGSEGV, SIGFPE, SIGABRT, SIGBUS   the process died
    hang                               a call took more than 3 s of the processor
    garbage                            two equal calls gave different results
    memory                             one tensor of more than 1 GiB was asked for: an error of PyTorch's own, counted
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from _guarded_memory import guarded_memory, preload
from _hostile_arguments import Arguments
from prunus.files import write_json
from prunus.graph.exported import arguments, limits, operations
from prunus.graph.exported.guards import guarded
from prunus.machine import machine

LONGEST = 3.0  # seconds of one call
MOST_BYTES = 1 << 30
MOST_FAILURES = 6  # of one operation, then the next one's turn
_RANDOM = ("dropout", "rrelu", "bernoulli", "rand", "multinomial", "normal")
_COUNTS = struct.Struct("6q")  # trial, refused in reading, refused in the call, computed, out of memory, garbage


def as_in_a_document(name: str, operation: torch._ops.OpOverload, values: dict[str, Any]) -> None:
    """Refuse what a document with these constants would be refused for."""
    graph, kinds, own = fx.Graph(), {}, torch.device("cpu")

    def read_back(value: Any) -> Any:
        if isinstance(value, Tensor):
            node = graph.placeholder("tensor")
            kinds[node] = arguments.TENSOR
            return node
        if isinstance(value, list):
            return [read_back(entry) for entry in value]
        return arguments.decode(arguments.encode(value, id, own), {}, own)

    decoded = {argument: read_back(value) for argument, value in values.items()}
    limits.check_constants(name, arguments.check_call(operation, [], decoded, kinds))


def leaves(value: Any) -> list[Any]:
    """Return all tensors and numbers of a result, copied: so each element is read."""
    if isinstance(value, (list, tuple)):
        return [leaf for entry in value for leaf in leaves(entry)]
    return [value.detach().resolve_conj().resolve_neg().contiguous().clone() if isinstance(value, Tensor) else value]


def differ(first: Any, second: Any) -> bool:
    """Tell whether two results differ by more than rounding."""
    if not isinstance(first, Tensor):
        return bool(first != second and first == first)
    if first.shape != second.shape or first.dtype != second.dtype:
        return True
    if first.dtype.itemsize == 1 and first.is_floating_point():
        first, second = first.float(), second.float()
    if first.is_floating_point() or first.is_complex():
        return not torch.allclose(first, second, rtol=1e-2, atol=1e-3, equal_nan=True)
    return not torch.equal(first, second)


class Calls:
    """The calls of one operation, within a child."""

    def __init__(self, name: str, seed: int, board: mmap.mmap) -> None:
        self.name, self.seed, self.board = name, seed, board
        operation = operations.overload(name)
        assert operation is not None
        self.operation, self.call = operation, guarded(operation)
        self.notes: list[str] = []

    def once(self, trial: int, place: int) -> tuple[list[Any], str]:
        """Make one call; the memory's filling and arrangement differ with the place."""
        torch.manual_seed(trial)
        with guarded_memory(place):
            values = Arguments(f"{self.seed} {self.name} {trial}").of(self.name, self.operation)
            text = described(values)
            as_in_a_document(self.name, self.operation, values)
            result = leaves(self.call(**values))
            return [*result, *leaves(list(values.values()))], text

    def trial(self, trial: int) -> int:
        """Return which count goes up."""
        try:
            first, text = self.once(trial, 0)
            second, _ = self.once(trial, 1)
        except arguments.DocumentError:
            return 1
        except (
            RuntimeError,
            ValueError,
            TypeError,
            IndexError,
            NotImplementedError,
            ZeroDivisionError,
            OverflowError,
            AssertionError,
        ) as error:
            if "allocate memory" in str(error) or "bad_alloc" in str(error):
                return 4
            return 2
        except MemoryError:
            return 4
        is_random = any(part in self.name for part in _RANDOM)
        if not is_random and (len(first) != len(second) or any(map(differ, first, second))):
            self.notes.append(f"{trial}: {text}")
            return 5
        return 3


def described(values: dict[str, Any]) -> str:
    """Return arguments as one line."""

    def one(value: Any) -> str:
        if isinstance(value, Tensor):
            small = f"={value.tolist()}" if value.numel() <= 4 else ""
            return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}{small}"
        return f"[{', '.join(map(one, value))}]" if isinstance(value, list) else repr(value)

    return ", ".join(f"{name}={one(value)}" for name, value in values.items())[:400]


def child(calls: Calls, start: int, stop: int, pipe: int) -> None:
    """Make trials, and keep on the board where it is and what came of them."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    size = int(Path("/proc/self/statm").read_text().split()[5]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_DATA, (size + 2 * MOST_BYTES, size + 2 * MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    counts = list(_COUNTS.unpack(calls.board[: _COUNTS.size]))
    for trial in range(start, stop):
        counts[0] = trial
        calls.board[: _COUNTS.size] = _COUNTS.pack(*counts)
        signal.setitimer(signal.ITIMER_PROF, LONGEST)  # of the processor: other work may slow this down
        counts[calls.trial(trial)] += 1
    signal.setitimer(signal.ITIMER_PROF, 0)
    calls.board[: _COUNTS.size] = _COUNTS.pack(*counts)
    os.write(pipe, json.dumps(calls.notes[:MOST_FAILURES]).encode())
    os._exit(0)


def died(status: int) -> str:
    """Say how a child ended."""
    if not os.WIFSIGNALED(status):
        return f"exit {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    return "hang" if number == signal.SIGPROF else signal.Signals(number).name


def attack(name: str, trials: int, seed: int) -> dict[str, Any]:
    """Make all trials of an operation, in a new child after each that died."""
    board = mmap.mmap(-1, mmap.PAGESIZE)
    failures: list[str] = []
    start = 0
    while start < trials and len(failures) < MOST_FAILURES:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            child(Calls(name, seed, board), start, trials, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            notes = pipe.read()
        _, status = os.waitpid(pid, 0)
        if status == 0:
            failures += [f"garbage at trial {note}" for note in json.loads(notes)]
            break
        trial = _COUNTS.unpack(board[: _COUNTS.size])[0]
        values = Arguments(f"{seed} {name} {trial}").of(name, operations.overload(name))  # type: ignore[arg-type]
        failures.append(f"{died(status)} at trial {trial}: {described(values)}")
        start = trial + 1
    _, *counts = _COUNTS.unpack(board[: _COUNTS.size])
    return dict(zip(("unread", "refused", "computed", "memory", "garbage"), counts, strict=True)) | {
        "failures": failures
    }


def main() -> None:
    """Attack the operations, print what failed and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300, help="calls of each operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="operations whose name holds this")
    parser.add_argument("--since", default="", help="operations whose name comes after this")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/hostile_operations.json"))
    settings = parser.parse_args()
    preload()
    torch.set_num_threads(1)
    began, results = time.perf_counter(), {}
    for name in sorted(name for name in operations.ATEN if settings.only in name and name > settings.since):
        results[name] = attack(name, settings.trials, settings.seed)
        print(f"\r{name:60}", end="\r", file=sys.stderr, flush=True)
        for failure in results[name]["failures"][:3]:
            print(f"{name}: {failure}", flush=True)
    report(results, time.perf_counter() - began)
    told = {"settings": {"trials": settings.trials, "seed": settings.seed}, "operations": results}
    write_json(settings.out, {**told, "machine": {"torch": torch.__version__, **dataclasses.asdict(machine())}})


def report(results: dict[str, dict[str, Any]], seconds: float) -> None:
    """Print the sums."""
    kinds = collections.Counter(f.partition(" ")[0] for one in results.values() for f in one["failures"])
    sums = {key: sum(one[key] for one in results.values()) for key in ("unread", "refused", "computed", "memory")}
    print(f"\n{len(results)} operations, {sum(sums.values()):,} calls in {seconds:.0f} s: {sums}")
    print(f"failures by kind: {dict(kinds)} in {sum(bool(one['failures']) for one in results.values())} operations")
    idle = [name for name, one in results.items() if not one["computed"]]
    print(f"{len(idle)} operations computed nothing: {' '.join(idle)}")
    memory = sorted(((one["memory"], name) for name, one in results.items() if one["memory"]), reverse=True)
    print(f"asked for too much memory: {' '.join(f'{name} ({count})' for count, name in memory[:30])}")


if __name__ == "__main__":
    main()
