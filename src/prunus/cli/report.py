"""`prunus report`: a finished run again, as tables and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from prunus.cli import terminal
from prunus.cli.options import Folder

if TYPE_CHECKING:
    from prunus.measuring.receipt import Receipt


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
    from prunus.measuring.receipt import Receipt

    seeds = _seeds(folder)
    with ExitStack() as locks:  # all of them before the first page is written
        for seed in seeds:
            locks.enter_context(locked(seed))
        receipts = [Receipt.load(seed / "receipt.json") for seed in seeds]
        pages = [write_page(seed) for seed in seeds]
    show(receipts, pages)


def show(receipts: Sequence[Receipt], pages: Sequence[Path]) -> None:
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
