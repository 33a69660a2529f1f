"""Training in two processes that talk by gloo: the same masks, the single process's result, and failures that end."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from prunus.files import content_hash
from prunus.lab.recipe import TrainingSection
from prunus.lab.train import Fit, Phase, RankError, fit, processes
from training_parts import Telling, cubic, line_count, striped

# 4 steps an epoch; the last batch has one image, so the second process has none of it
SECTION = TrainingSection(epochs=3, batch_size=16, lr=0.1, label_smoothing=0.1)


def train(model: Telling, folder: Path, devices: int) -> Fit:
    phase = Phase("train", SECTION, folder, seed=1, shift=1, devices=devices, prune=cubic(SECTION))
    return fit(model, striped(), phase, accelerator="cpu")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Telling, Fit, Path]:
    folder = tmp_path_factory.mktemp("together")
    model = Telling(folder)
    return model, train(model, folder, devices=2), folder


def test_two_processes_have_the_same_weights_and_masks_at_every_step(together: tuple[Telling, Fit, Path]) -> None:
    _, fitted, folder = together
    first, second = ((folder / f"process-{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert len(first) == 12
    assert first == second
    assert len({line.split()[0] for line in first}) > 6  # the masks did grow on the way
    assert fitted.masks is not None
    assert fitted.masks.num_pruned == round(0.5 * (4 * 9 + 64 * 3))


def test_two_processes_come_to_what_one_comes_to(together: tuple[Telling, Fit, Path], tmp_path: Path) -> None:
    model, fitted, _ = together
    alone = Telling(tmp_path)
    expected = train(alone, tmp_path, devices=1)
    # In float64 what differs is the order of the additions, and nothing that an averaging mistake could hide behind.
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert fitted.masks == expected.masks
    for ours, theirs in zip(fitted.history, expected.history, strict=True):
        assert {**ours, "seconds": 0} == pytest.approx({**theirs, "seconds": 0}, rel=1e-5)


@pytest.fixture
def forked_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork processes off one that has imported everything: spawned ones, as in the tests above, take seconds each."""
    multiprocessing.set_forkserver_preload(["lightning_fabric", "torch.utils.tensorboard", "training_parts"])
    start = functools.partial(processes.start_processes, start_method="forkserver")
    monkeypatch.setattr(processes, "start_processes", start)


@pytest.mark.usefixtures("forked_processes")
def test_a_process_that_fails_ends_the_others_and_training_goes_on_later(
    together: tuple[Telling, Fit, Path], tmp_path: Path
) -> None:
    model, before = Telling(tmp_path), dict(os.environ)
    (tmp_path / "fail").touch()
    began = time.monotonic()
    with pytest.raises(RankError, match="process 1 of 2 failed: OSError: the disk of process 1 is full"):
        train(model, tmp_path, devices=2)
    assert time.monotonic() - began < 60
    assert dict(os.environ) == before
    assert line_count(tmp_path / "process-1.txt") == 6  # in the second of three epochs
    (tmp_path / "fail").unlink()
    fitted = train(model, tmp_path, devices=2)
    assert line_count(tmp_path / "process-1.txt") == 6 + 8
    whole, expected, _ = together
    assert content_hash(model.state_dict()) == content_hash(whole.state_dict())
    assert fitted.masks == expected.masks
