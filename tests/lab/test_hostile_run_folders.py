"""JSON in a run's folder that is damaged or hostile: refused with one error, or taken as not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prunus.files import checksum_of, load_with_metadata, save_tensors
from prunus.lab.report import folder as run
from prunus.lab.run_folder import Seconds, vouched
from prunus.lab.train.journal import restart_log
from prunus.lab.train.state import State, StateError, load_state, save_state

HOSTILE = {
    "nested deeply": "[" * 100_000,
    "nested deeply and closed": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "a number of many digits": '{"train": ' + "1" * 5000 + "}",
    "a list": "[1, 2]",
    "a text as a number": '{"train": "3", "sha256": 5, "sparsities": "12", "curves": []}',
    "not a number": '{"train": NaN, "sparsities": [NaN], "curves": {"a": [NaN]}, "split": "x", "total": 1}',
    "infinite": '{"train": 1e999, "sparsities": [1e999], "curves": {"a": [1]}, "split": "x", "total": 1e999}',
    "a key twice": '{"train": 1, "train": 2}',
    "no text": "\udcff",
}


@pytest.fixture(params=HOSTILE)
def content(request: pytest.FixtureRequest) -> bytes:
    """The bytes of a hostile JSON file."""
    return HOSTILE[request.param].encode(errors="surrogateescape")


def test_seconds_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"seconds\.json' does not hold the seconds of stages"):
        Seconds(tmp_path)


def test_a_fingerprint_vouches_for_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes(content)
    (tmp_path / "model.prunus").write_bytes(b"something")
    assert vouched(tmp_path / "model.prunus") is None


def test_what_the_page_draws_is_left_out(content: bytes, tmp_path: Path) -> None:
    for name, read in (("log.jsonl", run._log), ("sensitivity.json", run._sensitivity)):
        (tmp_path / name).write_bytes(content)
        assert isinstance(run._content(tmp_path / name, read), run.LeftOut)


def test_the_log_drops_the_line(content: bytes, tmp_path: Path) -> None:
    whole = '{"phase": "train", "epoch": 1}\n'
    (tmp_path / "log.jsonl").write_bytes(whole.encode() + content + b"\n")
    restart_log(tmp_path / "log.jsonl", "finetune", 3, [{"epoch": 1, "loss": 0.5}])
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["phase"] == "train"
    assert json.loads(lines[-1])["phase"] == "finetune"


def test_predictions_of_complex_indices_are_left_out(tmp_path: Path) -> None:
    shapes = {"labels": (3,), "changed_index": (1,), "changed_images": (1, 1, 2, 2)}
    tensors = {name: torch.zeros(shape, dtype=torch.complex64) for name, shape in shapes.items()}
    save_tensors(tmp_path / "predictions.safetensors", tensors)
    assert isinstance(run._content(tmp_path / "predictions.safetensors", run._predictions), run.LeftOut)


def test_a_training_state_nested_deeply_is_refused(tmp_path: Path) -> None:
    path, tensors = tmp_path / "state.safetensors", {"model.a": torch.ones(1)}
    save_state(path, State(tensors, ()), {})
    metadata = {"format": load_with_metadata(path)[1]["format"], "settings": "[" * 100_000, "history": "[]"}
    save_tensors(path, tensors, {**metadata, "checksum": checksum_of(tensors, metadata)})  # as a forger would
    with pytest.raises(StateError, match="can't be read"):
        load_state(path, {})
