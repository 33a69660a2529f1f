"""Files of earlier versions: they load for ever, and give what they gave when they were written."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import prunus
from golden_files import GOLDEN, outputs_of
from prunus.files import content_hash

FILES: dict[str, Any] = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
MODELS = [name for name in FILES if name.endswith(".prunus")]
TOLERANCES = {"bfloat16.prunus": 2e-2}  # kernels of other machines add in another order


@pytest.mark.parametrize("name", MODELS)
def test_tensors_are_those_that_were_written(name: str) -> None:
    assert content_hash(prunus.packing.read_tensors(GOLDEN / name)) == FILES[name]["content"]


@pytest.mark.parametrize("name", [name for name in MODELS if FILES[name]["inputs"]])
def test_outputs_are_those_of_the_model_that_was_written(name: str) -> None:
    model = prunus.load(GOLDEN / name)
    outputs = outputs_of(model, FILES[name]["inputs"])
    for values, expected in zip(outputs, FILES[name]["outputs"], strict=True):
        largest = max(map(abs, expected))
        assert values == pytest.approx(expected, rel=0, abs=TOLERANCES.get(name, 1e-4) * largest)
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_tied_weights_are_one() -> None:
    model = prunus.load(GOLDEN / "block.prunus")
    assert model.head.weight is model.embedding.weight
    assert "scale" not in model.state_dict()
    logits = model(torch.arange(21).reshape(3, 7) % 11)["logits"]  # another batch, another length
    assert logits.shape == (3, 11)


def test_masks_are_those_that_were_written() -> None:
    masks = prunus.load(GOLDEN / "masks.safetensors", expect=prunus.Masks)
    assert {name: mask.int().flatten().tolist() for name, mask in masks.items()} == FILES["masks.safetensors"]


def test_a_program_gives_what_its_model_gave() -> None:
    golden = FILES["operations.program"]
    program = prunus.load(GOLDEN / "operations.program", expect=prunus.Program, tune=False)
    for values, expected in zip(outputs_of(program, golden["inputs"]), golden["outputs"], strict=True):
        assert values == pytest.approx(expected, rel=0, abs=1e-5 * max(map(abs, expected)))


def test_every_file_is_listed() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {"golden.json", *FILES}
