"""`prunus run`: a whole recipe."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from prunus.cli import terminal
from prunus.cli.options import Folder
from prunus.cli.report import show


def run(
    recipe: str,
    /,
    *setting: str,
    out: Folder | None = None,
    data: Folder | None = None,
    devices: Annotated[int | None, Parameter(metavar="N")] = None,
    accelerator: Annotated[Literal["auto", "cpu", "cuda"], Parameter(metavar="NAME")] = "auto",
    no_download: bool = False,
    redo: bool = False,
) -> None:
    """Train, prune, fine-tune, shrink and pack a model, and prove it.

    A run that was stopped or killed goes on where it was when the same command is given again.

    For example:
      prunus run lenet
      prunus run lenet prune.sparsity=0.9 seeds=[0,1,2] --out runs/lenet-90
      prunus run my_recipe.yaml --data ~/data --no-download

    Args:
        recipe: A name that 'prunus ls recipes' lists, or a .yaml file.
        setting: Settings of the recipe to change, as KEY=VALUE, such as prune.sparsity=0.9.
        out: Where the results go; otherwise runs/<name of the recipe>.
        data: A folder to look for the data in first.
        devices: How many devices train side by side; short for devices=N.
        accelerator: What to train on; auto takes what is there.
        no_download: Never use the network.
        redo: Take over a folder that holds a run of another recipe.
    """
    from prunus.lab import recipe as recipes
    from prunus.lab import stages
    from prunus.lab.reducing import RESULT

    chosen = recipes.load(recipe, [*setting, *([] if devices is None else [f"devices={devices}"])])
    with _logged(), _stoppable():
        finished = stages.run(
            chosen,
            out or Path("runs") / chosen.name,
            data_folder=data,
            download=not no_download,
            accelerator=accelerator,
            redo=redo,
            say=terminal.say,
        )
    show([seed.receipt for seed in finished], [seed.report for seed in finished])
    for seed in finished:
        path = seed.folder / RESULT
        terminal.say(
            f"Model: {path} has {path.stat().st_size:,} bytes; to have it in Python: prunus.load({str(path)!r})"
        )


@contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["prunus", *sys.argv[1:]])
        raise KeyboardInterrupt(
            f"Stopped; what is done is kept. To go on, give the same command again: {command}"
        ) from None


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        terminal.say(f"{'Note: ' if record.levelno >= logging.WARNING else ''}{record.getMessage()}")


@contextmanager
def _logged() -> Iterator[None]:
    """Print what the library logs while it works: where data comes from, and what stands in for it."""
    log, handler = logging.getLogger("prunus"), _Handler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
