"""A yardstick of sparse matrices: programs of one linear layer beside PyTorch's CSR (MKL) and its dense product.

    python bench/matrices.py [--sparsities 0.6 0.7 0.8 0.9 0.95] [--batches 1 32 128] [--shapes 512x512 ...]
                             [--seconds 0.1] [--json FILE]

The shapes are those of the weights of the Transformer and the ResNet-50 in the Deep Learning Matrix Collection (Gale et
al., "Sparse GPU kernels for deep learning", SC 2020; a kernel of k x k is a matrix of k*k*inputs columns). Patterns:
`random`, and `magnitude` of weights whose rows and columns are of different scale, as those of trained layers are. One
core, in turns, medians; CSR in the fastest of five ways. Geometric means over all cells are printed last.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from _inference_runtimes import CSR, RUNTIMES
from _inference_timing import measure
from inference import program
from prunus.files import write_json
from prunus.machine import machine

TRANSFORMER = ((512, 512), (2048, 512), (512, 2048))
RESNET50 = (
    *((64, 64), (64, 256), (256, 64), (64, 576), (128, 256), (128, 512), (512, 128), (128, 1152), (512, 256)),
    *((256, 512), (256, 1024), (1024, 256), (256, 2304), (1024, 512), (512, 1024), (512, 2048), (2048, 512)),
    *((512, 4608), (2048, 1024), (1000, 2048)),
)
PATTERNS = ("random", "magnitude")
BURST_US = 500


def layer(shape: tuple[int, int], sparsity: float, pattern: str) -> nn.Sequential:
    """Return a linear layer with so many zeros."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    scores = torch.rand(shape, generator=generator)
    if pattern == "magnitude":
        weight *= torch.exp(0.5 * torch.randn((shape[0], 1), generator=generator))
        weight *= torch.exp(0.5 * torch.randn((1, shape[1]), generator=generator))
        scores = weight.abs()
    linear = nn.Linear(shape[1], shape[0])
    with torch.no_grad():
        linear.weight.copy_(weight * (scores > torch.quantile(scores.flatten()[: 1 << 24], sparsity)))
    return nn.Sequential(linear).eval()


def cells(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time each cell: microseconds of the program, of CSR and of the dense product."""
    ways = {"dense": {"plain": RUNTIMES["torch eager"]["plain"]}, CSR: RUNTIMES[CSR], "prunus": {"program": program}}
    for shape in arguments.shapes:
        for sparsity in arguments.sparsities:
            for pattern in PATTERNS:
                model = layer(shape, sparsity, pattern)
                for batch in arguments.batches:
                    found, _ = measure(
                        model, torch.randn(batch, shape[1]), ways, 1, seconds=arguments.seconds, burst_us=BURST_US
                    )
                    times = {name: timed.median_us for name, timed in found.items()}
                    yield {"shape": shape, "sparsity": sparsity, "pattern": pattern, "batch": batch, **times}


def shape_of(text: str) -> tuple[int, int]:
    """Read a shape such as 512x2048."""
    rows, columns = text.split("x")
    return int(rows), int(columns)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsities", nargs="+", type=float, default=(0.6, 0.7, 0.8, 0.9, 0.95))
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 32, 128))
    parser.add_argument("--shapes", nargs="+", type=shape_of, default=tuple(dict.fromkeys((*TRANSFORMER, *RESNET50))))
    parser.add_argument("--seconds", type=float, default=0.1, help="for each runtime in each cell")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for cell in cells(arguments):
        rows.append(cell)
        beside = [f"{name} {cell[name] / cell['prunus']:5.2f}x" for name in ("dense", CSR) if name in cell]
        shape = "x".join(map(str, cell["shape"]))
        print(
            f"{shape:10} {cell['sparsity']:4.0%} {cell['pattern']:9} {cell['batch']:4}  {', '.join(beside)}", flush=True
        )
    for batch in arguments.batches:
        for name in ("dense", CSR):
            ratios = [cell[name] / cell["prunus"] for cell in rows if cell["batch"] == batch and name in cell]
            print(
                f"batch {batch}: {statistics.geometric_mean(ratios):.2f} times as fast as {name} ({len(ratios)} cells)"
            )
    for name in ("dense", CSR):
        ratios = [cell[name] / cell["prunus"] for cell in rows if name in cell]
        print(f"all: {statistics.geometric_mean(ratios):.2f} times as fast as {name}")
    if arguments.json:
        write_json(arguments.json, {"machine": {"command": sys.argv[1:], **asdict(machine())}, "cells": rows})


if __name__ == "__main__":
    main()
