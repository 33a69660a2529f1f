"""`prunus search`: what it writes against Python's own interface, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import prunus
from command_line import Command, refused
from prunus.files import save_tensors

MODEL = ("--model", "my_models:two_linear", "--arg", "width=24", "--weights", "dense.safetensors")
DATA = ("--calibrate", "samples.safetensors", "--validate", "labelled.safetensors")


def drawn(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return points of the plane and a height, and on which side of a circle they are."""
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return points, (points[:, :2].square().sum(1) > 1.4).long()


@pytest.fixture
def model(folder: Path) -> nn.Module:
    """A trained net in dense.safetensors, samples, and labelled ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 2))
    points, labels = drawn(0, 1000)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(points), labels).backward()
        optimizer.step()
    save_tensors(folder / "dense.safetensors", model.state_dict())
    save_tensors(folder / "samples.safetensors", {"x": drawn(1, 100)[0]})
    points, labels = drawn(2, 900)
    save_tensors(folder / "labelled.safetensors", {"x": points, "labels": labels})
    return model


def accuracy(outputs: Tensor, seed: int = 2) -> float:
    return float((outputs.argmax(1) == drawn(seed, 900)[1]).double().mean())


def test_within_a_target(command: Command, model: nn.Module) -> None:
    words = ("--target", "90 parameters", "--scopes", "global,uniform", "--out", "small.prunus")
    result = command("search", *MODEL, *DATA, *words)
    assert result.exit_code == 0, result.output
    with torch.no_grad():
        small = prunus.load("small.prunus")(drawn(2, 900)[0])
        dense = model(drawn(2, 900)[0])
    prose = " ".join(result.stdout.split())
    assert f"accuracy {accuracy(small):.2%} (before {accuracy(dense):.2%})" in prose
    assert "2 models tried" in prose
    kept = sum(int(value.count_nonzero()) for value in prunus.load("small.prunus").parameters())
    assert kept <= 90


def test_in_8_bits_above_a_floor(command: Command, model: nn.Module) -> None:
    words = ("--floor", -0.03, "--pattern", "channel", "--quantize", "--folder", "tried", "--out", "small.onnx")
    result = command("search", *MODEL, *DATA, *words, "--scopes", "uniform", "--scales", "scales.safetensors")
    assert result.exit_code == 0, result.output
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact on processors without VNNI too
    session = onnxruntime.InferenceSession("small.onnx", options)
    outputs = session.run(None, {session.get_inputs()[0].name: drawn(2, 900)[0].numpy()})[0]
    with torch.no_grad():
        dense = accuracy(model(drawn(2, 900)[0]))
    assert accuracy(torch.from_numpy(outputs)) >= dense - 0.04
    assert f"{Path('small.onnx').stat().st_size:,} bytes" in " ".join(result.stdout.split())
    assert len(list(Path("tried").iterdir())) > 1
    assert prunus.Scales.load("scales.safetensors").layers


def test_validation_leaves_the_model_as_it_was(command: Command, folder: Path) -> None:
    """In training mode BatchNorm would take the statistics of the validation data."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2)).eval()
    points = 3 + torch.randn(400, 3)
    with torch.no_grad():
        labels = net(points).argmax(1)
    prunus.save(net, "net.prunus", points[:2])
    save_tensors("labelled.safetensors", {"x": points, "labels": labels})
    save_tensors("samples.safetensors", {"x": points[:64]})
    result = command("search", "net.prunus", *DATA, "--floor", -0.3, "--scopes", "uniform", "--out", "small.prunus")
    assert result.exit_code == 0, result.output
    assert "(before 100.00%)" in " ".join(result.stdout.split())


def test_mistakes_are_told_and_nothing_is_written(command: Command, model: nn.Module, folder: Path) -> None:
    before = sorted(folder.iterdir())
    words = ("search", *MODEL, *DATA)
    own = ("--out", "small.prunus")
    target = ("--target", "90 parameters")
    for told, line in (
        ("give either a target", (*words, *own)),
        ("give either a target", (*words, *own, *target, "--floor", 0.5)),
        ("must end in one of .prunus", (*words, *target, "--out", "small.txt")),
        ("--scales is for --quantize", (*words, *target, *own, "--scales", "s.safetensors")),
        ("does not hold scales", (*words, *target, *own, "--quantize")),
        ("can't be reached", (*words, "--target", "3 parameters", *own)),
        ("below the floor", (*words, "--floor", 1.0, *own)),
        ("whole numbers named 'labels'", (*words[:-1], "samples.safetensors", *target, *own)),
        ("is read by this command", (*words, *target, "--out", "samples.safetensors", "--force")),
        ("unknown scope 'glob'", (*words, *target, "--scopes", "glob", *own)),
        (
            "random weights",
            ("search", "--model", "lenet", "--calibrate", "mnist", "--validate", "mnist", *target, *own),
        ),
    ):
        assert told in refused(command(*line)), line
    assert sorted(folder.iterdir()) == before
