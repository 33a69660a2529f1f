"""What is refused is refused in one sentence of ours: no raw error, and nothing of torch's on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import GraphError
from prunus.graph import trace


class Strange(nn.Module):
    """A linear layer and a function of ours behind it."""

    def __init__(self, behind: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.linear, self.behind = nn.Linear(4, 4), behind

    def forward(self, x: Tensor) -> object:
        """Return whatever the function does."""
        return self.behind(self.linear(x))


def branch(x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 0 else x


def loop(x: Tensor) -> Tensor:
    for _ in range(int(x.abs().sum().item())):
        x = x * 0.5
    return x


def until(x: Tensor) -> Tensor:
    while x.norm() > 1:
        x = x / 2
    return x


def nonzero(x: Tensor) -> Tensor:
    return x if len((x > 0).nonzero()) > 3 else x * 2


STRANGE: dict[str, Callable[[Tensor], object]] = {
    "branch": branch, "loop": loop, "until": until, "nonzero": nonzero,
    "numpy": lambda x: torch.from_numpy(x.numpy() * 2), "list": lambda x: x * sum(x.flatten().tolist()),
    "sparse": lambda x: torch.sparse.mm(torch.eye(4).to_sparse(), x.t()).t(), "none": lambda x: None,
    "text": lambda x: {"a": x, "b": "text"}, "nested": lambda x: torch.nested.nested_tensor([x[0], x[1]]),
    "class": lambda x: type("Own", (), {"x": x})(), "complex": lambda x: torch.fft.fft(x),
    "bfloat16": lambda x: x.bfloat16().relu(), "own failure": lambda x: {}["missing"],
    "svd": lambda x: torch.linalg.svd(x)[0], "float8": lambda x: x.to(torch.float8_e4m3fn).float(),
}  # fmt: skip
TRACED_BY = {"branch", "loop", "until", "nonzero", "numpy", "sparse", "nested", "class", "own failure"}
OURS = (prunus.CompileError, prunus.ExportError, GraphError)


def take(way: str, model: nn.Module, inputs: Tensor, folder: Path) -> None:
    """Trace, compile or export a model."""
    if way == "trace":
        trace(model, inputs)
    elif way == "compile":
        prunus.compile(model, inputs, tune=False)
    else:
        prunus.export(model, folder / f"model.{way}", inputs)


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("way", ["compile", "onnx", "pt2", "c"])
def test_strange_models(name: str, way: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, inputs = Strange(STRANGE[name]).eval(), torch.randn(3, 4)
    if name in TRACED_BY:
        with pytest.raises(OURS):
            take(way, model, inputs, tmp_path)
    else:
        with contextlib.suppress(*OURS):
            take(way, model, inputs, tmp_path)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("name", sorted(TRACED_BY))
def test_a_trace_that_fails_says_why_and_prints_nothing(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GraphError, match=r"can't be traced by torch.export: \w+: .{10,}|can't run the example inputs"):
        trace(Strange(STRANGE[name]).eval(), torch.randn(3, 4))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("name", ["branch", "loop", "until", "nonzero"])
def test_the_line_of_the_model_is_named(name: str) -> None:
    with pytest.raises(GraphError, match=rf"data-dependent .*test_refusals.py:\d+ in {name}\); a forward must not"):
        trace(Strange(STRANGE[name]).eval(), torch.randn(3, 4))


LINEAR = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", ["compile", "onnx", "pt2", "c", "safetensors", "trace"])
def test_torchscript_is_named(way: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inputs = torch.randn(2, 4)
    for scripted in (torch.jit.script(LINEAR), torch.jit.trace(LINEAR, inputs)):
        with pytest.raises(TypeError, match=r"TorchScript module .*give the torch\.nn\.Module that it was made from"):
            take(way, scripted, inputs, tmp_path)
    if way != "safetensors":
        holding = nn.Sequential(torch.jit.script(nn.Linear(4, 3)), nn.ReLU())
        with pytest.raises(GraphError, match=r"'0' .*is a TorchScript module"):
            trace(holding, inputs)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("where", ["weights", "inputs", "buffers"])
def test_onnx_of_narrow_numbers_is_refused_before_any_work(
    dtype: torch.dtype, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunus.exporting.traced", None)
    model, inputs = nn.Linear(4, 3), torch.randn(2, 4)
    if where == "weights":
        model = model.to(dtype)
    elif where == "buffers":
        model.register_buffer("more", torch.ones(2).to(dtype))
    else:
        inputs = inputs.to(dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        prunus.ExportError, match=rf"the model is in {name}, which .* export a copy in float32"
    ) as error:
        prunus.export(model, tmp_path / "model.onnx", inputs)
    assert str(error.value).count("float32") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("way", ["pt2", "c", "safetensors"])
def test_other_formats_take_any_dtype(dtype: torch.dtype, way: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)).to(dtype)
    prunus.export(model.eval(), tmp_path / f"model.{way}", torch.randn(2, 1, 5, 5).to(dtype))
    assert (tmp_path / f"model.{way}").is_file()


class ComplexWeights(nn.Module):
    """A product with complex weights, real at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the real parts."""
        return (x.to(torch.complex64) @ self.weight).real


def test_complex_numbers_in_onnx(tmp_path: Path) -> None:
    facts = prunus.export(ComplexWeights(), tmp_path / "model.onnx", torch.randn(2, 4))
    assert facts.difference is not None
    assert facts.difference < 1e-5
    with pytest.raises(prunus.ExportError, match="takes complex numbers, which ONNX Runtime doesn't"):
        prunus.export(ComplexWeights(), tmp_path / "model.onnx", torch.randn(2, 4, dtype=torch.complex64))
    with pytest.raises(prunus.ExportError, match="its output 0 is complex"):
        prunus.export(Strange(STRANGE["complex"]), tmp_path / "model.onnx", torch.randn(2, 4))


@pytest.mark.parametrize("way", ["onnx", "pt2", "c"])
def test_inputs_of_another_dtype_than_the_model_are_told(way: str, tmp_path: Path) -> None:
    with pytest.raises(OURS, match=r"can't run (its|the) example inputs"):
        prunus.export(nn.Linear(4, 3).half(), tmp_path / f"model.{way}", torch.randn(2, 4))


@pytest.mark.parametrize("share", [1.0, 1e-3], ids=["much", "little"])
def test_c_of_a_model_that_depends_on_chance_is_refused(share: float, tmp_path: Path) -> None:
    import random

    drawn = random.Random(0)
    with pytest.raises(prunus.ExportError, match="depend on random numbers"):
        prunus.export(Strange(lambda x: x * (1 + share * drawn.random())), tmp_path / "model.c", torch.randn(2, 4))
    assert list(tmp_path.iterdir()) == []
