"""Accuracy and time of a shrunk network in 8 bits beside the dense one, in float32 and 8 bits, and smaller dense ones.

    python bench/pareto.py [--shares 0.6 0.4] [--epochs 5] [--seed 0] [--data FOLDER] [--json FILE]

The network is the `vgg` of `bench/recover.py`, on Fashion-MNIST. Ours: whole channels, so that a call takes a share of
what the dense network in 8 bits takes in OpenVINO; refitted from 256 images, shrunk, fine-tuned for some epochs, in 8
bits. Smaller dense ones: the same network with fewer channels, trained from scratch as long as the large one, in
float32 and in 8 bits. Times are medians of calls in turns, on one thread. It needs openvino.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import prunus
from _quantize_peers import Run, batches, in_openvino, read_openvino
from _recover_models import SETTINGS, SmallVgg, Trained, trained
from prunus.exporting import to_onnx
from prunus.lab.data import normalise
from prunus.lab.recipe import TrainingSection
from prunus.lab.train import Phase, fit
from prunus.machine import machine
from prunus.measuring.costs import microseconds
from prunus.pruning import Channels
from quantize import in_turns

_BATCH = 16
_WIDTHS = {"half": (16, 32, 64), "a third": (11, 21, 43)}


def smaller(name: str, seed: int, cache: Path, like: Trained) -> nn.Module:
    """Return the network with fewer channels, trained as the large one was."""
    model, file = SmallVgg(_WIDTHS[name]), cache / f"vgg-{name.replace(' ', '-')}-{seed}.safetensors"
    if file.exists():
        load_model(model, file)
        return model.eval()
    setting = SETTINGS["vgg"]
    section = TrainingSection(epochs=setting.epochs, lr=setting.lr)
    fit(model, like.data, Phase("train", section, cache / file.stem, seed, shift=setting.shift), accelerator="cpu")
    save_model(model, str(file))
    return model.eval()


def shrunk(network: Trained, share: float, epochs: int, seed: int, cache: Path) -> tuple[nn.Module, prunus.Scales]:
    """Return the network as whole channels for a share of the time of the dense one in 8 bits, and its scales."""
    samples = network.samples()
    images = torch.cat(samples)[:_BATCH]
    dense = microseconds("openvino-int8", network.model, prunus.Masks({}), False, images)
    target = f"{share * dense:.0f} us in openvino-int8"
    masks = prunus.prune(
        copy.deepcopy(network.model), target, pattern=Channels(round_to=4), example_inputs=images, data=samples
    )
    model = copy.deepcopy(network.model)
    prunus.recover(model, masks, samples)
    small = prunus.shrink(model, images, masks)
    if epochs:
        section = TrainingSection(epochs=epochs, lr=0.02)
        folder = cache / f"pareto-{seed}-{share}"
        fit(small, network.data, Phase("tune", section, folder, seed, shift=2), accelerator="cpu")
    return small.eval(), prunus.quantize(small.eval(), samples)


def compare(network: Trained, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return accuracy and milliseconds of every network."""
    samples, runs = network.samples(), {}

    def add(name: str, model: nn.Module, scales: prunus.Scales | None) -> None:
        data, _ = to_onnx(model, samples[0], scales)
        runs[name] = in_openvino(read_openvino(data)), len(data)

    add("dense, float32", network.model, None)
    add("dense, 8 bits", network.model, prunus.quantize(network.model, samples))
    for name in _WIDTHS:
        model = smaller(name, arguments.seed, arguments.cache, network)
        add(f"{name} of the channels from scratch, float32", model, None)
        add(f"{name} of the channels from scratch, 8 bits", model, prunus.quantize(model, samples))
    for share in arguments.shares:
        model, scales = shrunk(network, share, arguments.epochs, arguments.seed, arguments.cache)
        add(f"shrunk to {share:.0%} of the time, 8 bits", model, scales)
    images, labels = normalise(network.data.test.images, network.data.mean, network.data.std), network.data.test.labels
    times = in_turns({name: run for name, (run, _) in runs.items()}, images[:_BATCH])
    return [
        {"name": name, "accuracy": _accuracy(run, images, labels), "ms": times[name], "bytes": size}
        for name, (run, size) in runs.items()
    ]


def _accuracy(run: Run, images: Tensor, labels: Tensor) -> float:
    answers = torch.cat([run(batch).argmax(1) for batch in batches(images)])
    return round(100 * float((answers == labels).double().mean()), 2)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.6, 0.4], help="of the time in 8 bits")
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="where the data lies; by default as everywhere in prunus")
    parser.add_argument("--cache", type=Path, default=Path("build/recover"), help="where trained networks are kept")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    rows = compare(trained("vgg", arguments.seed, arguments.cache, arguments.data), arguments)
    for row in rows:
        dominated = [other["name"] for other in rows if other["ms"] < row["ms"] and other["accuracy"] > row["accuracy"]]
        by = f"  better in both: {', '.join(dominated)}" if dominated else ""
        print(f"{row['name']:48} {row['accuracy']:6.2f} {row['ms']:7.2f} ms {row['bytes']:9,} bytes{by}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
