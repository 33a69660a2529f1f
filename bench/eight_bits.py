"""Time programs in 8 bits beside the dense runtimes, one core, in turns.

    python bench/eight_bits.py [--nets lenet5-caffe resnet20 resnet50] [--sparsities 0.9 0.85 0.8] [--seconds 2]

Needs the environment of `make bench-nets` for OpenVINO. Every layer but depthwise ones is pruned uniformly in blocks of
four inputs; weights are random, or those of the net as it is made, as a call takes the same time whatever they are. The
dense network runs in ONNX Runtime and OpenVINO, in float32 and in 8 bits; the pruned one as a program in 8 bits, and,
with as many zeros that lie anywhere, as a program in float32. Prints medians in milliseconds,
and how many times as long as the program in 8 bits the fastest dense runtime takes.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import prunus
from _networks import NETWORKS
from prunus.measuring.latency.clock import interleaved
from prunus.measuring.latency.runtimes import RUNTIMES, LeftOutError, TimedModel, ready

BATCHES = {"lenet5-caffe": (64, 1), "resnet20": (16, 1), "resnet50": (1, 16)}
DENSE = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")


def make(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network in eval mode, and the shape of a sample."""
    torch.manual_seed(0)
    if name in NETWORKS:
        model, shape = NETWORKS[name]()
        return model.eval(), shape
    return prunus.models.create(name).eval(), prunus.models.input_shape(name)


def pruned(model: nn.Module, sparsity: float, pattern: str) -> nn.Module:
    """Return a copy with so many zeros in each layer."""
    model = copy.deepcopy(model)
    prunus.prune(model, sparsity, pattern=pattern, scope="uniform")
    return model


def prepared(model: nn.Module, batch: torch.Tensor, runtimes: tuple[str, ...]) -> dict[str, Callable[[], object]]:
    """Return what is timed, by runtime. What differs from the rounded model is told, and timed all the same.

    Without VNNI, OpenVINO cuts products off at 16 bits; its time is what a user would see.
    """
    timed = TimedModel(model, (batch[:1],))
    calls = {}
    for name in runtimes:
        if not RUNTIMES[name].installed:
            print(f"  {name} is not installed")
            continue
        try:
            calls[name] = ready(name, timed, (batch,), 1)
        except LeftOutError as error:
            print(f"  {name}: {str(error)[:150]}")
            calls[name] = RUNTIMES[name].prepare(timed, (batch,), 1)((batch,))
    return calls


def instructions() -> str:
    """Return the processor's name, and which instructions for 8 bits it has."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return f"{(names or [platform.processor()])[0]}: {', '.join(flag for flag in wanted if flag in flags)}"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(BATCHES))
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.9, 0.85, 0.8])
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(instructions())
    ratios = []
    for name in arguments.nets:
        model, shape = make(name)
        for size in arguments.batches or BATCHES.get(name, (1, 16)):
            batch = torch.randn(size, *shape)
            dense = prepared(model, batch, DENSE)
            for sparsity in arguments.sparsities:
                blocks, single = (pruned(model, sparsity, pattern) for pattern in ("inputs-4", "unstructured"))
                calls = dict(dense)
                calls |= {f"own {key}": call for key, call in prepared(blocks, batch, ("prunus-int8",)).items()}
                calls |= {f"own {key}": call for key, call in prepared(single, batch, ("prunus",)).items()}
                with torch.inference_mode():
                    times = interleaved(calls, seconds=arguments.seconds, seed=0, threads=1)
                medians = {key: time.median / 1e3 for key, time in times.items()}
                fastest = min(DENSE, key=lambda key: medians.get(key, float("inf")))
                ratio = medians[fastest] / medians["own prunus-int8"]
                ratios.append(ratio)
                cells = "  ".join(f"{key} {value:.3f}" for key, value in medians.items())
                print(f"{name} batch {size} at {sparsity:.0%}: {ratio:.2f} times ({fastest})   {cells}", flush=True)
    print(f"geometric mean: {statistics.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
