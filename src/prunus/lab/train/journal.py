"""The records of a running phase: `log.jsonl`, TensorBoard's files, and progress on the terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prunus.extras import require
from prunus.files import write_text
from prunus.lab.train.phase import Phase, Record

LOG_NAME = "log.jsonl"


class Journal:
    """Writes the records of a phase; use it as a context manager.

    When it is created, it removes records of a killed process that are incomplete, or of epochs not in `history`.

    Args:
        phase: the phase.
        history: the epochs finished before.
        steps_per_epoch: the length of the progress bar.
    """

    def __init__(self, phase: Phase, history: Sequence[Record], steps_per_epoch: int) -> None:
        self._phase = phase
        self._log = phase.folder / LOG_NAME
        restart_log(self._log, phase.name, phase.section.epochs, history)
        self._board = _restart_board(phase.folder / "tensorboard" / phase.name, history)
        self._display = Display(phase.name, len(history), phase.section.epochs, steps_per_epoch)

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()
        self._board.close()

    def advance(self) -> None:
        """Count one more finished step."""
        self._display.advance()

    def finish(self, record: Record) -> None:
        """Write the record of a finished epoch."""
        with self._log.open("a", encoding="utf-8") as file:
            file.write(log_line(self._phase.name, self._phase.section.epochs, record))
        _add_to_board(self._board, record)
        self._display.finish(record)


def log_line(name: str, epochs: int, record: Record) -> str:
    """Return one epoch as a line of JSON.

    >>> log_line("train", 2, {"epoch": 1, "loss": 0.5}).rstrip()
    '{"phase": "train", "epoch": 1, "epochs": 2, "loss": 0.5}'
    """
    entry = {"phase": name, "epoch": record["epoch"], "epochs": epochs, **record}
    return json.dumps(entry, allow_nan=False) + "\n"


def restart_log(path: Path, name: str, epochs: int, history: Sequence[Record]) -> None:
    """Replace the log's lines of this phase by those of `history`; complete lines of other phases are kept."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    others = [line for line in text.splitlines(keepends=True) if _phase_of(line) not in (None, name)]
    new_text = "".join([*others, *(log_line(name, epochs, record) for record in history)])
    if new_text != text or not path.exists():
        write_text(path, new_text)


def forget(folder: Path, name: str) -> None:
    """Remove a phase from the log and from TensorBoard, for a run that no longer has it."""
    if (folder / "log.jsonl").is_file():
        restart_log(folder / "log.jsonl", name, 0, ())
    shutil.rmtree(folder / "tensorboard" / name, ignore_errors=True)


def _phase_of(line: str) -> str | None:
    """Return the phase of a line of the log; None for an incomplete line."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry.get("phase") if isinstance(entry, dict) and line.endswith("\n") else None


def _restart_board(folder: Path, history: Sequence[Record]) -> Any:
    """Open a TensorBoard writer on a new folder with the finished epochs."""
    require("tensorboard", "TensorBoard's log of the training")
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    board = SummaryWriter(str(folder))
    for record in history:
        _add_to_board(board, record)
    return board


def _add_to_board(board: Any, record: Record) -> None:
    for key, value in record.items():
        if key != "epoch":
            board.add_scalar(key, value, int(record["epoch"]))
    board.flush()


class Display:
    """Progress on stderr: a line for each finished epoch, and a bar if stderr is a terminal."""

    def __init__(self, name: str, finished: int, epochs: int, steps_per_epoch: int) -> None:
        progress = require("rich.progress", "showing progress")
        self._console = require("rich.console", "showing progress").Console(stderr=True, highlight=False)
        self._name, self._epochs = name, epochs
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("steps,"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left in this epoch"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(self._title(finished + 1), total=steps_per_epoch)

    def start(self) -> None:
        """Start drawing the bar."""
        self._progress.start()

    def stop(self) -> None:
        """Remove the bar; the lines stay."""
        self._progress.stop()

    def advance(self) -> None:
        """Move the bar by one step."""
        self._progress.advance(self._task)

    def finish(self, record: Record) -> None:
        """Print the line of a finished epoch, and start the next one's bar."""
        sparsity = f", {record['sparsity']:.2%} pruned" if record["sparsity"] else ""
        self._console.print(
            f"{self._title(int(record['epoch']))}: loss {record['loss']:.4f}, accuracy "
            f"{record['train_accuracy']:.2%} (validation {record['validation_accuracy']:.2%}){sparsity}, "
            f"{record['seconds']:.1f} s",
            soft_wrap=True,
            markup=False,
        )
        if record["epoch"] < self._epochs:
            self._progress.reset(self._task, description=self._title(int(record["epoch"]) + 1))

    def _title(self, epoch: int) -> str:
        return f"{self._name} {epoch}/{self._epochs}"
