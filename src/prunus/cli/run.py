"""`prunus run`: a whole recipe."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from prunus.cli import terminal
from prunus.cli.group import STOPPED
from prunus.cli.report import show
from prunus.registry import unknown_name

RecipeName: TypeAlias = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A name that 'prunus ls recipes' lists, or a .yaml file.")
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings of the recipe to change, such as prune.sparsity=0.9."),
]
Out: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where the results go; otherwise runs/<name of the recipe>.")
]
DataFolder: TypeAlias = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="A folder to look for the data in first.")
]
Devices: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="How many devices train side by side; short for devices=N.")
]
Accelerator: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="What to train on: cpu, cuda, or auto for what is there.")
]
NoDownload: TypeAlias = Annotated[bool, typer.Option("--no-download", help="Never use the network.")]
Redo: TypeAlias = Annotated[bool, typer.Option("--redo", help="Take over a folder that holds a run of another recipe.")]

_ACCELERATORS = ("auto", "cpu", "cuda")


def run(
    recipe: RecipeName,
    settings: Settings = None,
    out: Out = None,
    data_folder: DataFolder = None,
    devices: Devices = None,
    accelerator: Accelerator = "auto",
    no_download: NoDownload = False,
    redo: Redo = False,
) -> None:
    """Train, prune, fine-tune, shrink and pack a model, and prove it.

    A run that was stopped or killed goes on where it was when the same command is given again.

    \b
    Examples:
      prunus run lenet
      prunus run lenet prune.sparsity=0.9 seeds=[0,1,2] --out runs/lenet-90
      prunus run my_recipe.yaml --data ~/data --no-download
    """
    from prunus.lab import recipe as recipes
    from prunus.lab import stages
    from prunus.lab.reducing import RESULT

    if accelerator not in _ACCELERATORS:
        raise unknown_name("accelerator", accelerator, _ACCELERATORS)
    chosen = recipes.load(recipe, [*(settings or ()), *([] if devices is None else [f"devices={devices}"])])
    with _told(), _stoppable():
        try:
            finished = stages.run(
                chosen,
                out or Path("runs") / chosen.name,
                data_folder=data_folder,
                download=not no_download,
                accelerator=accelerator,
                redo=redo,
                say=terminal.say,
            )
        except stages.RunLockedError as error:
            raise ValueError(str(error)) from error
    show([seed.receipt for seed in finished], [seed.report for seed in finished])
    for seed in finished:
        terminal.say(_handed_out(seed.folder / RESULT))


def _handed_out(path: Path) -> str:
    return f"Model: {path} has {path.stat().st_size:,} bytes; to have it in Python: prunus.load({str(path)!r})"


@contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["prunus", *sys.argv[1:]])
        terminal.say(f"Stopped; what is done is kept. To go on, give the same command again: {command}")
        raise typer.Exit(STOPPED) from None


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        terminal.say(f"{'Note: ' if record.levelno >= logging.WARNING else ''}{record.getMessage()}")


@contextmanager
def _told() -> Iterator[None]:
    """Print what the library logs while it works: where data comes from, and what stands in for it."""
    log, teller = logging.getLogger("prunus"), _Teller()
    level = log.level
    log.addHandler(teller)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(teller)
        log.setLevel(level)
