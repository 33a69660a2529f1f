"""`prunus export`: what it writes and says, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

import prunus
from command_line import Command, refused
from prunus.files import load_tensors


def test_weights_and_a_model_become_onnx(command: Command, linear_file: Path) -> None:
    options = ["--model", "my_models:linear", "--weights", linear_file, "--shape", 3, "--out", "linear.onnx"]
    result = command("export", *options)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    x = torch.tensor([[1.0, 2.0, 3.0]])
    (found,) = onnxruntime.InferenceSession("linear.onnx").run(None, {"input": x.numpy()})
    assert found.tolist() == [[1 + 9 + 7, 10 + 18 + 8]]
    after, before = Path("linear.onnx").stat().st_size, linear_file.stat().st_size
    assert f"'linear.onnx' has {after:,} bytes; '{linear_file}' has {before:,}; the weights" in result.stdout
    assert "On random inputs ONNX Runtime computes what the model does" in result.stdout


def test_a_packed_model_becomes_a_program_and_weights(command: Command, folder: Path) -> None:
    model = nn.Linear(3, 2)
    prunus.save(model, "linear.prunus", example_inputs=torch.randn(2, 3))
    result = command("export", "linear.prunus", "--out", "linear.pt2")
    assert result.exit_code == 0, result.output
    assert f"'linear.prunus' has {Path('linear.prunus').stat().st_size:,}" in result.stdout
    assert "torch.export.load('linear.pt2')" in result.stdout
    result = command("export", "linear.prunus", "--out", "weights", "--format", "safetensors")
    assert result.exit_code == 0, result.output
    assert torch.equal(load_tensors("weights")["weight"], model.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "m.onnx"], "there is no model; give a .prunus file, or --model"),
        (["--model", "my_models:linear", "--out", "m.txt"], "does not tell its format"),
        (["--model", "my_models:linear", "--out", "m.onnx"], "give the --shape of one"),
        (["m.prunus", "--model", "lenet", "--out", "m.onnx"], "leave out --model"),
        (["m.prunus", "--out", "m.onnx"], "m.prunus"),
        (["--model", "my_models:linear", "--out", "my_models.py"], "is there already"),
    ],
)
def test_mistakes_are_one_line(command: Command, folder: Path, arguments: list[str], message: str) -> None:
    assert message in refused(command("export", *arguments))
    assert not (folder / "m.onnx").exists()


def test_c_tells_flash_and_ram(command: Command, linear_file: Path, folder: Path) -> None:
    options = ["--model", "my_models:linear", "--weights", linear_file, "--shape", 3, "--out", "net.c"]
    result = command("export", *options)
    assert result.exit_code == 0, result.output
    assert "'net.c' and 'net.h' are written" in result.stdout
    assert "Flash: 25 bytes of constants" in result.stdout, "four weights, a mask of six bits, two biases: 16 + 1 + 8"
    assert "RAM: 0 bytes of static buffers" in result.stdout
    assert 'To use it: #include "net.h" and call net_run' in result.stdout
    assert "net.c' is there already" in refused(command("export", *options))
    (folder / "net.c").unlink()
    assert "net.h' is there already" in refused(command("export", *options))


def test_a_model_or_a_program_becomes_a_library(command: Command, linear_file: Path, folder: Path) -> None:
    options = ["--model", "my_models:linear", "--weights", linear_file, "--shape", 3]
    result = command("export", *options, "--out", "net.so")
    assert result.exit_code == 0, result.output
    assert f"'net.so' has {Path('net.so').stat().st_size:,} bytes" in result.stdout
    assert "On random inputs it computes what the program does" in result.stdout
    assert "cc main.c net.so -Wl,-rpath,." in result.stdout
    assert "struct net_program" in Path("net.h").read_text()
    assert "net.so' is there already" in refused(command("export", *options, "--out", "net.so"))
    (folder / "net.so").unlink()
    assert "net.h' is there already" in refused(command("export", *options, "--out", "net.so"))
    result = command("compile", *options, "--batch-size", 4, "--cores", 1, "--out", "net.program")
    assert result.exit_code == 0, result.output
    assert "For 4 samples on 1 thread the program takes" in result.stdout
    assert "the fastest of PyTorch, ONNX Runtime and ONNX Runtime int8" in result.stdout
    result = command("export", "net.program", "--out", "other.so")
    assert result.exit_code == 0, result.output
    assert f"'net.program' has {Path('net.program').stat().st_size:,}" in result.stdout
    assert "which becomes a library only" in refused(command("export", "net.program", "--out", "net.onnx"))
