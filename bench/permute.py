"""How much more of the weights blocks and 2:4 keep once channels are reordered by `prunus.permute`.

    python bench/permute.py [--nets lenet5-caffe resnet20 vgg] [--data mnist-5k] [--epochs 3] [--folder FOLDER]

Each network is trained for a short while. The layers whose inputs may change places are pruned by magnitude, all at the
same sparsity, as they are and with their channels reordered. Printed are the shares of their magnitude and of their
squared magnitude that stay, and the seconds that reordering took.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import prunus
from _recover_models import SETTINGS, Trained
from prunus.lab import data as datasets
from prunus.lab.recipe import TrainingSection
from prunus.lab.train import Phase, fit
from prunus.machine import machine

CASES = (("inputs-4", 0.7), ("inputs-4", 0.8), ("inputs-4", 0.9), ("2:4", 0.5))
# Few images and no warming up: with more, some of the networks diverge.
_MOST_LR = 0.02

HEADER = f"{'network':14}{'pattern':10}{'zeros':>6}{'|w|':>16}{'w^2':>16}{'seconds':>9}"


def trained(name: str, data: str, epochs: int, folder: Path | None) -> Trained:
    """Return a network trained for some epochs with seed 0."""
    setting, images = SETTINGS[name], datasets.load(data, folder=folder)
    torch.manual_seed(0)
    model = setting.make()
    section = TrainingSection(epochs=epochs, lr=min(setting.lr, _MOST_LR))
    with tempfile.TemporaryDirectory() as place:
        fit(model, images, Phase("train", section, Path(place), 0, shift=0), accelerator="cpu")
    return Trained(model.eval(), images)


def pruned(model: nn.Module, pattern: str, sparsity: float, layers: list[str]) -> list[float]:
    """Prune layers of a model, and return the shares of their magnitude and of its square that stay."""
    before = {name: model.get_parameter(name).detach().clone() for name in layers}
    prunus.prune(model, dict.fromkeys(layers, sparsity), pattern=pattern)
    shares = []
    for power in (1, 2):
        left = sum(float(model.get_parameter(name).detach().abs().pow(power).sum()) for name in layers)
        shares.append(left / sum(float(value.abs().pow(power).sum()) for value in before.values()))
    return shares


def compare(name: str, network: Trained) -> None:
    """Print a line for each pattern and sparsity."""
    example = network.samples(64)[0][:2]
    for pattern, sparsity in CASES:
        reordered = copy.deepcopy(network.model)
        began = time.monotonic()
        layers = list(prunus.permute(reordered, example, pattern, sparsity=sparsity).after)
        seconds = time.monotonic() - began
        both = [pruned(model, pattern, sparsity, layers) for model in (copy.deepcopy(network.model), reordered)]
        cells = "".join(f"{f'{100 * one:.1f} -> {100 * other:.1f}':>16}" for one, other in zip(*both, strict=True))
        print(f"{name:14}{pattern:10}{sparsity:6.0%}{cells}{seconds:9.1f}", flush=True)


def main() -> None:
    """Compare for every network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=list(SETTINGS), default=["lenet5-caffe", "resnet20"])
    parser.add_argument("--data", default="mnist-5k")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the data lies; by default as everywhere in prunus")
    arguments = parser.parse_args()
    print(machine(), f"{torch.get_num_threads()} threads; before -> after reordering, in %")
    print(HEADER, flush=True)
    for net in arguments.nets:
        compare(net, trained(net, arguments.data, arguments.epochs, arguments.folder))


if __name__ == "__main__":
    main()
