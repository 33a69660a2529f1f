"""One `load`: what a file holds, told by the file; what it does not hold, told in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import prunus
from prunus.errors import PackError

X = torch.randn(3, 4)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file of each kind, under names that tell nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    paths = {kind: tmp_path / f"{place}.bin" for place, kind in enumerate(("model", "program", "masks", "weights"))}
    prunus.save(model, paths["model"], X)
    prunus.compile(model, X, tune=False).save(paths["program"])
    prunus.Masks({"0.weight": torch.eye(3, 4).bool()}).save(paths["masks"])
    safetensors.torch.save_file(model.state_dict(), paths["weights"])
    return paths


@pytest.mark.parametrize(
    ("kind", "expected"), [("model", nn.Module), ("program", prunus.Program), ("masks", prunus.Masks)]
)
def test_the_file_tells_what_it_holds(kind: str, expected: type[Any], files: dict[str, Path]) -> None:
    assert isinstance(prunus.load(files[kind]), expected)
    assert isinstance(prunus.load(files[kind], expect=expected), expected)


def test_a_model_and_its_program_compute_the_same(files: dict[str, Path]) -> None:
    program = prunus.load(files["program"], expect=prunus.Program, tune=False)
    torch.testing.assert_close(program(X), prunus.load(files["model"])(X).detach())


@pytest.mark.parametrize(
    ("kind", "options", "error", "words"),
    [
        ("model", {"expect": prunus.Program}, PackError, "holds a model, not a program"),
        ("masks", {"expect": nn.Module}, PackError, "holds masks, not a model"),
        (
            "model",
            {"expect": dict},
            TypeError,
            r"expect must be torch\.nn\.Module, .*prunus\.Scales",
        ),
        ("model", {"threads": 2}, TypeError, "threads is for a program, and .* holds a model"),
        ("model", {"tune": False}, TypeError, "tune is for a program"),
        ("program", {"model": nn.Linear(4, 3)}, TypeError, "model is for a model, and .* holds a program"),
        ("masks", {"device": "cpu"}, TypeError, "device is for a model, and .* holds masks"),
        ("weights", {}, PackError, "holds tensors, but neither masks, scales nor a program"),
    ],
)
def test_what_does_not_fit_is_refused(
    kind: str, options: dict[str, Any], error: type[Exception], words: str, files: dict[str, Path]
) -> None:
    with pytest.raises(error, match=words):
        prunus.load(files[kind], **options)


def test_no_file_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file at"):
        prunus.load(tmp_path / "none")
    with pytest.raises(PackError, match="is a directory"):
        prunus.load(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(PackError, match=r"not a \.prunus file"):
        prunus.load(tmp_path / "text")
