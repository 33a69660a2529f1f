"""How long calls take: models in several runtimes, interleaved, so that a drift of the machine hits all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from prunus.forward import Inputs, batch_of, check_inputs, check_models, run, undisturbed
from prunus.machine import cores
from prunus.measuring.latency.clock import check_numbers, interleaved, threads_set
from prunus.measuring.latency.runtimes import (
    ALL,
    ONNX_RUNTIME,
    OPENVINO,
    PRUNUS,
    RUNTIMES,
    TORCH,
    TORCH_COMPILE,
    Batch,
    Call,
    LeftOutError,
    Subject,
    check_runtimes,
    ready,
)
from prunus.measuring.receipt import Latency
from prunus.registry import unknown_name

__all__ = [
    "ALL",
    "ONNX_RUNTIME",
    "OPENVINO",
    "PRUNUS",
    "RUNTIMES",
    "TORCH",
    "TORCH_COMPILE",
    "Latencies",
    "Timing",
    "check_numbers",
    "check_runtimes",
    "default_threads",
    "interleaved",
    "latencies",
    "timings",
]

# runtime -> threads -> batch
Latencies: TypeAlias = dict[str, dict[str, dict[str, Latency]]]
# a model and a runtime
Pair: TypeAlias = tuple[str, str]


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
    only: Mapping[str, Collection[str]] | None = None,
    seconds: float = 0.5,
    min_runs: int = 10,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time the forward of several models for each runtime, number of threads and batch size.

    In every cell the models take turns in all runtimes, in a new random order each round, in eval mode and under
    `torch.inference_mode`, on arrays that are there already. Before that each is held against PyTorch on random inputs
    of the cell's batch: one that computes something else is not timed. Batches are made by repeating the samples of
    `example_inputs`. The models, PyTorch's number of threads, its compiler's settings and the random state are left as
    they were.

    Args:
        models: name -> model, all on the device of `example_inputs`.
        example_inputs: a tensor or tuple of tensors whose first dimension is the batch.
        batch_sizes: samples in a call.
        threads: numbers of threads an operation may use; None means one, and all cores; on an accelerator PyTorch's
            number set now.
        runtimes: of `RUNTIMES`, or ``"all"`` for those that are installed. One in which a model can't run is left out
            for that model, and the notes say why.
        only: runtime -> the models that are timed in it; one that is no key times all of them.
        seconds: time spent for each model and runtime in each cell, unless `min_runs` takes longer.
        min_runs: calls of each model and runtime in each cell, at least.
        seed: of the order of the turns.

    Returns:
        model name -> its times and notes.

    Raises:
        TypeError: a model is not a Module, or the inputs are not tensors.
        ValueError: a runtime or a model in `only` is unknown, a number is not positive, the inputs don't fit a model,
            or a model can't run a batch size.
    """
    check_models(models)
    inputs = check_inputs(models, example_inputs)
    pairs = _pairs(models, check_runtimes(runtimes), only or {})
    sizes = check_numbers("batch_sizes", batch_sizes)
    counts = check_numbers("threads", default_threads(inputs[0].device) if threads is None else threads)
    found: dict[str, Latencies] = {name: {} for name in models}
    notes: dict[str, list[str]] = {name: [] for name in models}
    with contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(undisturbed(model))
        _refuse_sizes(models, inputs, sizes)  # before minutes of translating and timing
        subjects = {name: Subject(model, inputs) for name, model in models.items()}
        for count in counts:
            for size in sizes:
                with threads_set(count):
                    calls, left_out = _prepared(subjects, pairs, batch_of(inputs, size), count)
                    pairs = [pair for pair in pairs if pair in calls]
                    for (name, runtime), reason in left_out.items():
                        notes[name].append(f"latency in {runtime}: {reason}")
                    settings: dict[str, Any] = {"seconds": seconds, "min_runs": min_runs, "seed": seed}
                    with torch.inference_mode():
                        cell = interleaved(calls, threads=count, **settings) if calls else {}
                for (name, runtime), latency in cell.items():
                    by_threads = found[name].setdefault(runtime, {})
                    by_threads.setdefault(str(count), {})[str(size)] = latency
    return {name: Timing(found[name], tuple(notes[name])) for name in models}


def default_threads(device: torch.device) -> tuple[int, ...]:
    """Return the numbers of threads to time: one and all cores; on an accelerator only those set now."""
    if device.type != "cpu":
        return (torch.get_num_threads(),)
    return tuple(sorted({1, cores()}))


def _pairs(models: Collection[str], runtimes: Sequence[str], only: Mapping[str, Collection[str]]) -> list[Pair]:
    for runtime, names in only.items():
        if runtime not in RUNTIMES:
            raise unknown_name("runtime", runtime, RUNTIMES)
        for name in names:
            if name not in models:
                raise unknown_name("model", name, models)
    return [(name, runtime) for name in models for runtime in runtimes if name in only.get(runtime, models)]


def _refuse_sizes(models: Mapping[str, nn.Module], inputs: tuple[Tensor, ...], sizes: Sequence[int]) -> None:
    with torch.inference_mode():
        for size in sizes:
            for name, model in models.items():
                run(name, model, batch_of(inputs, size))


def _prepared(
    subjects: Mapping[str, Subject], pairs: Sequence[Pair], batch: Batch, threads: int
) -> tuple[dict[Pair, Call], dict[Pair, str]]:
    """Return what is timed in one cell, and why the rest is not."""
    calls: dict[Pair, Call] = {}
    left_out: dict[Pair, str] = {}
    for name, runtime in pairs:
        try:
            calls[name, runtime] = ready(runtime, subjects[name], batch, threads)
        except LeftOutError as error:
            left_out[name, runtime] = str(error)
    return calls, left_out
