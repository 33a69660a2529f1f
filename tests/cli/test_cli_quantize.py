"""`prunus quantize`: the file it writes against Python's own interface, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from command_line import Command, refused
from prunus.files import save_tensors

MODEL = ("--model", "my_models:two_linear", "--arg", "width=12", "--weights", "dense.safetensors")
CALIBRATE = ("--calibrate", "samples.safetensors", "--samples", 150)


def samples() -> Tensor:
    """Return random samples."""
    return torch.randn(200, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(folder: Path) -> nn.Module:
    """A net in dense.safetensors, and samples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 2))
    save_tensors(folder / "dense.safetensors", model.state_dict())
    save_tensors(folder / "samples.safetensors", {"x": samples()})
    return model


def test_the_scales_are_those_that_python_gives(command: Command, model: nn.Module) -> None:
    result = command("quantize", *MODEL, *CALIBRATE, "--out", "scales.safetensors")
    assert result.exit_code == 0, result.output
    expected = prunus.quantize(model, list(samples()[:150].split(64)))
    written = prunus.Scales.load("scales.safetensors")
    assert written.values == expected.values
    assert result.stdout.startswith(str(expected))
    assert "'scales.safetensors' holds the scales; the model is as it was." in result.stdout
    words = f"prunus export {' '.join(MODEL)} --scales scales.safetensors --out dense.onnx"
    assert f"To write it in 8 bits for other runtimes: {words}" in result.stdout


@pytest.mark.parametrize("suffix", ["onnx", "pt2", "c"])
def test_the_model_is_exported_with_them(command: Command, model: nn.Module, suffix: str) -> None:
    command("quantize", *MODEL, *CALIBRATE, "--in-float", 2, "--out", "scales.safetensors")
    words = ("--scales", "scales.safetensors", "--shape", 3, "--out", f"net.{suffix}")
    result = command("export", *MODEL, *words)
    assert result.exit_code == 0, result.output
    what = "with weights of 8 bits" if suffix == "c" else "rounded to 8 bits"
    assert f"computes what the model {what} does" in " ".join(result.stdout.split())
    assert ("import torch.ao.quantization.fx" in result.stdout) == (suffix == "pt2")
    assert Path(f"net.{suffix}").stat().st_size > 100
    assert list(prunus.Scales.load("scales.safetensors").in_float) == ["2/linear#0"]


def test_a_program_computes_in_8_bits_with_them(command: Command, model: nn.Module) -> None:
    command("quantize", *MODEL, *CALIBRATE, "--out", "scales.safetensors")
    words = ("--shape", 3, "--scales", "scales.safetensors", "--batch-size", 4, "--cores", 1, "--out", "net.program")
    result = command("compile", *MODEL, *words)
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    assert "it computes what the model does as its scales round it" in told
    assert "For 4 samples on 1 thread the program takes" in told
    program = prunus.load("net.program", expect=prunus.Program)
    with torch.no_grad(), prunus.Quantizer(model, prunus.Scales.load("scales.safetensors")):
        expected = model(samples())
    assert torch.allclose(program(samples()), expected, atol=2e-2)


def test_a_packed_file_is_quantised_without_its_code(command: Command, model: nn.Module) -> None:
    prunus.save(model, "net.prunus", example_inputs=samples()[:2])
    result = command("quantize", "net.prunus", *CALIBRATE, "--activations", "int8", "--out", "scales.safetensors")
    assert result.exit_code == 0, result.output
    assert "prunus export net.prunus --scales scales.safetensors --out net.onnx" in result.stdout
    assert prunus.Scales.load("scales.safetensors").activations == "int8"
    result = command("export", "net.prunus", "--scales", "scales.safetensors", "--out", "net.onnx")
    assert result.exit_code == 0, result.output


def test_mistakes_are_told_and_nothing_is_written(command: Command, model: nn.Module, folder: Path) -> None:
    before = sorted(folder.iterdir())
    words = ("quantize", *MODEL, *CALIBRATE)
    own = ("--out", "s.safetensors")
    for told, line in (
        ("is read by this command", (*words, "--out", "samples.safetensors", "--force")),
        ("unknown ranges 'mean'", (*words, "--ranges", "mean", *own)),
        ("unknown kind of activations 'int4'", (*words, "--activations", "int4", *own)),
        ("in_float 'head'", (*words, "--in-float", "head", *own)),
        ("max_error must be a number above 0", (*words, "--max-error", -1, *own)),
        ("random weights", ("quantize", "--model", "lenet", "--calibrate", "mnist", *own)),
        ("hold scales", ("export", *MODEL, "--shape", 3, "--scales", "dense.safetensors", "--out", "n.onnx")),
    ):
        assert told in refused(command(*line))
    assert sorted(folder.iterdir()) == before
