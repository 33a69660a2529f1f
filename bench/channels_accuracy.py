"""ResNet-20 on Fashion-MNIST at half the multiply-adds: pruned by channels with prunus and with Torch-Pruning.

    pip install torch-pruning==1.6.1
    python bench/channels_accuracy.py [--seeds 0 1 2] [--images 10000] [--epochs 5] [--finetune 2] [--data FOLDER]

For each seed and kind of shortcut one dense network is trained. Every entry prunes a copy of it to at most half of its
multiply-adds and is fine-tuned in the same way: same epochs, learning rates, batches, shifts and seed. Torch-Pruning
has an entry for each of its group's norm and its root layer's norm, ranked within layers and globally (in 1.6.1
MagnitudeImportance is GroupMagnitudeImportance under another name), and is stepped until it is there, as in its
README. prunus has an entry for each of two criteria and scopes. Of each side the entry with the best *validation*
accuracy counts, and only that one is tested, once.

What is finished is kept in --folder, so a bench that was stopped goes on. --images, --epochs and --finetune (epochs of
fine-tuning) say how long it takes; --images 0 takes all of them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import prunus
from channels_peer import make_pruner
from prunus.files import write_json
from prunus.lab import data as datasets
from prunus.lab import models
from prunus.lab.data import Dataset
from prunus.lab.predicting import predict
from prunus.lab.recipe import TrainingSection
from prunus.lab.train import Phase, calibration_batches, fit
from prunus.machine import machine
from prunus.measuring.evaluate import paired_test
from prunus.measuring.macs import count_macs

BUDGET = 0.5  # of the dense network's multiply-adds
SLACK = 0.005  # channels come in steps: this much more may be left
STEPS = 200  # of Torch-Pruning's way to removing every channel
SHIFT = 2
# Student's t, two-sided 95%, by degrees of freedom
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

Batches = list[tuple[Tensor, Tensor]]
Prune = Callable[[nn.Module, Tensor, Batches], nn.Module]


class MissedBudgetError(ValueError):
    """A side ended above the budget."""


def with_prunus(model: nn.Module, images: Tensor, batches: Batches, criterion: str, scope: str) -> nn.Module:
    """Prune by multiply-adds, then shrink."""
    known = {"data": batches, "loss": nn.functional.cross_entropy} if criterion == "gradient" else {}
    options: dict[str, Any] = {"pattern": "channel", "budget": "macs", "example_inputs": images, **known}
    prunus.prune(model, 1 - BUDGET, criterion=criterion, scope=scope, **options)
    return prunus.shrink(model, images)


def with_torch_pruning(
    model: nn.Module, images: Tensor, batches: Batches, reduction: str, global_pruning: bool
) -> nn.Module:
    """Step the pruner until the multiply-adds are within the budget."""
    import torch_pruning as tp

    importance = tp.importance.GroupMagnitudeImportance(p=2, group_reduction=reduction)
    pruner = make_pruner(
        model,
        images,
        [module for module in model.modules() if isinstance(module, nn.Linear)],
        1.0,
        importance=importance,
        global_pruning=global_pruning,
        iterative_steps=STEPS,
    )
    limit = BUDGET * macs(model, images)
    for _ in range(STEPS):
        if macs(model, images) <= limit:
            break
        pruner.step()
    return model


ENTRIES: dict[str, dict[str, Prune]] = {
    "prunus": {
        f"{criterion}, {scope}": functools.partial(with_prunus, criterion=criterion, scope=scope)
        for criterion, scope in itertools.product(("magnitude", "gradient"), ("global", "uniform"))
    },
    "torch-pruning": {
        f"{norm} norm, {place}": functools.partial(
            with_torch_pruning, reduction=reduction, global_pruning=place == "global"
        )
        for (norm, reduction), place in itertools.product(
            {"group": "mean", "root": "first"}.items(), ("local", "global")
        )
    },
}


@dataclass(frozen=True)
class Entry:
    """One pruned and fine-tuned network; fractions are of the dense one's."""

    side: str
    name: str
    macs: float = math.nan
    parameters: float = math.nan
    before: float = math.nan  # validation accuracy, not yet fine-tuned
    validation: float = math.nan
    error: str = ""


def macs(model: nn.Module, images: Tensor) -> int:
    """Return the multiply-adds of one image."""
    return count_macs(model, (images[:1],)).total


def size(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


class Bench:
    """The data, the settings, and what is done with them for one seed and kind of shortcut."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        data = datasets.load("fashion-mnist", folder=arguments.data)
        if arguments.images:
            data = replace(data, train=data.train.take(torch.arange(arguments.images)))
        self.data: Dataset = data
        self.folder: Path = arguments.folder
        self.train = TrainingSection(epochs=arguments.epochs, lr=arguments.lr)
        self.finetune = TrainingSection(epochs=arguments.finetune, lr=arguments.finetune_lr)
        self.images = torch.zeros(2, *data.input_shape)
        self.batches = calibration_batches(data, 128, 8)
        self.sides: list[str] = arguments.sides

    def compare(self, shortcut: str, seed: int) -> dict[str, Any]:
        """Train, prune with every entry, fine-tune, choose by validation, test."""
        torch.manual_seed(seed)
        dense = models.create("resnet20", in_channels=1, image_size=28, shortcut=shortcut)
        place = self.folder / shortcut / f"seed-{seed}"
        self._fit(dense, self.train, place / "dense", seed)
        tested = {"dense": self._correct(dense, "test")}
        row: dict[str, Any] = {"shortcut": shortcut, "seed": seed, "entries": [], "chosen": {}, "paired": None}
        for side in self.sides:
            found = list(self._entries(side, dense, place, seed))
            row["entries"] += [asdict(entry) for entry, _ in found]
            able = [(entry, model) for entry, model in found if model is not None]
            if able:
                best, model = max(able, key=lambda pair: pair[0].validation)
                row["chosen"][side] = best.name
                tested[side] = self._correct(model, "test")
        row["test"] = {side: float(correct.double().mean()) for side, correct in tested.items()}
        if all(side in tested for side in ENTRIES):
            first, second = ENTRIES
            row["paired"] = asdict(paired_test(first, tested[first], second, tested[second]))
        return row

    def _entries(self, side: str, dense: nn.Module, place: Path, seed: int) -> Iterator[tuple[Entry, Any]]:
        for name, prune in ENTRIES[side].items():
            try:
                model = prune(copy.deepcopy(dense).eval(), self.images, self.batches)
                share = macs(model, self.images) / macs(dense, self.images)
                if share > BUDGET + SLACK:
                    raise MissedBudgetError(f"{share:.1%} of the multiply-adds are left")
            except Exception as error:  # whatever a side raises is its result
                text = " ".join(f"{type(error).__name__}: {error}".split())
                print(f"{side}, {name}: {text}", file=sys.stderr)
                yield Entry(side, name, error=text[:200]), None
                continue
            before = float(self._correct(model, "validation").double().mean())
            self._fit(model, self.finetune, place / side / name.replace(" ", "-").replace(",", ""), seed)
            after = float(self._correct(model, "validation").double().mean())
            entry = Entry(side, name, share, size(model) / size(dense), before, after)
            print(entry, file=sys.stderr)
            yield entry, model

    def _fit(self, model: nn.Module, section: TrainingSection, folder: Path, seed: int) -> None:
        fit(model, self.data, Phase(folder.name, section, folder, seed, shift=SHIFT), accelerator="cpu")

    def _correct(self, model: nn.Module, split: str) -> Tensor:
        images = getattr(self.data, split)
        logits = predict(model, images, mean=self.data.mean, std=self.data.std)
        return logits.argmax(1) == images.labels


def show(rows: list[dict[str, Any]]) -> None:
    """Print what each seed gave, and the differences."""
    for shortcut in dict.fromkeys(row["shortcut"] for row in rows):
        of_kind = [row for row in rows if row["shortcut"] == shortcut]
        print(f"\nresnet20, {shortcut} shortcuts: test accuracy in % (entry; multiply-adds and parameters left)")
        for row in of_kind:
            cells = [f"dense {row['test']['dense']:.2%}"]
            for side in ENTRIES:
                cells.append(f"{side} {describe(row, side)}")
            print(f"  seed {row['seed']}: " + "; ".join(cells))
        for side in ("dense", *ENTRIES):
            values = [row["test"][side] for row in of_kind if side in row["test"]]
            if values:
                spread = f" ± {statistics.stdev(values):.2%}" if len(values) > 1 else ""
                print(f"  {side:14} mean {statistics.mean(values):.2%}{spread} over {len(values)} seeds")
        first, second = ENTRIES
        both = [row["test"][first] - row["test"][second] for row in of_kind if row["paired"]]
        if len(both) > 1:
            half = T95.get(len(both) - 1, 1.96) * statistics.stdev(both) / math.sqrt(len(both))
            print(f"  {first} - {second}: {statistics.mean(both):+.2%} ± {half:.2%} (95%, paired by seed)")


def describe(row: dict[str, Any], side: str) -> str:
    """Return a side's result of one seed in words."""
    entries = [entry for entry in row["entries"] if entry["side"] == side]
    if side not in row["test"]:
        return entries[0]["error"] if entries else "not run"
    entry = next(entry for entry in entries if entry["name"] == row["chosen"][side])
    return f"{row['test'][side]:.2%} ({entry['name']}; {entry['macs']:.1%}, {entry['parameters']:.1%})"


def main() -> None:
    """Compare for every seed and kind of shortcut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shortcuts", nargs="+", choices=("projected", "padded"), default=["projected", "padded"])
    parser.add_argument("--sides", nargs="+", choices=list(ENTRIES), default=list(ENTRIES))
    parser.add_argument("--images", type=int, default=10_000, help="of the training split; 0 for all")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--finetune", type=int, default=2, help="epochs")
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--finetune-lr", type=float, default=0.05)
    parser.add_argument("--data", type=Path, help="where Fashion-MNIST lies; by default as everywhere in prunus")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/channels_accuracy"))
    parser.add_argument("--out", type=Path, default=Path("runs/bench/channels_accuracy.json"))
    arguments = parser.parse_args()
    bench = Bench(arguments)
    rows = []
    for shortcut in arguments.shortcuts:
        for seed in arguments.seeds:
            rows.append(bench.compare(shortcut, seed))
            write_json(arguments.out, {"command": sys.argv, "machine": asdict(machine()), "rows": rows})
    show(rows)


if __name__ == "__main__":
    main()
