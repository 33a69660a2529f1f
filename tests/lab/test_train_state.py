"""Going on: after an interruption, after SIGKILL, and not from a state that is damaged or another phase's."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prunus
from prunus.files import content_hash
from prunus.lab.recipe import TrainingSection
from prunus.lab.train import Fit, Phase, StateError, fit, processes
from prunus.lab.train.state import State, load_state, save_state
from prunus.pruning.masks import Masks
from training_parts import cubic, small_network, striped

SECTION = TrainingSection(epochs=4, batch_size=16, lr=0.1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """So small a network is trained faster so, whatever else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(model: nn.Module, folder: Path, section: TrainingSection = SECTION, **options: Any) -> Fit:
    data, masks = options.pop("data", striped()), options.pop("masks", None)
    accelerator = options.pop("accelerator", "cpu")
    settings: dict[str, Any] = {"name": "train", "seed": 3, "shift": 1} | options
    return fit(model, data, Phase(section=section, folder=folder, **settings), masks=masks, accelerator=accelerator)


def log_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def train_until_interrupted(
    patch: pytest.MonkeyPatch, epoch: int, stored: bool, *arguments: Any, **options: Any
) -> None:
    """Let ctrl-C fall right after the epoch's state is stored, or between its line in the log and its state."""

    def save(path: Path, state: State, settings: Any) -> None:
        if stored or len(state.history) < epoch:
            save_state(path, state, settings)
        if len(state.history) == epoch:
            raise KeyboardInterrupt

    with patch.context() as inner:
        inner.setattr(processes, "save_state", save)
        with pytest.raises(KeyboardInterrupt):
            train(*arguments, **options)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "logged"])
@pytest.mark.parametrize(
    ("section", "pruned"),
    [
        (SECTION, False),
        (SECTION, True),
        (SECTION.model_copy(update={"optimizer": "adamw", "lr": 0.01, "label_smoothing": 0.1}), True),
        (SECTION.model_copy(update={"momentum": 0.0, "lr_schedule": "constant"}), False),
    ],
    ids=["sgd", "sgd-pruned", "adamw-pruned", "plain"],
)
def test_interrupted_after_each_epoch_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: TrainingSection, pruned: bool, stored: bool
) -> None:
    prune = cubic(section) if pruned else None
    whole, parts = small_network(), small_network()
    expected = train(whole, tmp_path / "whole", section, prune=prune)
    for epoch in range(1, 5):
        torch.manual_seed(epoch)  # nobody knows what a new process has drawn before
        if not stored:
            train_until_interrupted(monkeypatch, epoch, False, parts, tmp_path / "parts", section, prune=prune)
            assert len(log_of(tmp_path / "parts")) == epoch
        train_until_interrupted(monkeypatch, epoch, True, parts, tmp_path / "parts", section, prune=prune)
        assert content_hash(parts.state_dict()) == content_hash(small_network().state_dict())
    fitted = train(parts, tmp_path / "parts", section, prune=prune)
    assert content_hash(parts.state_dict()) == content_hash(whole.state_dict())
    assert fitted.masks == expected.masks
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    assert [{**record, "seconds": 0} for record in fitted.history] == [
        {**record, "seconds": 0} for record in expected.history
    ]


def test_a_finished_phase_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = small_network(), small_network()
    fitted = train(first, tmp_path, prune=cubic(SECTION))
    monkeypatch.setattr(processes, "work", None)
    assert train(second, tmp_path, prune=cubic(SECTION)) == fitted
    assert content_hash(first.state_dict()) == content_hash(second.state_dict())


def test_phases_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    model = small_network()
    train(model, tmp_path)
    masks = prunus.prune(model, 0.5)
    train(model, tmp_path, name="finetune", masks=masks)
    assert [(line["phase"], line["epoch"]) for line in log_of(tmp_path)] == [
        (phase, epoch) for phase in ("train", "finetune") for epoch in (1, 2, 3, 4)
    ]


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "support" / "killed_training.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    epochs_logged = json.loads(done.stdout.splitlines()[-1])  # at each kill
    assert len(epochs_logged) == 12
    assert len(set(epochs_logged)) > 4
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


# States that are refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"section": SECTION.model_copy(update={"batch_size": 8})}, "training.batch_size was 16, is 8;"),
        ({"section": SECTION.model_copy(update={"lr": 0.2, "epochs": 5})}, r"training.epochs was 4, is 5; training.lr"),
        ({"seed": 4}, "seed was 3, is 4"),
        ({"shift": 0}, "shift was 1, is 0"),
        ({"devices": 2}, "devices was 1, is 2"),
        ({"prune": cubic(SECTION)}, "prune.sparsity was None, is 0.5"),
        ({"masks": Masks({"3.weight": torch.ones(6, 4, 3, 3) > 0})}, "initial masks was None"),
        ({"model": small_network(seed=1)}, "initial weights was"),
    ],
)
def test_the_state_of_other_settings_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    train(small_network(), tmp_path)
    model = change.pop("model", small_network())
    before = copy.deepcopy(model)
    with pytest.raises(StateError, match=message) as caught:
        train(model, tmp_path, **change)
    assert str(tmp_path / "train.state.safetensors") in str(caught.value)
    assert "delete it to start the phase again" in str(caught.value)
    assert content_hash(model.state_dict()) == content_hash(before.state_dict())


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", b"PK\x03\x04"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.state.safetensors").write_bytes(content)
    with pytest.raises(StateError, match=r"can't be read .* delete it to start the phase again"):
        train(small_network(), tmp_path)


SETTINGS = {"seed": 1, "training.lr": 0.1}
STATE = State(
    {
        "model.weight": torch.tensor([[1.0, -0.0], [float("inf"), 1e-45]]),
        "optimizer.0.step": torch.tensor(3.0),
        "model.half": torch.tensor([1.5], dtype=torch.bfloat16),
        "masks.weight": torch.tensor([True, False]),
        "model.none": torch.zeros(0, 3),
    },
    ({"epoch": 1, "loss": 0.1 + 0.2},),
)


def test_a_state_reads_back_to_the_same_bits(tmp_path: Path) -> None:
    save_state(tmp_path / "state", STATE, SETTINGS)
    state = load_state(tmp_path / "state", SETTINGS)
    assert state is not None
    assert content_hash(state.tensors) == content_hash(STATE.tensors)
    assert state.history == STATE.history
    assert state.part("optimizer").keys() == {"0.step"}
    assert load_state(tmp_path / "other", SETTINGS) is None


@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255), cut=st.booleans())
@settings(deadline=None, max_examples=150)
def test_any_damage_is_noticed(tmp_path_factory: pytest.TempPathFactory, place: float, value: int, cut: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    save_state(path, STATE, SETTINGS)
    whole = bytearray(path.read_bytes())
    index = int(place * len(whole))
    path.write_bytes(whole[:index] if cut else whole[:index] + bytes([whole[index] ^ value]) + whole[index + 1 :])
    try:
        state = load_state(path, SETTINGS)
    except StateError:
        return
    assert state is not None
    assert content_hash(state.tensors) == content_hash(STATE.tensors)
    assert state.history == STATE.history


def test_only_values_shapes_names_and_dtypes_count_for_the_hash() -> None:
    weight = torch.randn(2, 3, 4, 5)
    same = {"b": torch.zeros(1), "a": weight.to(memory_format=torch.channels_last)}
    assert content_hash({"a": weight, "b": torch.zeros(1)}) == content_hash(same)
    for other in ({"a": weight + 1}, {"a": weight.view(3, 2, 4, 5)}, {"c": weight}, {"a": weight.double()}):
        assert content_hash({"a": weight}) != content_hash(other)
