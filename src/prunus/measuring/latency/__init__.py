"""The latency of models in several runtimes, timed in turns so that changes of the machine's speed affect all alike."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from prunus.forward import Inputs, batch_of, check_inputs, check_models, run, undisturbed
from prunus.machine import cores
from prunus.measuring.latency.clock import check_numbers, interleaved, threads_set
from prunus.measuring.latency.runtimes import (
    ALL,
    ONNX_RUNTIME,
    ONNX_RUNTIME_INT8,
    OPENVINO,
    OPENVINO_INT8,
    PRUNUS,
    PRUNUS_INT8,
    RUNTIMES,
    TORCH,
    TORCH_COMPILE,
    Batch,
    Call,
    LeftOutError,
    TimedModel,
    check_runtimes,
    ready,
)
from prunus.measuring.receipt import Latency
from prunus.registry import unknown_name

if TYPE_CHECKING:
    from prunus.quantizing import Scales

__all__ = [
    "ALL",
    "ONNX_RUNTIME",
    "ONNX_RUNTIME_INT8",
    "OPENVINO",
    "OPENVINO_INT8",
    "PRUNUS",
    "PRUNUS_INT8",
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
    """The latencies of a model, and notes on the runtimes that were left out."""

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

    Arguments and errors are those of `timings`, which also returns why a runtime is missing.

    Returns:
        model name -> runtime -> threads -> batch -> microseconds of one call.
    """
    timed = timings(
        models,
        example_inputs,
        batch_sizes=batch_sizes,
        threads=threads,
        runtimes=runtimes,
        seconds=seconds,
        min_runs=min_runs,
        seed=seed,
    )
    return {name: timing.latency_us for name, timing in timed.items()}


def timings(
    models: Mapping[str, nn.Module],
    example_inputs: Inputs,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: Sequence[int] | None = None,
    runtimes: Sequence[str] = (TORCH,),
    only: Mapping[str, Collection[str]] | None = None,
    scales: Mapping[str, Scales] | None = None,
    seconds: float = 0.5,
    min_runs: int = 10,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time the forward of several models for each runtime, number of threads and batch size.

    For each number of threads and batch size, called a cell, the models run in turns in all runtimes, in a new random
    order each round, in eval mode and under `torch.inference_mode`, on inputs that are in memory already. Before that,
    the outputs of each are compared with PyTorch's on random inputs of the cell's batch; if they differ, it is not
    timed. Runtimes in 8 bits are compared with the model as it is rounded; without scales they are calibrated on
    random numbers, which their time hardly depends on. Batches repeat the samples of `example_inputs`. The models,
    PyTorch's number of threads, its compiler's settings and the random state are not changed.

    Args:
        models: name -> model, all on the device of `example_inputs`.
        example_inputs: a tensor or tuple of tensors whose first dimension is the batch.
        batch_sizes: samples in a call.
        threads: numbers of threads an operation may use; None means one, and all cores; on an accelerator PyTorch's
            current number.
        runtimes: names of `RUNTIMES`, or ``"all"`` for those that are installed. A runtime in which a model can't run
            is left out for that model, and the notes say why.
        only: runtime -> the models that are timed in it; runtimes without a key time all models.
        scales: model name -> its scales for runtimes in 8 bits.
        seconds: time spent for each model and runtime in each cell, unless `min_runs` takes longer.
        min_runs: the least number of calls of each model and runtime in each cell.
        seed: for the order of the turns.

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
    latency_us: dict[str, Latencies] = {name: {} for name in models}
    notes: dict[str, list[str]] = {name: [] for name in models}
    with contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(undisturbed(model))
        _check_batch_sizes(models, inputs, sizes)  # before minutes of converting and timing
        timed = {name: TimedModel(model, inputs, (scales or {}).get(name)) for name, model in models.items()}
        for count in counts:
            for size in sizes:
                with threads_set(count):
                    calls, left_out = _prepared(timed, pairs, batch_of(inputs, size), count)
                    pairs = [pair for pair in pairs if pair in calls]
                    for (name, runtime), reason in left_out.items():
                        notes[name].append(f"latency in {runtime}: {reason}")
                    settings: dict[str, Any] = {"seconds": seconds, "min_runs": min_runs, "seed": seed}
                    with torch.inference_mode():
                        cell = interleaved(calls, threads=count, **settings) if calls else {}
                for (name, runtime), latency in cell.items():
                    by_threads = latency_us[name].setdefault(runtime, {})
                    by_threads.setdefault(str(count), {})[str(size)] = latency
    return {name: Timing(latency_us[name], tuple(notes[name])) for name in models}


def default_threads(device: torch.device) -> tuple[int, ...]:
    """Return the numbers of threads to time: one and all cores; on an accelerator only PyTorch's current number."""
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


def _check_batch_sizes(models: Mapping[str, nn.Module], inputs: tuple[Tensor, ...], sizes: Sequence[int]) -> None:
    with torch.inference_mode():
        for size in sizes:
            for name, model in models.items():
                run(name, model, batch_of(inputs, size))


def _prepared(
    models: Mapping[str, TimedModel], pairs: Sequence[Pair], batch: Batch, threads: int
) -> tuple[dict[Pair, Call], dict[Pair, str]]:
    """Return the calls to time in one cell, and why the other pairs are left out."""
    calls: dict[Pair, Call] = {}
    left_out: dict[Pair, str] = {}
    for name, runtime in pairs:
        try:
            calls[name, runtime] = ready(runtime, models[name], batch, threads)
        except LeftOutError as error:
            left_out[name, runtime] = str(error)
    return calls, left_out
