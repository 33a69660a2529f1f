"""Taking a folder over with `redo`, and starts after kills between two writes: nothing stale is ever believed."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from prunus.files import load_tensors
from prunus.lab import recipe, stages, train
from prunus.pruning.masks import Masks

FIRST = {
    "name": "redo",
    "model": {"name": "lenet-300-100", "arguments": {"widths": [12, 8]}},
    "data": {"name": "digits"},
    "train": {"epochs": 1, "lr": 0.1},
    "prune": {"sparsity": 0.5},
    "finetune": {"epochs": 1, "lr": 0.02},
    "measure": {"runtimes": ["torch"], "batch_sizes": [1], "threads": [1], "sensitivity": False},
}
GRADUAL = {"sparsity": 0.8, "schedule": "cubic", "training": {"epochs": 1, "lr": 0.05}}


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


@contextmanager
def killed_in(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> Iterator[None]:
    """Let a run end, as if it were killed, where it calls a function of a module."""

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):  # noqa: PT012
        patch.setattr(module, name, killed)
        yield


@contextmanager
def killed_before_storing_the_pruned_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a run end, as if it were killed, between the masks and the model that they belong to."""
    store = stages.store

    def killed(path: Path, *rest: object) -> None:
        if path.name == "pruned.safetensors":
            raise KilledError
        store(path, *rest)

    with monkeypatch.context() as patch, pytest.raises(KilledError):  # noqa: PT012
        patch.setattr(stages, "store", killed)
        yield


def build(**changes: object) -> recipe.Recipe:
    return recipe.build({**FIRST, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the first recipe."""
    out = tmp_path_factory.mktemp("runs")
    stages.run(build(), out)
    return out


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """The results of that run, copied into the test's own folder, where it may damage them."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "seed-0"


@pytest.fixture(autouse=True)
def no_new_pages(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no page but that of the finished run; no test here reads one."""
    monkeypatch.setattr(stages.report, "write_page", lambda folder: folder / "report.html")


def phases(folder: Path) -> list[str]:
    return [json.loads(line)["phase"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_kill_between_masks_and_model_leaves_nothing_that_is_mixed_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = (folder / "finetuned.safetensors").read_bytes()
    with killed_before_storing_the_pruned_model(monkeypatch):
        stages.run(build(prune={"sparsity": 0.9}), folder.parent, redo=True)
    assert Masks.load(folder / "masks.safetensors").sparsity == pytest.approx(0.9, abs=1e-3)
    (again,) = stages.run(build(), folder.parent, redo=True)
    assert Masks.load(folder / "masks.safetensors").sparsity == pytest.approx(0.5, abs=1e-3)
    assert (folder / "finetuned.safetensors").read_bytes() == kept
    assert all(check.passed for check in again.receipt.checks)


def test_another_recipes_conclusions_go_before_its_models_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (folder / "receipt.json").is_file()
    assert (folder / "report.html").is_file()
    with killed_in(monkeypatch, train, "fit"):
        stages.run(build(train={"epochs": 2}), folder.parent, redo=True)
    assert not (folder / "receipt.json").exists()
    assert not (folder / "report.html").exists()


def test_missing_masks_are_made_again(folder: Path) -> None:
    before = (folder / "masks.safetensors").read_bytes()
    (folder / "masks.safetensors").unlink()
    stages.run(build(), folder.parent)
    assert (folder / "masks.safetensors").read_bytes() == before


def test_missing_predictions_are_measured_again(folder: Path) -> None:
    before = load_tensors(folder / "predictions.safetensors")["finetuned"]
    (folder / "predictions.safetensors").unlink()
    stages.run(build(), folder.parent)
    assert load_tensors(folder / "predictions.safetensors")["finetuned"].equal(before)


def test_a_packed_file_is_believed_only_with_the_fingerprint_of_its_content(folder: Path) -> None:
    shrunk, model = (folder / name for name in ("shrunk.prunus", "model.prunus"))
    before = shrunk.read_bytes(), model.read_bytes()
    shrunk.with_suffix(".json").unlink()  # a kill between the two files
    model.write_bytes(before[1][:-1])  # or one while another recipe was taking the folder over
    stages.run(build(), folder.parent)
    assert (shrunk.read_bytes(), model.read_bytes()) == before
    shrunk.with_suffix(".json").write_text("{")
    stages.run(build(), folder.parent)
    assert json.loads(shrunk.with_suffix(".json").read_text())["sha256"] == hashlib.sha256(before[0]).hexdigest()


def test_a_packed_file_of_other_settings_is_not_written_over_unasked(folder: Path) -> None:
    beside = folder / "model.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"made_from": "other settings"}))
    with pytest.raises(stages.RecipeChangedError, match=r"model\.prunus.* was made from other data or settings"):
        stages.run(build(), folder.parent)
    stages.run(build(), folder.parent, redo=True)
    assert json.loads(beside.read_text())["made_from"] != "other settings"


def test_redo_drops_the_state_and_the_log_of_what_the_new_recipe_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_before_storing_the_pruned_model(monkeypatch):
        stages.run(build(prune=GRADUAL), tmp_path)
    folder = tmp_path / "seed-0"
    assert (folder / "prune.state.safetensors").is_file()
    assert phases(folder) == ["train", "prune"]
    with pytest.raises(train.StateError):  # without redo's leave the state of other settings is not touched
        train.fit(
            recipe.build(FIRST).model.make(),
            stages.datasets.load("digits"),
            train.Phase("prune", recipe.TrainingSection(epochs=5), folder, seed=0),
        )
    steeper = {**GRADUAL, "training": {"epochs": 1, "lr": 0.01}}
    with killed_in(monkeypatch, stages.reducing, "make"):
        stages.run(build(prune=steeper), tmp_path, redo=True)
    assert phases(folder) == ["train", "prune", "finetune"]
    assert (folder / "prune.state.safetensors").is_file()
    stages.run(build(), tmp_path, redo=True)
    assert phases(folder) == ["train", "finetune"]
    assert not list(folder.rglob("*.state.safetensors"))


def test_an_accelerator_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown accelerator 'gpu'"):
        stages.run(build(), tmp_path, accelerator="gpu")
    assert not list(tmp_path.iterdir())


def test_half_a_weight_more_or_less_is_no_miss(tmp_path: Path) -> None:
    (found,) = stages.run(build(prune={"sparsity": 0.6667, "pattern": "1:3", "exclude": ["fc1", "fc3"]}, model={
        "name": "lenet-300-100", "arguments": {"widths": [12, 8]}}), tmp_path)  # fmt: skip
    assert {check.name: check.passed for check in found.receipt.checks}["sparsity met"]
