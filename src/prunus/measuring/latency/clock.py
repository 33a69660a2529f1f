"""Time several calls in turns, so that changes of the machine's speed affect all of them alike."""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy
import torch

from prunus.measuring.receipt import Latency

Key = TypeVar("Key")

_WARM_UP = 3
# After a call, worker threads spin for a while before they sleep, and slow down the next call, of another runtime. On
# two cores, calls in turns took up to 20 times as long as alone; with these untimed calls before each timed one they
# took as long as alone.
_SETTLING = 3
_MAX_RUNS = 10_000


def interleaved(
    calls: Mapping[Key, Callable[[], object]],
    *,
    seconds: float = 0.5,
    min_runs: int = 10,
    seed: int = 0,
    threads: int = 1,
) -> dict[Key, Latency]:
    """Time several calls in turns: after a warm-up, each once a round, in a new random order each round.

    With several threads a turn begins with a few calls that are not timed, until the threads of the last turn sleep.

    There are at least `min_runs` rounds, and they take `seconds` times the number of calls. Each call must return only
    after its work is done. Python's garbage collector is disabled during the measurement.

    Raises:
        ValueError: there is no call, or `seconds` or `min_runs` is not positive.

    >>> interleaved({"sleep": lambda: time.sleep(0.001)}, seconds=0.02)["sleep"].median >= 1000
    True
    """
    if not calls:
        raise ValueError("calls is empty; give at least one")
    check_numbers("min_runs", [min_runs])
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    for call in calls.values():
        for _ in range(_WARM_UP):
            call()
    settling = _SETTLING if threads > 1 else 0
    order = list(calls)
    shuffle = random.Random(seed).shuffle
    samples: dict[Key, list[int]] = {name: [] for name in calls}
    with _no_collection():
        end = time.perf_counter() + seconds * len(calls)
        rounds = 0
        while rounds < min_runs or (time.perf_counter() < end and rounds < _MAX_RUNS):
            shuffle(order)
            for name in order:
                for _ in range(settling):
                    calls[name]()
                start = time.perf_counter_ns()
                calls[name]()
                samples[name].append(time.perf_counter_ns() - start)
            rounds += 1
    return {name: _summary(times) for name, times in samples.items()}


def check_numbers(name: str, numbers: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers without duplicates, after checking that all are whole and above 0.

    Raises:
        ValueError: there is no number, or one is not a whole number above 0.
    """
    values = (numbers,) if isinstance(numbers, int) else tuple(numbers)
    if not values or not all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values):
        raise ValueError(f"{name} must be whole numbers above 0, got {numbers!r}")
    return tuple(dict.fromkeys(values))


@contextlib.contextmanager
def threads_set(count: int) -> Iterator[None]:
    """Within this context, PyTorch uses `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _summary(nanoseconds: Sequence[int]) -> Latency:
    p10, median, p90 = numpy.percentile(numpy.array(nanoseconds) / 1000, [10, 50, 90]).tolist()
    return Latency(median=median, p10=p10, p90=p90, runs=len(nanoseconds))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
