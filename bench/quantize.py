"""Accuracy and time of networks in 8 bits, calibrated on 256 unlabelled images, beside other tools.

    python bench/quantize.py [--nets resnet20 vgg ...] [--seeds 0 1 2] [--data FOLDER] [--json FILE]

Networks are those of `bench/recover.py`, trained once for each seed. Printed is accuracy on the test images, which
nothing was chosen by; how often the file gives the answer of the fake quantised model in ONNX Runtime and OpenVINO; and
the time of a batch of 16 on one thread, all in turns. It needs openvino; of other tools those that are installed are
measured:

    pip install openvino nncf torchao
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

import prunus
from _quantize_peers import PEERS, Run, batches, in_onnx_runtime, in_openvino, read_openvino
from _recover_models import SETTINGS, Trained, trained
from prunus.exporting import to_onnx
from prunus.lab.data import normalise
from prunus.machine import machine
from prunus.quantizing import find_scales
from prunus.quantizing.calibrating import Options
from prunus.quantizing.ranges import RANGES

_BATCH, _ROUNDS = 16, 30

# What each part is worth: the default without it.
ABLATIONS: dict[str, dict[str, Any]] = {
    "all seen instead of least squares": {"ranges": RANGES["minmax"]},
    "percentile instead of least squares": {"ranges": RANGES["percentile"]},
    "no equalisation": {"equalise": False},
    "no bias correction": {"correct": False},
}


def answers(run: Run, images: Tensor) -> Tensor:
    """Return the class that a model gives for each image."""
    return torch.cat([run(batch).argmax(1) for batch in batches(images)])


def rounded(model: nn.Module, scales: prunus.Scales, images: Tensor) -> Tensor:
    """Return the class that the fake quantised model gives for each image."""
    with torch.no_grad(), prunus.Quantizer(model, scales):
        return answers(model, images)


def ablated(network: Trained, samples: list[Tensor], options: dict[str, Any]) -> prunus.Scales:
    """Return scales that were found without a part of the method."""
    return find_scales(network.model, samples, Options(**({"ranges": RANGES["mse"]} | options)))


def compare(network: Trained, peers: list[str]) -> dict[str, Any]:
    """Return accuracies, agreement and times of one network."""
    model, samples, data = network.model, network.samples(), network.data
    images, labels = normalise(data.test.images, data.mean, data.std), data.test.labels

    def accuracy(found: Tensor) -> float:
        return round(100 * float((found == labels).double().mean()), 3)

    with torch.no_grad():
        result: dict[str, Any] = {"accuracy": {"float32": accuracy(answers(model, images))}, "ms": {}}
    began = time.monotonic()
    scales = prunus.quantize(model, samples)
    result["seconds"] = round(time.monotonic() - began, 1)
    fake = rounded(model, scales, images)
    plain, whole = (to_onnx(model, samples[0], own)[0] for own in (None, scales))
    runs: dict[str, Run] = {
        "OpenVINO float32": in_openvino(read_openvino(plain)),
        "ONNX Runtime float32": in_onnx_runtime(plain),
        "prunus, OpenVINO": in_openvino(read_openvino(whole)),
        "prunus, ONNX Runtime": in_onnx_runtime(whole),
    }
    result["accuracy"]["prunus, fake quantised"] = accuracy(fake)
    result["same answer"] = {
        name: round(100 * float((answers(runs[name], images) == fake).double().mean()), 3)
        for name in ("prunus, OpenVINO", "prunus, ONNX Runtime")
    }
    for name, options in ABLATIONS.items():
        result["accuracy"][name] = accuracy(rounded(model, ablated(network, samples, options), images))
    for name in peers:
        try:
            runs[name] = PEERS[name](model, samples)
        except ImportError as error:
            print(f"  {name} left out: {error}")
            continue
        result["accuracy"][name] = accuracy(answers(runs[name], images))
    timed = {
        name: run for name, run in runs.items() if name != "torchao pt2e"
    }  # PyTorch runs its graph for accuracy only
    result["ms"] = in_turns(timed, images[:_BATCH])
    return result


def in_turns(runs: dict[str, Callable[[Tensor], Any]], images: Tensor) -> dict[str, float]:
    """Return the median milliseconds of each, run in turns."""
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS):
        for name, run in runs.items():
            began = time.perf_counter()
            run(images)
            times[name].append(1e3 * (time.perf_counter() - began))
    torch.set_num_threads(2)
    return {name: round(float(numpy.median(taken)), 3) for name, taken in times.items()}


def main() -> None:
    """Compare for every network and seed, and print means and deviations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--data", type=Path, help="where the data lies; by default as everywhere in prunus")
    parser.add_argument("--cache", type=Path, default=Path("build/recover"), help="where trained networks are kept")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    everything: dict[str, list[dict[str, Any]]] = {}
    for net in arguments.nets:
        results = [
            compare(trained(net, seed, arguments.cache, arguments.data), arguments.peers) for seed in arguments.seeds
        ]
        everything[net] = results
        print(f"\n{net}, {len(results)} seeds; scales found in {results[0]['seconds']} s", flush=True)
        for kind, digits in (("accuracy", 2), ("same answer", 3), ("ms", 2)):
            for name in results[0][kind]:
                values = numpy.array([result[kind][name] for result in results])
                print(f"  {kind:12} {name:36} {values.mean():8.{digits}f} ± {values.std():.{digits}f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": str(machine()), "nets": everything}, indent=2) + "\n")


if __name__ == "__main__":
    main()
