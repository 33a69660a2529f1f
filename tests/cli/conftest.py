"""The command line in this process: a runner, a folder to work in, and files to work on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from command_line import Command, Result, invoke
from prunus.files import save_tensors
from prunus.lab import models

MODELS = """
from torch import nn

def linear(inputs=3, outputs=2):
    return nn.Linear(inputs, outputs)

def two_layers():
    return nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8), nn.LayerNorm(8))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu())

class HardCoded(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.first(x).relu().view(-1, 4))

def two_linear(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

shared = nn.Linear(3, 2)

def fails():
    raise KeyError("no [bold]such[/] thing")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder with a module `my_models` in it, and an import path that is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("PRUNUS_DEBUG", raising=False)
    (tmp_path / "my_models.py").write_text(MODELS, encoding="utf-8")
    yield tmp_path
    sys.modules.pop("my_models", None)


@pytest.fixture
def command(folder: Path) -> Command:
    """Run `prunus` with some arguments in the folder."""

    def run(*arguments: object) -> Result:
        return invoke(arguments)

    return run


@pytest.fixture
def lenet_file(folder: Path) -> Path:
    """The weights of a LeNet, drawn from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = models.create("lenet")
    save_tensors(folder / "lenet.safetensors", model.state_dict())
    return folder / "lenet.safetensors"


@pytest.fixture
def linear_file(folder: Path) -> Path:
    """The weights of a Linear(3, 2), two of the six zero."""
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0, 3.0], [0.0, 5.0, 6.0]]))
        layer.bias.copy_(torch.tensor([7.0, 8.0]))
    save_tensors(folder / "linear.safetensors", layer.state_dict())
    return folder / "linear.safetensors"


@pytest.fixture
def holey_file(folder: Path) -> Path:
    """The weights of a Linear(3, 4), ReLU, Linear(4, 2): of the four neurons nothing takes the second and the third."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight[:, 1:3] = 0
    save_tensors(folder / "holey.safetensors", model.state_dict())
    return folder / "holey.safetensors"
