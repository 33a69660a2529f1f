"""What a phase tells: its log, TensorBoard, and the lines on stderr."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prunus.lab.recipe import TrainingSection
from prunus.lab.train.journal import Journal, restart_log
from prunus.lab.train.phase import Phase, Record
from training_parts import plain_network, striped


def record(epoch: int) -> Record:
    return {
        "epoch": epoch,
        "loss": 0.1 * epoch,
        "train_accuracy": 0.5,
        "validation_accuracy": 0.25,
        "lr": 1e-7 / 3,
        "sparsity": 0.9,
        "seconds": 1.5,
    }


def phase(folder: Path, name: str = "train", epochs: int = 3) -> Phase:
    return Phase(name, TrainingSection(epochs=epochs), folder, seed=0)


def lines(folder: Path) -> list[dict[str, float | str]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def scalars(folder: Path, key: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(key)]


def test_a_line_has_what_the_report_reads(tmp_path: Path) -> None:
    with Journal(phase(tmp_path), [], 5) as journal:
        journal.finish(record(1))
    assert lines(tmp_path) == [
        {
            "phase": "train",
            "epoch": 1,
            "epochs": 3,
            "loss": 0.1,
            "train_accuracy": 0.5,
            "validation_accuracy": 0.25,
            "lr": 1e-7 / 3,
            "sparsity": 0.9,
            "seconds": 1.5,
        }
    ]
    assert b'"epoch": 1,' in (tmp_path / "log.jsonl").read_bytes()


def test_going_on_leaves_nothing_of_what_was_lost(tmp_path: Path) -> None:
    with Journal(phase(tmp_path), [], 5) as journal:
        journal.finish(record(1))
        journal.finish(record(2))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"phase": "train", "epo')
    with Journal(phase(tmp_path), [record(1)], 5) as journal:
        assert [line["epoch"] for line in lines(tmp_path)] == [1]
        journal.finish(record(2) | {"loss": 7.0})
    assert [(line["epoch"], line["loss"]) for line in lines(tmp_path)] == [(1, 0.1), (2, 7.0)]
    assert scalars(tmp_path / "tensorboard" / "train", "loss") == [(1, pytest.approx(0.1)), (2, 7.0)]


def test_tensorboard_has_every_phase_and_value(tmp_path: Path) -> None:
    for name in ("train", "finetune"):
        with Journal(phase(tmp_path, name), [], 5) as journal:
            journal.finish(record(1))
    for name in ("train", "finetune"):
        for key in ("loss", "train_accuracy", "validation_accuracy", "lr", "sparsity", "seconds"):
            assert scalars(tmp_path / "tensorboard" / name, key) == [(1, pytest.approx(record(1)[key]))]


LINE = st.sampled_from(
    ['{"phase": "train", "epoch": 9}', '{"phase": "prune", "epoch": 1}', '{"phase": "tr', "[1]", "null", "", "\u2028"]
)


@given(before=st.lists(LINE), end=st.sampled_from(["", "\n"]), finished=st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_a_restarted_log_is_whole(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], end: str, finished: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "restarted.jsonl"
    path.write_text("\n".join(before) + end)
    whole_lines = before if end else before[:-1]
    restart_log(path, "train", 3, [record(epoch + 1) for epoch in range(finished)])
    entries = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert path.read_text().endswith("\n") or not entries
    assert [e["epoch"] for e in entries if e["phase"] == "train"] == list(range(1, finished + 1))
    assert sum(e["phase"] == "prune" for e in entries) == sum("prune" in line for line in whole_lines)


def test_bytes_that_are_no_text_do_not_stop_a_phase(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'\xff\xfe\n{"phase": "prune", "epoch": 1}\n')
    with Journal(phase(tmp_path), [], 5):
        assert lines(tmp_path) == [{"phase": "prune", "epoch": 1}]


def test_without_a_terminal_there_is_one_line_an_epoch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Journal(phase(tmp_path), [], 200) as journal:
        for epoch in (1, 2):
            for _ in range(200):
                journal.advance()
            journal.finish(record(epoch))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"train {epoch}/3: loss {0.1 * epoch:.4f}, accuracy 50.00% (validation 25.00%), 90.00% pruned, 1.5 s"
        for epoch in (1, 2)
    ]


def test_a_terminal_gets_its_cursor_back_after_ctrl_c(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.suppress(KeyboardInterrupt), Journal(phase(tmp_path), [], 5) as journal:
        journal.advance()
        raise KeyboardInterrupt
    err = capfd.readouterr().err
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert "train 1/3" in err
    assert err.rindex(show) > err.rindex(hide)


def test_the_journal_of_a_real_phase(tmp_path: Path) -> None:
    from prunus.lab.train import fit

    section = TrainingSection(epochs=2, batch_size=16, lr=0.1)
    fitted = fit(plain_network(), striped(), Phase("train", section, tmp_path, seed=0), accelerator="cpu")
    assert lines(tmp_path) == [{"phase": "train", "epochs": 2, **entry} for entry in fitted.history]
    assert [value for _, value in scalars(tmp_path / "tensorboard" / "train", "loss")] == pytest.approx(
        [entry["loss"] for entry in fitted.history]
    )
