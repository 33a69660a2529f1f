"""Files for other programs, read back by those programs and held against the model."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import prunus
from prunus import exporting
from prunus.errors import ExportError
from prunus.exporting import ExportFacts, export
from prunus.exporting import onnx as onnx_runtime
from prunus.extras import MissingExtraError
from prunus.graph import trace
from prunus.graph.exported import ExportedModule
from prunus.lab import models
from zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")


def in_onnx_runtime(path: Path, **inputs: Tensor) -> list[Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: value.numpy() for name, value in inputs.items()}))


@pytest.mark.parametrize("name", ["conv-bn", "dict-output", "einsum", "grouped-query-rotary"])
def test_onnx_computes_what_the_model_does(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = ZOO[name]
    model = case.make().train()
    facts = export(model, tmp_path / "model.onnx", case.example_inputs)
    assert capfd.readouterr() == ("", ""), "torch.onnx talks to nobody"
    assert model.training, "it is left as it was"
    model.eval()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"], "the weights are inside"
    assert facts.bytes == (tmp_path / "model.onnx").stat().st_size
    assert facts.difference is not None
    assert 0 <= facts.difference < 1e-5
    loaded = onnx.load(tmp_path / "model.onnx")
    names = [entry.name for entry in loaded.graph.input]
    assert {entry.type.tensor_type.shape.dim[0].dim_param for entry in loaded.graph.input} == {"batch"}
    assert str(Path(__file__).parent).encode() not in (tmp_path / "model.onnx").read_bytes()
    for batch in (1, 5):  # 5 is none that the export tried itself
        args, kwargs = case.arguments(batch)
        with torch.no_grad():
            expected = model(*args, **kwargs)
        found = in_onnx_runtime(tmp_path / "model.onnx", **dict(zip(names, (*args, *kwargs.values()), strict=True)))
        if isinstance(expected, dict):
            assert [entry.name for entry in loaded.graph.output] == list(expected)
            expected = list(expected.values())
        for one, other in zip([expected] if isinstance(expected, Tensor) else expected, found, strict=True):
            np.testing.assert_allclose(other, one.numpy(), rtol=1e-4, atol=1e-5)


def test_a_programs_file_is_loaded_by_pytorch_alone(tmp_path: Path) -> None:
    case = ZOO["two-inputs"]
    model = case.make()
    facts = export(model, tmp_path / "model.pt2", case.example_inputs)
    assert (facts.format, facts.difference) == ("pt2", 0.0)
    args, _ = case.arguments(5)
    torch.save({"args": args, "expected": model(*args).detach()}, tmp_path / "call.pt")
    code = """
        import torch
        given = torch.load("call.pt", weights_only=True)
        module = torch.export.load("model.pt2").module()
        torch.testing.assert_close(module(*given["args"]), given["expected"], rtol=1e-5, atol=1e-6)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        assert not any(b"zoo_cnn.py" in archive.read(name) for name in archive.namelist()), "no path of this machine"


def test_weights_are_a_plain_state_dict(tmp_path: Path) -> None:
    model = ZOO["tied-embedding"].make()
    facts = export(model, tmp_path / "model.safetensors")
    assert facts == ExportFacts("safetensors", facts.bytes, facts.bytes, None)
    found, state = safetensors.torch.load_file(tmp_path / "model.safetensors"), model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in found)


def test_a_prunus_file_and_a_graph_export_without_example_inputs(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    prunus.save(model, tmp_path / "model.prunus", example_inputs=torch.randn(2, 6))
    facts = export(tmp_path / "model.prunus", tmp_path / "model.onnx")
    assert facts.difference is not None
    x = torch.randn(5, 6)
    np.testing.assert_allclose(in_onnx_runtime(tmp_path / "model.onnx", input=x)[0], model(x).detach(), atol=1e-6)
    case = ZOO["hf-bert"]
    module = ExportedModule.from_program(trace(case.make(), case.example_inputs).program)
    made = exporting.inputs_of(module)
    assert isinstance(made, dict)
    assert [(name, value.dtype, value.shape) for name, value in made.items()] == [("input_ids", torch.int64, (2, 10))]
    assert exporting.inputs_of(model) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)
    facts = export(model, tmp_path / "model.onnx", torch.randn(2, 6).to(dtype))
    assert facts.difference is not None
    assert facts.difference < (1e-12 if dtype == torch.float64 else 1e-2)


def test_what_onnx_runtime_has_not_is_told_and_no_file_is_left(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(ExportError, match=r"\(Odd\) can't be exported: it can't be translated to ONNX: .*bessel_j0"):
        export(Odd(), tmp_path / "model.onnx", torch.randn(2, 3))
    with pytest.raises(ExportError, match=r"bfloat16, which ONNX Runtime knows for few .* a copy in float32"):
        export(nn.Conv2d(1, 1, 3).bfloat16(), tmp_path / "model.onnx", torch.randn(2, 1, 5, 5).bfloat16())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_does_not_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_text("the old file")
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    monkeypatch.setattr(exporting, "traced", lambda _, scales, inputs: (trace(other, inputs), inputs))
    with pytest.raises(ExportError, match=r"computes something else: its outputs for a batch of 1 differ .* by \d\.\d"):
        export(model, tmp_path / "model.onnx", torch.randn(2, 3))
    with pytest.raises(ExportError, match="computes something else"):
        export(model, tmp_path / "model.pt2", torch.randn(2, 3))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old file"]


def test_a_batch_that_is_not_free_is_told(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 6).sum(1)

    with pytest.raises(ExportError, match=r"the model can't run a batch of 1: .*by prunus\.save"):
        export(Fixed(), tmp_path / "model.onnx", torch.randn(2, 6))
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"does not tell its format; give it one of the suffixes .onnx, .pt2"):
        export(model, tmp_path / "model", torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"unknown format 'onx'; did you mean 'onnx'\?"):
        export(model, tmp_path / "model", torch.randn(2, 3), format="onx")
    with pytest.raises(ValueError, match=r"\(Linear\) does not tell what it takes; give example_inputs"):
        export(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="a batch as their first dimension"):
        export(model, tmp_path / "model.onnx", torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"a torch.nn.Module or a .prunus file, got int"):
        export(3, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"'weight' of the state dict is nothing that safetensors can hold"):
        export(nn.Linear(3, 2, device="meta"), tmp_path / "model.safetensors")
    monkeypatch.setattr(onnx_runtime, "LARGEST", 20)
    with pytest.raises(ExportError, match=r"the weights have 32 bytes, but a file of ONNX holds at most 20"):
        export(model, tmp_path / "model.onnx", torch.randn(2, 3))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(onnx_runtime, "LARGEST", 2000)
    with pytest.raises(MissingExtraError, match=r"pip install 'prunus\[export\]'"):
        export(model, tmp_path / "model.onnx", torch.randn(2, 3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_cuda(tmp_path: Path) -> None:
    model = models.create("lenet").cuda()
    for suffix in ("onnx", "pt2"):
        facts = export(model, tmp_path / f"model.{suffix}", torch.randn(2, 1, 28, 28, device="cuda"))
        assert facts.difference is not None
    assert next(model.parameters()).is_cuda


class Noisy(nn.Module):
    """Adds noise in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + torch.rand_like(x))


def test_a_model_of_chance_is_named_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the model \(Noisy\) draws random numbers in eval mode"):
        export(Noisy(), tmp_path / "noisy.onnx", torch.zeros(2, 4))
    assert not list(tmp_path.iterdir())


def of_nan() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(model[2].weight, math.nan)
    return model


@pytest.mark.parametrize(
    "road",
    [
        lambda model, inputs, folder: export(model, folder / "model.onnx", inputs),
        lambda model, inputs, folder: export(model, folder / "model.pt2", inputs),
        lambda model, inputs, folder: export(model, folder / "model.c", inputs),
        lambda model, inputs, folder: prunus.compile(model, inputs),
        lambda model, inputs, folder: prunus.shrink(model, inputs),
    ],
    ids=["onnx", "pt2", "c", "compile", "shrink"],
)
def test_a_model_that_gives_nan_only_is_refused_as_nothing_can_be_compared(road: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"NaN alone for random inputs.*look for NaN in its weights"):
        road(of_nan(), torch.zeros(2, 4), tmp_path)
    assert not list(tmp_path.iterdir())
