"""Scales in a file: what is written is read, and what was damaged or forged is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import prunus
from prunus.errors import ScalesError
from prunus.files import checksum_of, load_with_metadata, save_tensors
from quantized_nets import images, residual


@pytest.fixture(scope="module")
def scales() -> prunus.Scales:
    return prunus.quantize(residual(), [images()], in_float=["stem"])


def test_what_is_written_is_read(scales: prunus.Scales, tmp_path: Path) -> None:
    scales.save(tmp_path / "scales.safetensors")
    again = prunus.load(tmp_path / "scales.safetensors", expect=prunus.Scales)
    assert str(again) == str(scales)
    assert again.values == scales.values
    assert again.in_float == {"stem/conv2d#0": "as asked"}
    assert (again.graph, again.inputs, again.activations) == (scales.graph, scales.inputs, scales.activations)
    model = residual()
    with torch.no_grad():
        outputs = []
        for own in (scales, again):
            with prunus.Quantizer(model, own):
                outputs.append(model(images()))
    assert torch.equal(*outputs)


def forge(path: Path, changes: dict[str, object], facts: dict[str, object]) -> None:
    """Change tensors and facts of a file, and give it the right checksum."""
    tensors, metadata = load_with_metadata(path)
    tensors |= changes  # type: ignore[arg-type]
    own = json.loads(metadata["facts"]) | facts
    header = {"kind": "scales", "facts": json.dumps(own)}
    save_tensors(path, tensors, header | {"checksum": checksum_of(tensors, header)})


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"first/conv2d#0:weight": torch.tensor([-1.0] * 8)}, {}),
        ({"first/conv2d#0:weight": torch.full((8,), torch.nan)}, {}),
        ({"first/conv2d#0:correction": torch.zeros(3)}, {}),
        ({"/relu#0:zero_point": torch.tensor(300, dtype=torch.int32)}, {}),
        ({"/relu#0:scale": torch.tensor([1.0, 2.0])}, {}),
        ({"more": torch.zeros(1)}, {}),
        ({}, {"activations": "int2"}),
        ({}, {"values": ["/missing"]}),
        ({}, {"errors": 3}),
        ({}, {"inputs": [["x", ["a"], "float32"]]}),
        ({}, {"inputs": [["", [2, 8, 8], "Tensor"]]}),
        ({}, {"inputs": [["", [2**40], "float32"]]}),
    ],
)
def test_forged_files_are_refused(
    scales: prunus.Scales, tmp_path: Path, changes: dict[str, object], facts: dict[str, object]
) -> None:
    path = tmp_path / "scales.safetensors"
    scales.save(path)
    forge(path, changes, facts)
    with pytest.raises(ScalesError, match="does not hold scales"):
        prunus.Scales.load(path)


def test_other_files_and_damaged_ones_are_refused(scales: prunus.Scales, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        prunus.Scales.load(tmp_path / "none.safetensors")
    prunus.Masks({"a": torch.ones(2, dtype=torch.bool)}).save(tmp_path / "masks.safetensors")
    with pytest.raises(ScalesError, match="tells of no scales"):
        prunus.Scales.load(tmp_path / "masks.safetensors")
    scales.save(tmp_path / "scales.safetensors")
    data = bytearray((tmp_path / "scales.safetensors").read_bytes())
    data[-2] ^= 1
    (tmp_path / "scales.safetensors").write_bytes(data)
    with pytest.raises(ScalesError, match="damaged or changed"):
        prunus.Scales.load(tmp_path / "scales.safetensors")


def test_scales_whose_layers_have_other_sizes_are_refused(scales: prunus.Scales, tmp_path: Path) -> None:
    path = tmp_path / "scales.safetensors"
    scales.save(path)
    forge(path, {"first/conv2d#0:weight": torch.ones(3), "first/conv2d#0:correction": torch.zeros(3)}, {})
    with pytest.raises(ScalesError, match=r"first/conv2d#0 has 8 output channels, and the scales have 3"):
        prunus.Quantizer(residual(), prunus.Scales.load(path))
