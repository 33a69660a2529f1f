"""What `shrink` leaves of networks with zeros of each kind, beside the exact count.

    python bench/exact.py [--only WORDS] [--before SRC] [--write docs/exact.md]

The small networks are those of `tests/support/zero_cases.py`; resnet18 and vgg11_bn have their published shapes, with
ten classes. The exact count is a formula of the layers' sizes for each network, and never looks at what prunus found.
--before names the `src` folder of another version of prunus, whose counts are printed beside. The outputs of each
smaller network are compared with the whole one's on 64 random samples (those that are no case of the tests: 4). The
column *apart* is the largest difference, relative to the largest output, in float64 (the others: float32).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import prunus

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from zero_cases import CASES

HEADER = """# What shrink removes

Made by `python bench/exact.py --before SRC --write docs/exact.md`: for networks with each kind of zero, the number of
parameters, the number that `prunus.shrink` leaves (*now*), and the exact number that can't be removed: a formula of
the layers' sizes, independent of prunus. *before* is the version that did not follow products with zero. *apart* is
the largest difference of an output from the whole network's, relative to the largest output: on 64 random samples in
float64, and for the last four on 4 samples in float32.

`0 * x` counts as zero: where a removed channel would have been NaN or infinite, the smaller network's outputs are
finite.

"""

# Where the count is more than what has to be left, or would be less in another form.
REASONS = {
    "batch norm: shift above zero, padding behind (stays)": "across zero padding a constant is no bias",
    "ReZero: a whole branch times zero": "a layer keeps one channel",
    "duplicate neurons": "not merged: it takes a proof that two channels are equal in all that lies between",
    "resnet18, all last scales of the branches zero": "a layer keeps one channel",
}


@dataclass(frozen=True)
class Large:
    """A network that is too large for the tests: how to build it, its input's shape, and what has to be left."""

    make: Callable[[], tuple[nn.Module, int]]
    shape: tuple[int, ...]


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of branch and shortcut."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += shortcut
        return self.relu(out)


class ResNet18(nn.Module):
    """He et al., "Deep residual learning for image recognition", table 1, 18 layers."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        widths = (64, 64, 128, 256, 512)
        self.stages = nn.ModuleList(
            nn.Sequential(Block(before, width, 1 if index == 0 else 2), Block(width, width, 1))
            for index, (before, width) in enumerate(itertools.pairwise(widths))
        )
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def vgg11_bn(num_classes: int = 10) -> nn.Sequential:
    """Return configuration A of Simonyan and Zisserman, "Very deep convolutional networks", with batch norm."""
    layers: list[nn.Module] = []
    width = 3
    for size in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if size:
            layers += [nn.Conv2d(width, size, 3, padding=1), nn.BatchNorm2d(size), nn.ReLU(inplace=True)]
        else:
            layers.append(nn.MaxPool2d(2))
        width = size or width
    head = [nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, num_classes)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *head)


@torch.no_grad()
def _slim(model: nn.Module, share: float) -> nn.Module:
    """Give norms random numbers, and set a share of their scales and shifts to zero, as network slimming does."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
            zero = torch.rand(module.num_features, generator=generator) < share
            module.weight[zero] = 0
            module.bias[zero] = 0
    return model.eval()


def _alive(*norms: nn.BatchNorm2d) -> int:
    """Return how many channels have a scale in any of some norms."""
    return int(torch.stack([norm.weight != 0 for norm in norms]).any(0).sum())


def resnet18_of(model: ResNet18) -> int:
    """Return how many parameters a resnet18 keeps: a stage's channels with a scale in any norm that ends in it."""
    ends = [model.stem[1]]
    inputs, total = 3, 0
    for index, stage in enumerate(model.stages):
        first, second = stage
        own = [*ends, first.bn2, second.bn2] if index == 0 else [first.downsample[1], first.bn2, second.bn2]
        width = _alive(*own)
        if index == 0:
            total += 3 * width * 49 + 2 * width
            inputs = width
        else:
            total += inputs * width + 2 * width
        for block in stage:
            hidden = max(1, _alive(block.bn1) if bool((block.bn2.weight != 0).any()) else 0)
            total += inputs * hidden * 9 + 2 * hidden + hidden * width * 9 + 2 * width
            inputs = width
    return total + inputs * 10 + 10


def vgg11_of(model: nn.Sequential) -> int:
    """Return how many parameters a vgg11_bn has to keep: channels with a scale."""
    inputs, total = 3, 0
    for norm in (module for module in model if isinstance(module, nn.BatchNorm2d)):
        width = _alive(norm)
        total += inputs * width * 9 + width + 2 * width
        inputs = width
    return total + (inputs * 49 * 4096 + 4096) + (4096 * 4096 + 4096) + (4096 * 10 + 10)


def _resnet18() -> tuple[nn.Module, int]:
    model = _slim(ResNet18(), 0.5)
    assert isinstance(model, ResNet18)
    return model, resnet18_of(model)


def _resnet18_last() -> tuple[nn.Module, int]:
    model = _slim(ResNet18(), 0.0)
    assert isinstance(model, ResNet18)
    for stage in model.stages:
        for block in stage:
            block.bn2.weight.data.zero_()
    return model, resnet18_of(model)


def _vgg11() -> tuple[nn.Module, int]:
    model = _slim(vgg11_bn(), 0.5)
    assert isinstance(model, nn.Sequential)
    return model, vgg11_of(model)


def _duplicates() -> tuple[nn.Module, int]:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    for tensor in (model[0].weight, model[0].bias):
        tensor.data[5:] = tensor.data[:3]
    return model, 6 * 5 + 5 + 5 * 3 + 3


LARGE = {
    "duplicate neurons": Large(_duplicates, (6,)),
    "resnet18, half of the scales and shifts zero": Large(_resnet18, (3, 64, 64)),
    "resnet18, all last scales of the branches zero": Large(_resnet18_last, (3, 64, 64)),
    "vgg11_bn, half of the scales and shifts zero": Large(_vgg11, (3, 224, 224)),
}


@dataclass
class Row:
    """One network: its parameters, what was left, what has to be left, and how far the outputs are apart."""

    name: str
    whole: int
    left: int
    exact: int
    apart: float
    seconds: float


def measure(name: str) -> Row:
    """Shrink one network."""
    torch.manual_seed(0)
    if name in CASES:
        case = CASES[name]
        model, exact = case.make(), case.exact
        example, inputs = case.inputs(1), case.inputs(64, 1)
    else:
        model, exact = LARGE[name].make()
        example, inputs = torch.randn(1, *LARGE[name].shape), torch.randn(4, *LARGE[name].shape)
    started = time.process_time()
    smaller = prunus.shrink(model, example)
    seconds = time.process_time() - started
    with torch.no_grad():
        expected, found = model(inputs), smaller(inputs)
    apart = float((expected - found).abs().max() / expected.abs().max())
    return Row(name, _count(model), _count(smaller), exact, apart, seconds)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def table(rows: list[Row], before: dict[str, int]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| what is zero | parameters | before | now | exact | apart | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        remark = REASONS.get(row.name, "" if row.left == row.exact else "not reached")
        earlier = f"{before[row.name]:,}" if row.name in before else "?"
        lines.append(
            f"| {row.name} | {row.whole:,} | {earlier} | {row.left:,} | {row.exact:,} | {row.apart:.0e} | {remark} |"
        )
    return "\n".join(lines) + "\n"


def _earlier(source: str, names: list[str]) -> dict[str, int]:
    """Return what another version of prunus leaves; a network that it can't shrink stays as it was."""
    environment = os.environ | {"PYTHONPATH": source}
    command = [sys.executable, __file__, "--json", "--only", "|".join(names)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=1800)
    return {row["name"]: row["left"] for row in json.loads(found.stdout)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose names hold one of these words, separated by |")
    parser.add_argument("--before", default="", help="the src folder of another version of prunus")
    parser.add_argument("--write", type=Path, help="a Markdown file to write")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    words = arguments.only.split("|")
    names = [name for name in (*CASES, *LARGE) if any(word in name for word in words)]
    rows = [measure(name) for name in names]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    text = table(rows, _earlier(arguments.before, names) if arguments.before else {})
    print(text)
    reached = sum(row.left == row.exact for row in rows)
    summary = f"{reached} of {len(rows)} reach the exact count."
    print(summary)
    if arguments.write:
        arguments.write.write_text(f"{HEADER}{text}\n{summary}\n")


if __name__ == "__main__":
    main()
