"""How fast programs are on networks that nobody here wrote, beside the fastest dense runtime.

    make bench-nets                                        # the packages, in an environment of their own
    python bench/networks.py [--only NAME ...] [--batches 1 16] [--sparsity 0.9] [--runtimes onnxruntime openvino ...]
                             [--seconds 1] [--json FILE]

Trained weights where the wheel has them, else random ones; every layer is pruned alike, so that the ratio does not hang
on which layers a criterion empties; every runtime gets the same zeros. One core; runtimes take turns; medians count.
Each runtime runs in every way that might be its fastest, and the fastest counts.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import torch

import prunus
from _inference_models import nonzeros
from _inference_runtimes import CSR, RUNTIMES, Way
from _inference_targets import FASTEST_DENSE, PROGRAM, fastest_dense, speedup
from _inference_timing import Cell, measure
from _networks import NETWORKS, pruned_uniformly
from inference import program
from prunus.files import write_json
from prunus.machine import machine

BURST_US = 2000


def measured(name: str, batch: int, arguments: argparse.Namespace) -> Cell:
    """Time one network for one batch size in all runtimes."""
    torch.manual_seed(0)
    model, shape = NETWORKS[name]()
    pruned_uniformly(model, arguments.sparsity)
    samples = torch.randn(batch, *shape)
    ways: dict[str, dict[str, Way]] = {runtime: RUNTIMES[runtime] for runtime in arguments.runtimes}
    found, refused = measure(
        model, samples, {**ways, PROGRAM: {"program": program}}, 1, seconds=arguments.seconds, burst_us=BURST_US
    )
    return Cell(name, arguments.sparsity, batch, nonzeros(model), found, refused)


def show(cell: Cell) -> None:
    """Print one row, and below it why a runtime is missing."""
    best = fastest_dense(cell)
    times = [f"{name} {time.median_us:,.0f}{'*' if name == best else ''}" for name, time in cell.runtimes.items()]
    print(f"{cell.subject:24}{cell.batch:4}  {speedup(cell, FASTEST_DENSE):5.2f}x   {', '.join(times)} us", flush=True)
    for name, reason in cell.refused.items():
        print(f"    no {name}: {reason[:200]}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(NETWORKS), default=tuple(NETWORKS), metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 16))
    parser.add_argument("--sparsity", type=float, default=0.9)
    dense = [name for name in RUNTIMES if name != CSR]
    parser.add_argument("--runtimes", nargs="+", choices=dense, default=dense)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each runtime in each cell")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print a table and the geometric means, and write JSON after each cell."""
    arguments = parse()
    torch.set_num_threads(1)
    about = {"command": sys.argv[1:], "torch": torch.__version__, "prunus": prunus.__version__, **asdict(machine())}
    cells: list[Cell] = []
    for name in arguments.only:
        for batch in arguments.batches:
            cells.append(measured(name, batch, arguments))
            show(cells[-1])
            if arguments.json:
                write_json(arguments.json, {"machine": about, "cells": [cell.as_dict() for cell in cells]})
    for batch in arguments.batches:
        ratios = [speedup(cell, FASTEST_DENSE) for cell in cells if cell.batch == batch]
        known = [ratio for ratio in ratios if not math.isnan(ratio)]
        if known:
            mean = statistics.geometric_mean(known)
            print(f"batch {batch}: geometric mean {mean:.2f} of {len(known)} networks, least {min(known):.2f}")


if __name__ == "__main__":
    main()
