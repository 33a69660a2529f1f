"""The sparsity above which a program that skips zeros is faster than the dense model in the fastest other runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import nn

from prunus.copying import copy_model
from prunus.forward import Inputs, batch_of, check_inputs, undisturbed, unique_parameters
from prunus.measuring.latency.clock import check_numbers, interleaved, threads_set
from prunus.measuring.latency.runtimes import (
    PRUNUS,
    PRUNUS_INT8,
    TORCH,
    Batch,
    Call,
    LeftOutError,
    TimedModel,
    check_runtimes,
    ready,
)
from prunus.measuring.macs import num_nonzero
from prunus.measuring.receipt import BreakEven, BreakEvenPoint
from prunus.measuring.times import Latency, crossing
from prunus.pruning import prune
from prunus.pruning.targets import Selector

# closer together where programs of small convolutional networks became faster
SPARSITIES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)

# What programs in 8 bits are pruned by: they skip four neighbouring inputs at once.
BLOCKS = "inputs-4"

# a runtime of the dense model; a runtime and a sparsity
Key: TypeAlias = str | tuple[str, float]


def break_even(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    sparsities: Sequence[float] = SPARSITIES,
    runtimes: Sequence[str] = (TORCH,),
    threads: int = 1,
    batch_size: int = 64,
    include: Sequence[Selector] = (),
    exclude: Sequence[Selector] = (),
    seconds: float = 0.25,
    seed: int = 0,
) -> BreakEven:
    """Time programs of increasingly sparse copies of a model in turns with the dense model in other runtimes.

    The copies are pruned one-shot by the magnitude of single weights, globally, and not trained: the curve shows the
    time that a sparsity saves, not the accuracy that it costs. Where ``"prunus-int8"`` is among the runtimes, programs
    in 8 bits of copies pruned in blocks, `BLOCKS`, take turns with them. The model is not changed.

    Args:
        model: a dense model on the CPU.
        example_inputs: a tensor or tuple of tensors whose first dimension is the batch.
        sparsities: of the prunable weights, rising, in [0, 1). Those that the model can't reach are left out.
        runtimes: the runtimes of the dense model: names of `latency.RUNTIMES`, or ``"all"``; ``"prunus"`` is ignored,
            ``"prunus-int8"`` asks for programs in 8 bits.
        threads: the number of threads an operation may use.
        batch_size: samples in a call.
        include: the weights to prune, see `prunus.prune`.
        exclude: the weights not to prune.
        seconds: time spent for each program and runtime.
        seed: for the order of the turns.

    Raises:
        TypeError: the inputs are not tensors.
        ValueError: a number is out of range, a runtime is unknown, or the inputs don't fit the model.
        LeftOutError: the model can't be compiled, or can't run in any of the runtimes.
    """
    inputs = check_inputs({"model": model}, example_inputs)
    (count,) = check_numbers("threads", [threads])
    (size,) = check_numbers("batch_size", [batch_size])
    asked = check_runtimes(runtimes)
    others = [name for name in asked if name not in (PRUNUS, PRUNUS_INT8)]
    patterns = {PRUNUS: "unstructured"} | ({PRUNUS_INT8: BLOCKS} if PRUNUS_INT8 in asked else {})
    copies: dict[tuple[str, float], nn.Module] = {}
    notes: list[str] = []
    for runtime, pattern in patterns.items():
        pruned, reason = _pruned(model, sparsities, include, exclude, pattern)
        copies |= {(runtime, sparsity): sparse for sparsity, sparse in pruned.items()}
        notes += reason
    batch = batch_of(inputs, size)
    with threads_set(count), undisturbed(model):
        programs, left_out = _programs(copies, inputs, batch, count)
        dense, more_left_out = _dense(TimedModel(model, inputs), others, batch, count)
        with torch.inference_mode():
            latencies = interleaved(programs | dense, seconds=seconds, seed=seed, threads=count)
    times = {name: latencies[name] for name in others if name in dense}
    fastest = min(time.median for time in times.values())
    single, in_blocks = (
        _curve({key: copies[key] for key in copies if key[0] == runtime and key in programs}, latencies, fastest)
        for runtime in (PRUNUS, PRUNUS_INT8)
    )
    return BreakEven(count, size, times, *single, (*notes, *left_out, *more_left_out), *in_blocks)


def _curve(
    copies: Mapping[tuple[str, float], nn.Module], latencies: Mapping[Key, Latency], fastest: float
) -> tuple[tuple[BreakEvenPoint, ...], float | None]:
    """Return the points of programs, and where they become as fast as the fastest dense runtime."""
    points = tuple(BreakEvenPoint(key[1], _nonzero(sparse), latencies[key]) for key, sparse in copies.items())
    ratios = [point.latency_us.median / fastest for point in points]
    return points, crossing([point.sparsity for point in points], ratios) if points else None


def _pruned(
    model: nn.Module,
    sparsities: Sequence[float],
    include: Sequence[Selector],
    exclude: Sequence[Selector],
    pattern: str,
) -> tuple[dict[float, nn.Module], list[str]]:
    """Return a pruned copy for each sparsity, and notes on those that can't be reached.

    Raises:
        ValueError: the sparsities do not rise within [0, 1).
    """
    rising = [float(value) for value in sparsities]
    if not rising or rising != sorted(set(rising)) or not 0 <= rising[0] <= rising[-1] < 1:
        raise ValueError(f"sparsities must rise within [0, 1), such as {SPARSITIES}, got {tuple(sparsities)}")
    copies: dict[float, nn.Module] = {}
    for sparsity in rising:
        copies[sparsity] = copy_model(model)
        if sparsity:
            try:
                prune(copies[sparsity], sparsity, include=include, exclude=exclude, pattern=pattern)
            except ValueError as error:
                if sparsity == rising[0]:
                    raise
                copies.pop(sparsity)
                return copies, [f"sparsity {sparsity:g} and above: {error}"]
    return copies, []


def _programs(
    copies: Mapping[tuple[str, float], nn.Module], inputs: Batch, batch: Batch, threads: int
) -> tuple[dict[Key, Call], list[str]]:
    """Return the program of each copy, and a note where none can be had in 8 bits.

    Raises:
        LeftOutError: none can be had at all.
    """
    calls: dict[Key, Call] = {}
    for key, sparse in copies.items():
        try:
            with undisturbed(sparse):
                calls[key] = ready(key[0], TimedModel(sparse, inputs), batch, threads)
        except LeftOutError as error:
            if key[0] == PRUNUS:
                raise
            left = {other: call for other, call in calls.items() if other[0] != key[0]}
            return left, [f"programs in 8 bits: {error}"]
    return calls, []


def _dense(timed: TimedModel, runtimes: Sequence[str], batch: Batch, threads: int) -> tuple[dict[Key, Call], list[str]]:
    """Return the dense model's call in each runtime that it runs in, and notes on the others."""
    calls: dict[Key, Call] = {}
    notes = []
    for name in runtimes:
        try:
            calls[name] = ready(name, timed, batch, threads)
        except LeftOutError as error:
            notes.append(f"latency in {name}: {error}")
    if not calls:
        raise LeftOutError(f"the dense model runs in none of the other runtimes ({', '.join(runtimes)}): {notes}")
    return calls, notes


def _nonzero(model: nn.Module) -> int:
    return sum(num_nonzero(parameter) for parameter in unique_parameters(model).values())
