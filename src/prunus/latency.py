"""How long calls take: models interleaved in one run, so that a drift of the machine hits all of them."""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy
import torch
from torch import Tensor, nn

from prunus.extras import MissingExtraError
from prunus.forward import Inputs, batch_of, check_inputs, check_models, run, undisturbed
from prunus.machine import cores
from prunus.receipt import Latency
from prunus.registry import unknown_name

# runtime -> threads -> batch
Latencies: TypeAlias = dict[str, dict[str, dict[str, Latency]]]

TORCH, ONNX_RUNTIME = "torch", "onnxruntime"
RUNTIMES = (TORCH, ONNX_RUNTIME)
Key = TypeVar("Key")

_WARM_UP = 3
_MOST_RUNS = 10_000


class Timing(NamedTuple):
    """How long a model's calls took, and which runtimes were left out and why."""

    latency_us: Latencies
    notes: tuple[str, ...]


def latencies(
    models: Mapping[str, nn.Module],
    example_inputs: Inputs,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: Sequence[int] | None = None,
    runtimes: Sequence[str] = (TORCH,),
    seconds: float = 0.5,
    min_runs: int = 10,
    seed: int = 0,
) -> dict[str, Latencies]:
    """Time the forward of several models for each runtime, number of threads and batch size.

    Arguments and errors are those of `timings`, which also tells why a runtime is missing.

    Returns:
        model name -> runtime -> threads -> batch -> microseconds of one call.
    """
    found = timings(
        models,
        example_inputs,
        batch_sizes=batch_sizes,
        threads=threads,
        runtimes=runtimes,
        seconds=seconds,
        min_runs=min_runs,
        seed=seed,
    )
    return {name: timing.latency_us for name, timing in found.items()}


def timings(
    models: Mapping[str, nn.Module],
    example_inputs: Inputs,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: Sequence[int] | None = None,
    runtimes: Sequence[str] = (TORCH,),
    seconds: float = 0.5,
    min_runs: int = 10,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time the forward of several models for each runtime, number of threads and batch size.

    In every cell the models take turns in all runtimes, in a new random order each round: in PyTorch in eval mode under
    `torch.inference_mode`, in ONNX Runtime as exported by `prunus.exporting`, which checks that it computes the same,
    on arrays that are there already. Batches are made by repeating the samples of `example_inputs`. The models,
    PyTorch's number of threads and the random state are left as they were.

    Args:
        models: name -> model, all on the device of `example_inputs`.
        example_inputs: a tensor or tuple of tensors whose first dimension is the batch.
        batch_sizes: samples in a call.
        threads: numbers of threads an operation may use; None means one, and all cores; on an accelerator PyTorch's
            number set now.
        runtimes: of `RUNTIMES`. One in which a model can't run is left out for that model, and the notes say why.
        seconds: time spent for each model and runtime in each cell, unless `min_runs` takes longer.
        min_runs: calls of each model and runtime in each cell, at least.
        seed: of the order of the turns.

    Returns:
        model name -> its times and notes.

    Raises:
        TypeError: a model is not a Module, or the inputs are not tensors.
        ValueError: a runtime is unknown, a number is not positive, the inputs don't fit a model, or a model can't run a
            batch size.
    """
    check_models(models)
    inputs = check_inputs(models, example_inputs)
    wanted = check_runtimes(runtimes)
    sizes = check_numbers("batch_sizes", batch_sizes)
    counts = check_numbers("threads", default_threads(inputs[0].device) if threads is None else threads)
    found: dict[str, Latencies] = {name: {} for name in models}
    with contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(undisturbed(model))
        _refuse_sizes(models, inputs, sizes)  # before minutes of translating and timing
        translated, notes = _translated(models, inputs) if ONNX_RUNTIME in wanted else ({}, {})
        stack.enter_context(torch.inference_mode())
        batches = {size: batch_of(inputs, size) for size in sizes}
        for count in counts:
            with _threads(count):
                sessions = _sessions(translated, count)
                for size in sizes:
                    calls = _calls(models if TORCH in wanted else {}, sessions, batches[size])
                    cell = interleaved(calls, seconds=seconds, min_runs=min_runs, seed=seed) if calls else {}
                    for (name, runtime), latency in cell.items():
                        by_threads = found[name].setdefault(runtime, {})
                        by_threads.setdefault(str(count), {})[str(size)] = latency
    return {name: Timing(found[name], notes.get(name, ())) for name in models}


def check_runtimes(names: Sequence[str]) -> tuple[str, ...]:
    """Return the runtimes, without repeats, if all are known.

    Raises:
        ValueError: there is none, or one is unknown.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    for name in given:
        if name not in RUNTIMES:
            raise unknown_name("runtime", name, RUNTIMES)
    if not given:
        raise ValueError(f"runtimes is empty; give at least one of {', '.join(RUNTIMES)}")
    return tuple(dict.fromkeys(given))


def _refuse_sizes(models: Mapping[str, nn.Module], inputs: tuple[Tensor, ...], sizes: Sequence[int]) -> None:
    with torch.inference_mode():
        for size in sizes:
            for name, model in models.items():
                run(name, model, batch_of(inputs, size))


def _translated(
    models: Mapping[str, nn.Module], inputs: tuple[Tensor, ...]
) -> tuple[dict[str, bytes], dict[str, tuple[str, ...]]]:
    """Return the models in ONNX, and for those that can't be timed there a note why."""
    from prunus.exporting import ExportError, to_onnx  # it loads what PyTorch alone does not need
    from prunus.graph import GraphError

    if inputs[0].device.type != "cpu":
        told = f"latency in {ONNX_RUNTIME}: it is timed on the CPU only, the models are on {inputs[0].device}"
        return {}, dict.fromkeys(models, (told,))
    translated: dict[str, bytes] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for name, model in models.items():
        try:
            translated[name], _ = to_onnx(model, inputs)
        except (ExportError, GraphError, MissingExtraError) as error:
            notes[name] = (f"latency in {ONNX_RUNTIME}: {error}",)
    return translated, notes


def _sessions(translated: Mapping[str, bytes], threads: int) -> dict[str, Any]:
    if not translated:
        return {}
    from prunus import onnx_runtime

    return {name: onnx_runtime.session(data, threads) for name, data in translated.items()}


def _calls(
    models: Mapping[str, nn.Module], sessions: Mapping[str, Any], batch: tuple[Tensor, ...]
) -> dict[tuple[str, str], Callable[[], object]]:
    """Return what is timed in one cell: (model, runtime) -> call."""
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, model in models.items():
        calls[name, TORCH] = _call(model, batch)
    for name, session in sessions.items():
        from prunus import onnx_runtime

        calls[name, ONNX_RUNTIME] = onnx_runtime.call(session, batch, {})
    return calls


def interleaved(
    calls: Mapping[Key, Callable[[], object]], *, seconds: float = 0.5, min_runs: int = 10, seed: int = 0
) -> dict[Key, Latency]:
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
    samples: dict[Key, list[int]] = {name: [] for name in calls}
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
