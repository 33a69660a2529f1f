"""Files in 8 bits: whole numbers inside, any batch, and the outputs of the rounded model."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import ExportError, ScalesError
from quantized_nets import Residual, apart, images, residual


@pytest.fixture(scope="module")
def model() -> Residual:
    return residual()


@pytest.fixture(scope="module")
def scales(model: Residual) -> prunus.Scales:
    return prunus.quantize(model, [images()])


def rounded(model: nn.Module, scales: prunus.Scales, inputs: Tensor) -> Tensor:
    """Return what the model gives as it is rounded."""
    with torch.no_grad(), prunus.Quantizer(model, scales):
        result: Tensor = model(inputs)
    return result


def run(path: Path, inputs: Tensor) -> Tensor:
    """Return what ONNX Runtime makes of a file, without the hints of prunus."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return torch.from_numpy(result)


def test_an_onnx_file_holds_whole_numbers_and_gives_the_rounded_outputs(
    model: Residual, scales: prunus.Scales, tmp_path: Path
) -> None:
    facts = prunus.export(model, tmp_path / "net.onnx", images(2), scales=scales)
    assert facts.difference is not None
    assert facts.difference < 0.01
    graph = onnx.load(tmp_path / "net.onnx").graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QuantizeLinear"] == len(scales.values)
    assert "BatchNormalization" not in kinds
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    whole = {name: value for name, value in held.items() if value.dtype == numpy.int8 and value.ndim > 1}
    assert sorted(value.shape for value in whole.values()) == [(5, 8), (8, 1, 3, 3), (8, 2, 3, 3), (8, 8, 3, 3)]
    assert all(abs(value.astype(int)).max() <= 127 for value in whole.values())
    assert all(value.size < 50 for value in held.values() if value.dtype == numpy.float32)
    for count in (1, 5, 64):
        wanted = rounded(model, scales, images(count, seed=7))
        assert apart(run(tmp_path / "net.onnx", images(count, seed=7)), wanted) < 1e-3
        assert torch.equal(run(tmp_path / "net.onnx", images(count, seed=7)).argmax(1), wanted.argmax(1))


def test_an_equalised_file_computes_what_the_model_does(tmp_path: Path, model: Residual, scales: prunus.Scales) -> None:
    assert scales.factors  # so this is one
    prunus.export(model, tmp_path / "net.onnx", images(2), scales=scales)
    with torch.no_grad():
        assert apart(run(tmp_path / "net.onnx", images(seed=8)), model(images(seed=8))) < 0.01


def test_activations_of_int8_are_written_as_such(tmp_path: Path, model: Residual) -> None:
    scales = prunus.quantize(model, [images()], activations="int8")
    prunus.export(model, tmp_path / "net.onnx", images(2), scales=scales)
    graph = onnx.load(tmp_path / "net.onnx").graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    zeros = [(held | constants)[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {(value.dtype.name, int(value)) for value in zeros} == {("int8", 0)}
    assert apart(run(tmp_path / "net.onnx", images(seed=4)), rounded(model, scales, images(seed=4))) < 1e-3


def test_a_program_of_torch_export_is_loaded_by_another_process(
    model: Residual, scales: prunus.Scales, tmp_path: Path
) -> None:
    prunus.export(model, tmp_path / "net.pt2", images(2), scales=scales)
    torch.save(images(3), tmp_path / "in.pt")
    code = (
        "import sys, torch, torch.ao.quantization.fx\n"
        "module = torch.export.load(sys.argv[1]).module()\n"
        "torch.save(module(torch.load(sys.argv[2])), sys.argv[3])\n"
    )
    words = [sys.executable, "-c", code, *(str(tmp_path / name) for name in ("net.pt2", "in.pt", "out.pt"))]
    subprocess.run(words, check=True, timeout=120)
    assert apart(torch.load(tmp_path / "out.pt"), rounded(model, scales, images(3))) < 1e-3


def test_zeros_of_a_pruned_model_are_zeros_in_the_file(tmp_path: Path) -> None:
    model = residual()
    masks = prunus.prune(model, 0.6)
    prunus.export(model, tmp_path / "net.onnx", images(2), scales=prunus.quantize(model, [images()]))
    graph = onnx.load(tmp_path / "net.onnx").graph
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    zeros = sum(int((value == 0).sum()) for value in weights if value.dtype == numpy.int8 and value.ndim > 1)
    assert zeros >= masks.num_pruned


def test_what_does_not_fit_is_refused_and_nothing_is_written(
    model: Residual, scales: prunus.Scales, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="scales are for the formats onnx, pt2, pte and c, not for so"):
        prunus.export(model, tmp_path / "net.so", images(2), scales=scales)
    with pytest.raises(ScalesError, match="belong to another model"):
        prunus.export(nn.Sequential(nn.Conv2d(2, 3, 3)), tmp_path / "net.onnx", images(2), scales=scales)
    with pytest.raises(ExportError, match=r"the model is in float64, .* export a copy"):
        prunus.export(copy.deepcopy(model).double(), tmp_path / "net.onnx", images(2).double(), scales=scales)
    with pytest.raises(TypeError, match=r"what prunus\.quantize returned, got str"):
        prunus.export(model, tmp_path / "net.onnx", images(2), scales="scales.safetensors")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_written(
    model: Residual, scales: prunus.Scales, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.last.weight.neg_()
    own = prunus.exporting.quantized.in_integers
    monkeypatch.setattr(prunus.exporting.quantized, "in_integers", lambda model, scales: own(other, scales))
    with pytest.raises(ExportError, match="what was exported computes something else: for a batch of 1"):
        prunus.export(model, tmp_path / "net.onnx", images(2), scales=scales)
    assert not list(tmp_path.iterdir())
