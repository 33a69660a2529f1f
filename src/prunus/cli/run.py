"""`prunus run` and `prunus report`: a whole recipe, and its figures again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

import prunus
from prunus.cli import terminal
from prunus.cli.options import Folder


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
    with _logged():
        finished = stages.run(
            chosen,
            out or Path("runs") / chosen.name,
            data_folder=data,
            download=not no_download,
            accelerator=accelerator,
            redo=redo,
            say=terminal.say,
        )
    _show([seed.receipt for seed in finished], [seed.report for seed in finished])
    for seed in finished:
        path = seed.folder / RESULT
        terminal.say(
            f"Model: {path} has {path.stat().st_size:,} bytes; to have it in Python: prunus.load({str(path)!r})"
        )


def report(folder: Folder, /) -> None:
    """Print a finished run's figures, and write its page anew.

    For example:
      prunus report runs/lenet
      prunus report runs/lenet/seed-0

    Args:
        folder: A run's, such as runs/lenet, with all its seeds, or that of one seed, such as runs/lenet/seed-0.
    """
    from prunus.lab.report import write_page
    from prunus.lab.run_folder import locked

    seeds = _seeds(folder)
    with ExitStack() as locks:  # all of them before the first page is written
        for seed in seeds:
            locks.enter_context(locked(seed))
        receipts = [prunus.Receipt.load(seed / "receipt.json") for seed in seeds]
        pages = [write_page(seed) for seed in seeds]
    _show(receipts, pages)


def _show(receipts: Sequence[prunus.Receipt], pages: Sequence[Path]) -> None:
    """Print one receipt in full or several in summary, then where their pages lie."""
    from prunus.lab import report

    console = terminal.prose()
    if len(receipts) == 1:
        report.terminal(receipts[0], console)
    else:
        report.summary(receipts, console)
    terminal.show(*(f"Report: {page}" for page in pages))


def _seeds(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(folder)!r}; expected one that prunus run wrote, such as runs/lenet"
        )
    if (folder / "receipt.json").is_file():
        return [folder]
    seeds = [path.parent for path in folder.glob("seed-*/receipt.json")]
    if not seeds:
        raise FileNotFoundError(
            f"no finished run in {str(folder)!r}: neither it nor a seed-N folder in it has a receipt.json"
        )
    return sorted(seeds, key=lambda seed: (len(seed.name), seed.name))


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
