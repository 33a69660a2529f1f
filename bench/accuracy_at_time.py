"""Accuracy and time of blocks in 8 bits beside dense networks, smaller ones and shrunk ones, in float32 and 8 bits.

    python bench/accuracy_at_time.py [--net lenet5-caffe] [--seeds 0 1 2] [--data FOLDER] [--cache FOLDER] [--json FILE]

Needs the environment of `make bench-nets` for OpenVINO. Every network is trained for as many epochs: a dense one, then
on; smaller ones, with fewer channels from the start; shrunk ones, whose channels go while the large one trains on; and
ours, whose blocks of four inputs go likewise. All but ours are timed in ONNX Runtime and OpenVINO, in float32 and in
8 bits, and the faster of the two counts; ours as programs in 8 bits. Times are medians of calls in turns on one core,
with the batch that is named. Scales come from 512 training images. The accuracies are those of the validation images,
by which anything is chosen, and of the test images: in 8 bits those of the rounded network, ours those of the program.
Prints the means over seeds, what is better than ours in both, and the fastest of ours within 1.0% errors.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import prunus
from _recover_models import SmallMobile
from prunus.lab import data as datasets
from prunus.lab import models
from prunus.lab.data import Dataset, Images, normalise
from prunus.lab.recipe import PruneSection, TrainingSection
from prunus.lab.train import Phase, calibration_batches, fit
from prunus.machine import machine
from prunus.measuring.latency.clock import interleaved
from prunus.measuring.latency.runtimes import RUNTIMES, Call, LeftOutError, TimedModel, ready

FLOAT, IN_8_BITS = ("onnxruntime", "openvino"), ("onnxruntime-int8", "openvino-int8")
# of all weights that may go; of the channels' multiply-adds; of the width
BLOCKS, CHANNELS, WIDTHS = (0.8, 0.9, 0.95, 0.98), (0.5, 0.75), (0.5, 0.25)
Make = Callable[[float], nn.Module]


@dataclass(frozen=True)
class Setting:
    """A network of any width, its data, how long and how fast it is trained first and then on, and the batch timed."""

    make: Make
    data: str
    batch: int
    epochs: tuple[int, int, int]
    lr: float
    shift: int = 2


def _of_catalogue(name: str, widths: tuple[int, ...], **arguments: int) -> Make:
    return lambda share: models.create(name, widths=[max(4, round(share * width)) for width in widths], **arguments)


NETS = {
    "lenet5-caffe": Setting(_of_catalogue("lenet5-caffe", (20, 50, 500)), "mnist", 64, (6, 4, 4), 0.05),
    "resnet20": Setting(
        _of_catalogue("resnet20", (16, 32, 64), in_channels=1, image_size=28), "fashion-mnist", 16, (8, 4, 4), 0.2
    ),
    "mobile": Setting(SmallMobile, "fashion-mnist", 16, (6, 3, 3), 0.1),
}


@dataclass
class Subject:
    """A network that was trained, its scales, and its program if it is one of ours."""

    model: nn.Module
    scales: prunus.Scales
    in_8_bits: bool
    program: prunus.Program | None = None

    def accuracy(self, split: Images, data: Dataset) -> float:
        """Return the percentage of a split that it gets right."""
        images = normalise(split.images, data.mean, data.std)
        with torch.no_grad():
            if self.program is not None:
                answers = [self.program(part) for part in images.split(1000)]
            elif self.in_8_bits:
                with prunus.Quantizer(self.model, self.scales):
                    answers = [self.model(part) for part in images.split(1000)]
            else:
                answers = [self.model(part) for part in images.split(1000)]
        return 100 * float((torch.cat(answers).argmax(1) == split.labels).double().mean())

    def calls(self, batch: Tensor) -> dict[str, Call]:
        """Return what is timed, by runtime."""
        timed = TimedModel(self.model, (batch[:1],), self.scales)
        found = {}
        for name in ("prunus-int8",) if self.program is not None else IN_8_BITS if self.in_8_bits else FLOAT:
            if not RUNTIMES[name].installed:
                raise SystemExit(f"{name} is not installed; see `make bench-nets`")
            try:
                found[name] = ready(name, timed, (batch,), 1)
            except (
                LeftOutError
            ) as error:  # without VNNI, OpenVINO cuts products off at 16 bits: a user would see its time
                print(f"  {name}: {str(error)[:120]}", flush=True)
                found[name] = RUNTIMES[name].prepare(timed, (batch,), 1)((batch,))
        return found


class Study:
    """Trains the networks of one setting with one seed; what was trained before is read from the folder."""

    def __init__(self, name: str, seed: int, data: Dataset, cache: Path) -> None:
        self.setting, self.seed, self.data = NETS[name], seed, data
        self.folder = cache / f"accuracy-at-time-{name}-{seed}"

    def dense(self, share: float) -> nn.Module:
        """Return a network of a share of the width, trained for all epochs."""
        first, *more = self.setting.epochs
        torch.manual_seed(self.seed)
        return self.trained(self.trained(self.setting.make(share), f"{share}-first", first), f"{share}-on", sum(more))

    def pruned(self, section: dict[str, object], name: str) -> nn.Module:
        """Return the network pruned while it trains on, and trained on with its zeros."""
        first, pruning, after = self.setting.epochs
        torch.manual_seed(self.seed)
        model = self.trained(self.setting.make(1.0), "1.0-first", first)
        training = {"epochs": pruning, "lr": self.setting.lr / 2, "lr_schedule": "constant"}
        prune = PruneSection.model_validate({"schedule": "cubic", "training": training, **section})
        assert prune.training is not None
        masks = fit(model, self.data, self._phase(f"{name}-prune", prune.training, prune), accelerator="cpu").masks
        return self.trained(model, f"{name}-on", after, masks)

    def trained(self, model: nn.Module, name: str, epochs: int, masks: prunus.Masks | None = None) -> nn.Module:
        """Train a model in place, and return it in eval mode."""
        section = TrainingSection(epochs=epochs, lr=self.setting.lr if "first" in name else self.setting.lr / 2)
        fit(model, self.data, self._phase(name, section), masks=masks, accelerator="cpu")
        return model.eval()

    def _phase(self, name: str, section: TrainingSection, prune: PruneSection | None = None) -> Phase:
        return Phase(name, section, self.folder, self.seed, shift=self.setting.shift, prune=prune)

    def subjects(self) -> dict[str, Subject]:
        """Return all networks, ours last."""
        samples = [images for images, _ in calibration_batches(self.data, 64, 8)]
        found: dict[str, nn.Module] = {"dense": self.dense(1.0)}
        found |= {f"{share:.0%} of the width": self.dense(share) for share in WIDTHS}
        for share in CHANNELS:
            section = {"sparsity": share, "pattern": {"channel": {"round_to": 4, "budget": "macs"}}}
            model = self.pruned(section, f"channels-{share}")
            found[f"shrunk by {share:.0%}"] = prunus.shrink(model, samples[0][:1])
        subjects = {}
        for name, model in found.items():
            scales = prunus.quantize(model, samples, max_error=math.inf)
            subjects |= {
                f"{name}, float32": Subject(model, scales, False),
                f"{name}, int8": Subject(model, scales, True),
            }
        batch = torch.cat(samples)[: self.setting.batch]
        for sparsity in BLOCKS:
            model = self.pruned({"sparsity": sparsity, "pattern": "inputs-4", "scope": "erk"}, f"blocks-{sparsity}")
            scales = prunus.quantize(model, samples, max_error=math.inf)
            program = prunus.compile(model, batch, scales=scales, threads=1)
            subjects[f"ours, blocks at {sparsity:.0%}"] = Subject(model, scales, True, program)
        return subjects

    def measure(self, seconds: float) -> dict[str, dict[str, float]]:
        """Return validation and test accuracy, and milliseconds of a call."""
        subjects = self.subjects()
        batch = normalise(self.data.train.images[: self.setting.batch], self.data.mean, self.data.std)
        calls = {(name, key): call for name, each in subjects.items() for key, call in each.calls(batch).items()}
        with torch.inference_mode():
            times = interleaved(calls, seconds=seconds, seed=self.seed, threads=1)
        rows = {}
        for name, subject in subjects.items():
            milliseconds = min(time.median / 1e3 for (other, _), time in times.items() if other == name)
            accuracies = {
                split: subject.accuracy(getattr(self.data, split), self.data) for split in ("validation", "test")
            }
            rows[name] = {**accuracies, "ms": milliseconds}
        return rows


def report(rows: dict[str, dict[str, float]]) -> None:
    """Print the means, what stands above ours, and the fastest of ours within 1.0% errors on validation images."""
    dense, floats = rows["dense, int8"]["ms"], rows["dense, float32"]["ms"]
    for name, row in rows.items():
        better = [other for other, its in rows.items() if its["ms"] < row["ms"] and its["test"] > row["test"]]
        by = f"  better in both: {', '.join(better)}" if better else ""
        figures = f"{row['validation']:7.2f} {row['test']:7.2f} {row['ms']:8.3f} ms  {dense / row['ms']:6.2f}"
        print(f"{name:28} {figures} times dense int8, {floats / row['ms']:6.2f} float32{by}")
    accurate = {name: row for name, row in rows.items() if name.startswith("ours") and row["validation"] >= 99.0}
    if accurate:
        name = min(accurate, key=lambda name: accurate[name]["ms"])
        print(f"within 1.0% errors on validation images: {name}, test error {100 - rows[name]['test']:.2f}%")


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=list(NETS), default="lenet5-caffe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, for each network and runtime")
    parser.add_argument("--data", type=Path, help="where the data lies; by default as everywhere in prunus")
    parser.add_argument("--cache", type=Path, default=Path("build/accuracy-at-time"), help="where states are kept")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    data = datasets.load(NETS[arguments.net].data, folder=arguments.data)
    runs = []
    for seed in arguments.seeds:
        runs.append(Study(arguments.net, seed, data, arguments.cache).measure(arguments.seconds))
        print(f"seed {seed}")
        report(runs[-1])
    means = {
        name: {key: statistics.mean(run[name][key] for run in runs) for key in row} for name, row in runs[0].items()
    }
    print(f"means of {len(runs)}")
    report(means)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": str(machine()), "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
