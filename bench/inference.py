"""How fast a sparse program is against the fastest dense runtime.

    pip install onnx onnxscript onnxruntime openvino
    python bench/inference.py [--only dense] [--subjects lenet5-caffe ...] [--sparsities 0.9 ...] [--batches 64 ...]
                              [--work FOLDER] [--data FOLDER] [--json FILE]

Trained networks are pruned in one shot by global magnitude; a linear layer loses weights at random positions. Each
is run by `prunus.compile`, PyTorch eager, torch.compile, ONNX Runtime and OpenVINO, networks of linear layers by
PyTorch's CSR too. Each runtime is called in every way that might be its fastest (layouts, modes, bound inputs and
outputs); the fastest counts. A way whose outputs differ from PyTorch's by more than 1e-4 of the largest does not.

One core is used unless said otherwise. Runtimes take turns, and a turn is a burst of calls (`--burst-us 0`: one call).
Medians count. How long compiling takes is measured in fresh processes: with an empty cache, then with what that left.

--work keeps the trained networks for the next time. --only dense leaves the programs out, --only prunus all others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime
import openvino
import torch
from torch import Tensor, nn

import prunus
from _inference_models import nonzeros, pruned, samples, trained
from _inference_runtimes import CSR, RUNTIMES, Call, Way
from _inference_targets import FASTEST_DENSE, PROGRAM, fastest_dense, speedup, verdicts
from _inference_timing import Cell, measure
from prunus.files import write_json
from prunus.machine import machine

# subject -> the sparsities and batch sizes it is timed at
CASES: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "lenet5-caffe": ((0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98), (1, 64)),
    "lenet-300-100": ((0.9, 0.98), (1, 64)),
    "resnet20": ((0.9, 0.95), (1, 16)),
    "linear": ((0.8, 0.9, 0.95, 0.98), (64,)),
}
ROW_US = 20_000
ON_TWO_THREADS = {"lenet5-caffe": ((0.0, 0.9, 0.98), 64)}
COMPILED = {"lenet5-caffe": (0.0, 0.9), "resnet20": (0.9,)}


def program(model: nn.Module, batch: Tensor, threads: int) -> Call:
    """Compile the model for batches as large as this one; it takes any."""
    compiled = prunus.compile(model, batch, threads=threads)
    return lambda: compiled(batch)


def program_on(count: int) -> Way:
    """Return what compiles for a number of threads, whatever the others use."""
    return lambda model, batch, threads: program(model, batch, count)


def sides(only: str | None) -> dict[str, Mapping[str, Way]]:
    """Return the runtimes that take part."""
    ours: dict[str, Mapping[str, Way]] = {PROGRAM: {"program": program}}
    return ours if only == PROGRAM else {**RUNTIMES, **({} if only == "dense" else ours)}


def measure_all(arguments: argparse.Namespace) -> Iterator[Cell]:
    """Measure cell after cell."""
    for subject in arguments.subjects:
        dense = trained(subject, arguments.work, arguments.data)
        sparsities, batches = CASES[subject]
        for sparsity in arguments.sparsities or sparsities:
            model = pruned(subject, dense, sparsity)
            for batch in arguments.batches or batches:
                found, refused = measure(
                    model,
                    samples(subject, batch),
                    sides(arguments.only),
                    1,
                    seconds=arguments.seconds,
                    burst_us=arguments.burst_us,
                )
                yield Cell(subject, sparsity, batch, nonzeros(model), found, refused)


def measure_threads(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time programs for one thread and for two in turns."""
    runtimes = {str(count): {"program": program_on(count)} for count in (1, 2)}
    for subject in set(arguments.subjects) & set(ON_TWO_THREADS):
        sparsities, batch = ON_TWO_THREADS[subject]
        dense = trained(subject, arguments.work, arguments.data)
        for sparsity in sparsities:
            model, images = pruned(subject, dense, sparsity), samples(subject, batch)
            # calls in a row, as in use: the first of a turn also wakes a thread that sleeps, which takes a while
            found, refused = measure(model, images, runtimes, 1, seconds=4 * arguments.seconds, burst_us=ROW_US)
            if refused:
                print(f"{subject} at {sparsity:.0%} on one thread and two: {refused}")
                continue
            one, two = (found[name].median_us for name in runtimes)
            yield {"subject": subject, "sparsity": sparsity, "batch": batch, "one_us": one, "two_us": two}


def compile_once(subject: str, sparsity: float, work: Path) -> dict[str, Any]:
    """Compile one model in this process, and tell how long that took and its first call."""
    torch.set_num_threads(1)
    model, batch = pruned(subject, trained(subject, work, None), sparsity), samples(subject, 64)
    began = time.perf_counter()
    compiled = prunus.compile(model, batch, threads=1)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    with torch.inference_mode():
        compiled(batch)
    told = getattr(compiled, "seconds", None)  # step -> seconds, where a program tells
    steps = dict(told) if isinstance(told, Mapping) else {}
    return {"seconds": seconds, "first_call_seconds": time.perf_counter() - began, "steps": steps}


def compile_apart(subject: str, sparsity: float, work: Path, cache: str) -> dict[str, Any]:
    """Compile one model in a process of its own."""
    command = [sys.executable, __file__, "--work", str(work), "--compile-once", json.dumps([subject, sparsity])]
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_compiling(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compile in two fresh processes, the second with the cache that the first filled."""
    for subject in [name for name in arguments.subjects if name in COMPILED]:
        for sparsity in COMPILED[subject]:
            with tempfile.TemporaryDirectory() as cache:
                try:
                    first, second = (compile_apart(subject, sparsity, arguments.work, cache) for _ in range(2))
                except subprocess.CalledProcessError:  # its traceback is on the screen; what was measured still counts
                    continue
            yield {"subject": subject, "sparsity": sparsity, "first": first, "second": second}


def show_header() -> None:
    """Print the names of the columns."""
    print("medians in us, and half the range of the middle 80%; * is the fastest dense runtime")
    print(f"{'':16}{'zeros':>6}{'batch':>6}" + "".join(f"{name:>18}" for name in (*RUNTIMES, PROGRAM)), end="")
    print(f"{'dense/prunus':>15}{'CSR/prunus':>12}")


def show(cell: Cell) -> None:
    """Print one row of the table, and below it why a runtime is missing."""
    best = fastest_dense(cell)

    def column(name: str) -> str:
        time = cell.runtimes.get(name)
        if time is None:
            return f"{'-':>18}"
        spread = (time.p90_us - time.p10_us) / 2 / time.median_us
        return f"{'*' if name == best else ''}{time.median_us:,.1f} ±{spread:3.0%}".rjust(18)

    ratios = [f"{speedup(cell, other):.2f}".replace("nan", "-") for other in (FASTEST_DENSE, CSR)]
    print(f"{cell.subject:16}{cell.sparsity:6.0%}{cell.batch:6}", end="")
    print("".join(map(column, (*RUNTIMES, PROGRAM))) + f"{ratios[0]:>15}{ratios[1]:>12}", flush=True)
    for name, reason in cell.refused.items():
        if name != CSR:  # which has no convolution
            print(f"    no {name}: {reason}")


def show_threads(row: Mapping[str, Any]) -> None:
    """Print what a second thread gives."""
    times = f"one thread {row['one_us']:,.1f} us, two threads {row['two_us']:,.1f} us"
    print(f"{row['subject']} at {row['sparsity']:.0%}, batch {row['batch']}: {times}", flush=True)


def show_compiling(row: Mapping[str, Any]) -> None:
    """Print how long compiling took, without tracing where the program tells that."""
    print(f"{row['subject']} at {row['sparsity']:.0%}: compiled in", end=" ")
    for which in ("first", "second"):
        seconds, steps = row[which]["seconds"], row[which]["steps"]
        tracing = f", {seconds - steps['trace']:.3f} s without tracing" if "trace" in steps else ""
        print(f"{seconds:.2f} s ({'empty' if which == 'first' else 'filled'} cache{tracing})", end="; ")
    print(f"first call {row['second']['first_call_seconds']:.3f} s")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("dense", PROGRAM))
    parser.add_argument("--subjects", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--sparsities", nargs="+", type=float, help="by default each subject's own")
    parser.add_argument("--batches", nargs="+", type=int, help="by default each subject's own")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each runtime in each cell")
    parser.add_argument("--burst-us", type=float, default=2000, help="a turn's length")
    parser.add_argument("--work", type=Path, help="keeps trained networks; by default a temporary folder")
    parser.add_argument("--data", type=Path, help="where the data lies; by default as everywhere in prunus")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compile-once", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """Measure and print everything, and write what there is after each cell."""
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__}
    about = {"command": sys.argv[1:], **versions, **asdict(machine())}
    cells: list[Cell] = []
    threads: list[dict[str, Any]] = []
    compiling: list[dict[str, Any]] = []

    def write() -> None:
        if arguments.json:
            rows = [cell.as_dict() | {"fastest_dense": fastest_dense(cell)} for cell in cells]
            told = [str(verdict) for verdict in verdicts(cells, threads, compiling)]
            parts = {"machine": about, "cells": rows, "threads": threads, "compiling": compiling, "verdicts": told}
            write_json(arguments.json, parts)

    show_header()
    for cell in measure_all(arguments):
        cells.append(cell)
        show(cell)
        write()
    if arguments.only == "dense":
        return
    for row in measure_threads(arguments):
        threads.append(row)
        show_threads(row)
        write()
    for row in measure_compiling(arguments):
        compiling.append(row)
        show_compiling(row)
        write()
    print()
    for verdict in verdicts(cells, threads, compiling):
        print(verdict)


def main() -> None:
    """Measure, print the tables and write JSON."""
    arguments = parse()
    if arguments.compile_once:
        subject, sparsity = arguments.compile_once
        print(json.dumps(compile_once(subject, sparsity, arguments.work)))
        return
    if arguments.only != "dense" and not hasattr(prunus, "compile"):
        raise SystemExit("this prunus has no `compile`; choose --only dense")
    with tempfile.TemporaryDirectory() as folder:
        arguments.work = arguments.work or Path(folder)
        run(arguments)


if __name__ == "__main__":
    main()
