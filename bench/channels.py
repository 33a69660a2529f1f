"""Prune half the channels of each network of the tests' zoo with prunus and with Torch-Pruning, side by side.

    pip install torch-pruning==1.6.1
    python bench/channels.py [--cases NAME ...] [--sides NAME ...] [--large] [--repeats 3] [--limit 60]

Each network is pruned in a process of its own, ended after --limit seconds of work. Then it is asked: does it run, at
another batch size too? Has it fewer parameters? Is its output that of the original with the removed weights set to
zero (float64, within 1e-9 of the largest output)? Does it train a step? Torch-Pruning is used as its README says,
with the layers that make the model's outputs ignored; it removes half of each layer's channels, prunus half of the
parameters. Where the model has attention heads it has a second try, with their number given and the sizes that the
modules keep set by hand, as in its examples. What Torch-Pruning kept is told by the values that it kept.

Time and memory are those of planning (Torch-Pruning: BasePruner, prunus: prune) and of the whole road to the smaller
model: medians of --repeats runs in the same process, after the first one that is not counted. Times are processor
time of one thread, so that a busy machine doesn't matter. Memory is the process's resident memory at its highest above
what it was before (Linux). --large adds networks of the usual sizes.
"""

from __future__ import annotations

import argparse
import copy
import gc
import logging
import math
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

import prunus
from channels_large import LARGE, ZOO, Case
from channels_peer import attention_heads, make_pruner, masked_as, output_layers, tell_head_sizes, tensors_of
from prunus.files import write_json
from prunus.machine import machine
from select_speed import reset_peak, resident

SPARSITY = 0.5
TOLERANCE = 1e-9  # of the largest output, in float64
MOST_WAITING = 20  # times the limit, for a process that sleeps or gets little of a busy machine


class NotComparableError(ValueError):
    """The smaller model's parameters are no part of the original's."""


@dataclass
class Result:
    """What one side did with one network; seconds and megabytes are medians, None where it didn't get so far."""

    case: str
    side: str
    outcome: str = "exact"
    error: str = ""
    parameters: int = 0
    parameters_left: int | None = None
    difference: float | None = None
    trains: bool | None = None
    plan_seconds: float | None = None
    seconds: float | None = None
    megabytes: float | None = None


@dataclass(frozen=True)
class Pruned:
    """A smaller model, the one with zeros that it should be equal to, and the seconds that planning took."""

    smaller: nn.Module
    masked: Callable[[], nn.Module | None]
    plan_seconds: float


def with_torch_pruning(model: nn.Module, case: Case, heads: dict[nn.Module, int] | None = None) -> Pruned:
    """Prune as Torch-Pruning's README does."""
    original = copy.deepcopy(model)
    args, kwargs = case.arguments(2)
    ignored = output_layers(model, to_float64(args), to_float64(kwargs))
    began = time.process_time()
    inputs = to_float64(case.example_inputs)
    pruner = make_pruner(
        model, list(inputs) if isinstance(inputs, tuple) else inputs, ignored, SPARSITY, num_heads=heads or {}
    )
    planned = time.process_time() - began
    pruner.step()
    tell_head_sizes(model, heads or {})
    return Pruned(model, lambda: masked_as(original, model), planned)


def with_torch_pruning_and_heads(model: nn.Module, case: Case) -> Pruned:
    """The same, with what its examples for transformers do by hand: heads are named, head sizes set afterwards."""
    return with_torch_pruning(model, case, attention_heads(model))


def with_prunus(model: nn.Module, case: Case) -> Pruned:
    """Prune by channels, then shrink."""
    inputs = to_float64(case.example_inputs)
    began = time.process_time()
    prunus.prune(model, SPARSITY, pattern="channel", example_inputs=inputs)
    planned = time.process_time() - began
    masked = copy.deepcopy(model)
    return Pruned(prunus.shrink(model, inputs), lambda: masked, planned)


SIDES: dict[str, Callable[[nn.Module, Case], Pruned]] = {
    "torch-pruning": with_torch_pruning,
    "torch-pruning, heads": with_torch_pruning_and_heads,
    "prunus": with_prunus,
}


def distinct(model: nn.Module) -> nn.Module:
    """Return the model in float64, with numbers that are all different."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter += 1e-6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def to_float64(inputs: Any) -> Any:
    """Return inputs with their floats in float64."""
    if isinstance(inputs, dict):
        return {name: to_float64(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(to_float64(value) for value in inputs)
    return inputs.double() if inputs.is_floating_point() else inputs


def examine(case: Case, side: str, repeats: int, tell: Callable[[Result], None]) -> None:
    """Prune a network, look at what came of it, and measure; `tell` is called whenever more is known."""
    result = Result(case.name, side)
    step = "pruning"
    try:
        model = distinct(case.make())
        result.parameters = sum(parameter.numel() for parameter in model.parameters())
        pruned = SIDES[side](model, case)
        result.parameters_left = sum(parameter.numel() for parameter in pruned.smaller.parameters())
        step = "running"
        try:
            result.difference = difference(pruned, case)
        except NotComparableError as error:
            result.outcome, result.error = "differs", str(error)
        step = "training"
        result.trains = train_step(pruned.smaller, case)
        if result.parameters_left >= result.parameters:
            result.outcome = "nothing removed"
        elif result.difference is not None and not result.difference <= TOLERANCE:
            result.outcome = "differs"
        tell(result)
        step = "measuring"
        if repeats:
            measure(result, case, repeats)
    except Exception as error:  # whatever the peer raises is a result
        result.outcome, result.error = f"fails {step}", last_line(error)
    tell(result)


def difference(pruned: Pruned, case: Case) -> float:
    """Return the largest difference of the outputs at batch 3, as a fraction of the largest output."""
    args, kwargs = case.arguments(3)
    args, kwargs = to_float64(args), to_float64(kwargs)
    with torch.no_grad():
        found = tensors_of(pruned.smaller.eval()(*args, **kwargs))
        masked = pruned.masked()
        if masked is None:
            raise NotComparableError("runs, but its parameters are no part of the original's (or no longer tied)")
        expected = tensors_of(masked.eval()(*args, **kwargs))
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        raise NotComparableError(f"output shapes became {[tuple(t.shape) for t in found]}")
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(found, expected, strict=True))


def train_step(model: nn.Module, case: Case) -> bool:
    """Train one step, and say whether all that has a gradient moved and is finite."""
    args, kwargs = case.arguments(4)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    sum(tensor.square().mean() for tensor in tensors_of(model(*to_float64(args), **to_float64(kwargs)))).backward()
    optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    return any(moved) and all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def measure(result: Result, case: Case, repeats: int) -> None:
    """Fill in the medians of seconds and megabytes."""
    plans, seconds, peaks = [], [], []
    for _ in range(repeats):
        model = distinct(case.make())
        gc.collect()
        reset_peak()
        before, began = resident("VmRSS"), time.process_time()
        pruned = SIDES[result.side](model, case)
        seconds.append(time.process_time() - began)
        peaks.append((resident("VmHWM") - before) / 1e6)
        plans.append(pruned.plan_seconds)
    result.plan_seconds, result.seconds, result.megabytes = map(statistics.median, (plans, seconds, peaks))


def last_line(error: BaseException) -> str:
    """Return an error's type and first lines, and the place that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = "/".join(Path(frame.filename).parts[-2:])
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}{'…' if len(text) > 160 else ''} ({where}:{frame.lineno})"


def child(case: Case, side: str, repeats: int, limit: int, connection: Connection) -> None:
    """Examine in a process of its own, quietly, and send the results."""

    def tell(result: Result) -> None:
        allow(limit * repeats)
        connection.send(asdict(result))

    allow(limit)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    examine(case, side, repeats, tell)


def allow(seconds: int) -> None:
    """Let the system end this process after so many seconds more of processor time."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + seconds, hard))


def run_apart(case: Case, side: str, repeats: int, limit: float) -> Result:
    """Examine in a process of its own, which is ended when its time is up."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    # A fork, so that the imports (seconds for torch and transformers) are shared; no thread has been started here.
    arguments = (case, side, repeats, math.ceil(limit), sending)
    process = multiprocessing.get_context("fork").Process(target=child, args=arguments)
    process.start()
    sending.close()
    found: Result | None = None
    try:
        while receiving.poll(MOST_WAITING * limit):
            found = Result(**receiving.recv())
    except EOFError:  # the process has ended
        process.join()
    ended = process.exitcode
    process.kill()
    process.join()
    if found is not None:
        return found
    return Result(case.name, side, f"hangs > {limit:g} s" if ended in (None, -signal.SIGXCPU) else f"dies ({ended})")


def show(results: list[Result]) -> None:
    """Print a table, and the errors below it."""
    print(f"{'':24}{'':21}{'outcome':18}{'parameters left':>22}{'difference':>12}{'trains':>8}"
          f"{'plan s':>9}{'whole s':>9}{'MB':>8}")  # fmt: skip
    for result in results:
        left = "-"
        if result.parameters_left is not None:
            left = f"{result.parameters_left:,} ({result.parameters_left / result.parameters:.0%})"
        figures = [
            f"{value:{form}}" if value is not None else "-"
            for value, form in [(result.plan_seconds, ".3f"), (result.seconds, ".3f"), (result.megabytes, ".1f")]
        ]
        gap = "-" if result.difference is None else f"{result.difference:.1e}"
        trains = {True: "yes", False: "no", None: "-"}[result.trains]
        print(f"{result.case:24}{result.side:21}{result.outcome:18}{left:>22}{gap:>12}{trains:>8}"
              f"{figures[0]:>9}{figures[1]:>9}{figures[2]:>8}")  # fmt: skip
    print()
    for result in results:
        if result.error:
            print(f"{result.case}, {result.side}: {result.error}")
    for side in dict.fromkeys(result.side for result in results):
        outcomes = [result.outcome for result in results if result.side == side]
        counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
        print(f"{side}: " + ", ".join(f"{outcome} {count}" for outcome, count in counts.items()))


def main() -> None:
    """Examine every network with every side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", help="by default all")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--large", action="store_true", help="networks of the usual sizes besides")
    parser.add_argument("--repeats", type=int, default=3, help="measured runs; 0 looks at the outcome only")
    parser.add_argument("--limit", type=float, default=60, help="seconds of processor time for one pruning")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/channels.json"))
    arguments = parser.parse_args()
    cases = ZOO | (LARGE if arguments.large else {})
    names = arguments.cases or list(cases)
    unknown = [name for name in names if name not in ZOO | LARGE]
    if unknown:
        parser.error(f"no case is called {', '.join(unknown)}; there are {', '.join(ZOO | LARGE)}")
    results = []
    for name in names:
        for side in arguments.sides:
            if side.endswith("heads") and not attention_heads((ZOO | LARGE)[name].make()):
                continue
            results.append(run_apart((ZOO | LARGE)[name], side, arguments.repeats, arguments.limit))
            print(f"{name}, {side}: {results[-1].outcome}", file=sys.stderr)
    show(results)
    rows = [asdict(result) for result in results]
    write_json(arguments.out, {"command": sys.argv, "machine": asdict(machine()), "results": rows})


if __name__ == "__main__":
    main()
