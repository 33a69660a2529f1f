"""How long calls take: models interleaved in one run, so that a drift of the machine hits all of them."""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy
import torch
from torch import Tensor, nn

from prunus.forward import Inputs, batch_of, check_inputs, check_models, run, undisturbed
from prunus.machine import cores
from prunus.receipt import Latency

# runtime -> threads -> batch
Latencies: TypeAlias = dict[str, dict[str, dict[str, Latency]]]

RUNTIME = "torch"
_WARM_UP = 3
_MOST_RUNS = 10_000


def latencies(
    models: Mapping[str, nn.Module],
    example_inputs: Inputs,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: Sequence[int] | None = None,
    seconds: float = 0.5,
    min_runs: int = 10,
    seed: int = 0,
) -> dict[str, Latencies]:
    """Time the forward of several models for each number of threads and each batch size.

    In every cell the models take turns, in a new random order each round, in eval mode under
    `torch.inference_mode`. Batches are made by repeating the samples of `example_inputs`. The models, PyTorch's
    number of threads and the random state are left as they were.

    Args:
        models: name -> model, all on the device of `example_inputs`.
        example_inputs: a tensor or tuple of tensors whose first dimension is the batch.
        batch_sizes: samples in a call.
        threads: numbers of PyTorch threads; None means one, and all cores; on an accelerator those set now.
        seconds: time spent for each model in each cell, unless `min_runs` takes longer.
        min_runs: calls of each model in each cell, at least.
        seed: of the order of the turns.

    Returns:
        model name -> runtime (``"torch"``) -> threads -> batch -> microseconds of one call.

    Raises:
        TypeError: a model is not a Module, or the inputs are not tensors.
        ValueError: a number is not positive, the inputs don't fit a model, or a model can't run a batch size.
    """
    check_models(models)
    inputs = check_inputs(models, example_inputs)
    sizes = check_numbers("batch_sizes", batch_sizes)
    counts = check_numbers("threads", default_threads(inputs[0].device) if threads is None else threads)
    found: dict[str, Latencies] = {name: {RUNTIME: {}} for name in models}
    with contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(undisturbed(model))
        stack.enter_context(torch.inference_mode())
        batches = {size: batch_of(inputs, size) for size in sizes}
        for size in sizes:  # a model that can't run a size is told before minutes of timing
            for name, model in models.items():
                run(name, model, batches[size])
        for count in counts:
            with _threads(count):
                for size in sizes:
                    calls = {name: _call(model, batches[size]) for name, model in models.items()}
                    cell = interleaved(calls, seconds=seconds, min_runs=min_runs, seed=seed)
                    for name, latency in cell.items():
                        found[name][RUNTIME].setdefault(str(count), {})[str(size)] = latency
    return found


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, seconds: float = 0.5, min_runs: int = 10, seed: int = 0
) -> dict[str, Latency]:
    """Time several calls in turns: after a warm-up, each once a round, in a new random order each round.

    Rounds go on until there are `min_runs` of them and `seconds` times the number of calls have passed. Each call must
    return when its work is done. Python's garbage collector is off meanwhile.

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
    order = list(calls)
    shuffle = random.Random(seed).shuffle
    samples: dict[str, list[int]] = {name: [] for name in calls}
    with _no_collection():
        end = time.perf_counter() + seconds * len(calls)
        rounds = 0
        while rounds < min_runs or (time.perf_counter() < end and rounds < _MOST_RUNS):
            shuffle(order)
            for name in order:
                start = time.perf_counter_ns()
                calls[name]()
                samples[name].append(time.perf_counter_ns() - start)
            rounds += 1
    return {name: _summary(taken) for name, taken in samples.items()}


def default_threads(device: torch.device) -> tuple[int, ...]:
    """Return the numbers of threads to time: one and all cores; on an accelerator only those set now."""
    if device.type != "cpu":
        return (torch.get_num_threads(),)
    return tuple(sorted({1, cores()}))


def check_numbers(name: str, numbers: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers, without repeats, if all are whole and above 0.

    Raises:
        ValueError: there is none, or one is not a whole number above 0.
    """
    given = (numbers,) if isinstance(numbers, int) else tuple(numbers)
    if not given or not all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in given):
        raise ValueError(f"{name} must be whole numbers above 0, got {numbers!r}")
    return tuple(dict.fromkeys(given))


def _call(model: nn.Module, batch: tuple[Tensor, ...]) -> Callable[[], object]:
    device = batch[0].device
    if device.type == "cpu":
        return lambda: model(*batch)

    def call() -> object:
        output = model(*batch)
        torch.accelerator.synchronize(device)  # the call returns at once; the work is done only now
        return output

    return call


def _summary(nanoseconds: Sequence[int]) -> Latency:
    p10, median, p90 = numpy.percentile(numpy.array(nanoseconds) / 1000, [10, 50, 90]).tolist()
    return Latency(median=median, p10=p10, p90=p90, runs=len(nanoseconds))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
