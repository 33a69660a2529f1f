"""Time a LeNet epoch of `prunus.lab.train.fit` beside the loop that people usually write over a DataLoader.

    python bench/train.py [--epochs 3] [--rounds 3] [--shift 2] [--images N] [--folder DATA] [--out FILE]

Both sides train the same model from the same weights with the same optimizer settings, batch size, learning rates and
kind of shift, and look at the validation split after each epoch. The usual loop runs with 0, 1 and 2 workers, and its
best counts. A run's time is that of the whole call, epochs, validation and, for prunus, its log and stored states
included, divided by the number of epochs. Every run has a process of its own, and the sides take turns.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from prunus.files import write_json
from prunus.lab import data as datasets
from prunus.lab import models
from prunus.lab.data import Dataset, Images
from prunus.lab.recipe import TrainingSection
from prunus.lab.train import Phase, fit

USUAL = {"usual loop, 0 workers": 0, "usual loop, 1 worker": 1, "usual loop, 2 workers": 2}
PRUNUS = "prunus.lab.train.fit"


class ImageDataset(TorchDataset[tuple[Tensor, int]]):
    """Images that are shifted and normalised one by one, as they are asked for."""

    def __init__(self, split: Images, mean: float, std: float, shift: int) -> None:
        self.images, self.labels = split.images, split.labels.tolist()
        self.mean, self.std, self.shift = mean, std, shift

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        if self.shift:
            height, width = image.shape[1:]
            top, left = torch.randint(2 * self.shift + 1, (2,)).tolist()
            image = F.pad(image, [self.shift] * 4)[:, top : top + height, left : left + width]
        return (image.float() / 255 - self.mean) / self.std, self.labels[index]


def usual_loop(
    model: nn.Module, data: Dataset, section: TrainingSection, *, seed: int, shift: int, workers: int
) -> float:
    """Train with a DataLoader, and return the validation accuracy."""
    torch.manual_seed(seed)
    mean, std = data.mean[0], data.std[0]
    train = ImageDataset(data.train, mean, std, shift)
    validation = ImageDataset(data.validation, mean, std, 0)
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    train_loader = DataLoader(train, section.batch_size, shuffle=True, **options)
    validation_loader = DataLoader(validation, 1000, **options)
    optimizer = torch.optim.SGD(
        model.parameters(), section.lr, section.momentum, weight_decay=section.weight_decay, nesterov=True
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, section.lr, len(train_loader) * section.epochs, cycle_momentum=False
    )
    for _ in range(section.epochs):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            correct = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in validation_loader)
    return correct / len(validation)


def ours(model: nn.Module, data: Dataset, section: TrainingSection, *, seed: int, shift: int) -> float:
    """Train with prunus, and return the validation accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        phase = Phase("train", section, Path(folder), seed, shift=shift)
        fitted = fit(model, data, phase, accelerator="cpu")
    return fitted.history[-1]["validation_accuracy"]


@dataclass(frozen=True)
class Run:
    """One measured run."""

    side: str
    shift: int
    seconds_per_epoch: float
    accuracy: float


def run_one(side: str, arguments: argparse.Namespace, seed: int, shift: int) -> Run:
    """Measure one side in this process."""
    data = datasets.load("mnist", folder=arguments.folder, fallback="mnist-5k", download=False)
    if arguments.images:
        data = replace(data, train=data.train.take(torch.arange(arguments.images)))
    section = TrainingSection(epochs=arguments.epochs, batch_size=arguments.batch_size, lr=arguments.lr)
    torch.manual_seed(seed)
    model = models.create("lenet")
    if side == PRUNUS:
        for module in ("lightning_fabric", "torch.utils.tensorboard", "rich.progress"):
            importlib.import_module(module)  # done once, however many epochs there are
    began = time.perf_counter()
    if side == PRUNUS:
        accuracy = ours(model, data, section, seed=seed, shift=shift)
    else:
        accuracy = usual_loop(model, data, section, seed=seed, shift=shift, workers=USUAL[side])
    return Run(side, shift, (time.perf_counter() - began) / section.epochs, accuracy)


def run_apart(side: str, seed: int, shift: int) -> Run:
    """Measure one side in a process of its own, called as this one was."""
    command = [sys.executable, *sys.argv, "--one", json.dumps([side, seed, shift])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def summary(runs: list[Run], shift: int) -> list[dict[str, Any]]:
    """Return a row for each side: medians and spread, and how many times faster prunus is."""
    rows = []
    for side in [*USUAL, PRUNUS]:
        found = [run for run in runs if run.side == side and run.shift == shift]
        seconds = sorted(run.seconds_per_epoch for run in found)
        accuracies = [run.accuracy for run in found]
        rows.append(
            {
                "side": side,
                "shift": shift,
                "seconds_per_epoch": statistics.median(seconds),
                "least": seconds[0],
                "most": seconds[-1],
                "accuracy": statistics.mean(accuracies),
                "accuracies": accuracies,
            }
        )
    for row in rows:
        row["prunus_is_faster_by"] = row["seconds_per_epoch"] / rows[-1]["seconds_per_epoch"]
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print one table."""
    print(f"{'':24}{'s per epoch':>12}{'least - most':>16}{'validation':>12}{'ours is faster':>16}")
    for row in rows:
        spread = f"{row['least']:.2f} - {row['most']:.2f}"
        print(
            f"{row['side']:24}{row['seconds_per_epoch']:12.2f}{spread:>16}{row['accuracy']:12.2%}"
            f"{row['prunus_is_faster_by']:15.2f}x"
        )
    best = min(rows[:-1], key=lambda row: row["seconds_per_epoch"])
    print(f"against the best usual loop ({best['side']}): {best['prunus_is_faster_by']:.2f} times faster\n")


def main() -> None:
    """Measure both sides in turns, with shifted images and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--shift", type=int, default=2)
    parser.add_argument("--images", type=int, help="of the training split; by default all")
    parser.add_argument("--folder", type=Path, help="where the data lies; by default as everywhere in prunus")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/train.json"))
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(vars(run_one(arguments.one[0], arguments, *arguments.one[1:]))))
        return
    shifts = sorted({arguments.shift, 0}, reverse=True)
    runs = []
    for seed in range(arguments.rounds):
        for shift in shifts:
            for side in [*USUAL, PRUNUS]:
                runs.append(run_apart(side, seed, shift))
                print(f"round {seed + 1}: {runs[-1]}", file=sys.stderr)
    tables = [summary(runs, shift) for shift in shifts]
    for shift, rows in zip(shifts, tables, strict=True):
        print(f"images shifted by up to {shift} pixels:" if shift else "images as they are:")
        show(rows)
    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    write_json(arguments.out, {"command": sys.argv, "machine": machine, "tables": tables})


if __name__ == "__main__":
    main()
