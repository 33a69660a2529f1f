"""What a sparse program is asked for in `inference.py`, and whether it gives it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from _inference_runtimes import CSR, RUNTIMES
from _inference_timing import Cell

PROGRAM = "prunus"
DENSE = tuple(name for name in RUNTIMES if name != CSR)
FASTEST_DENSE = "the fastest dense runtime"
# subject, batch, sparsity, how many times faster at least, than what
SPEEDUPS: tuple[tuple[str, int, float, float, str], ...] = (
    ("lenet5-caffe", 64, 0.9, 4, FASTEST_DENSE),
    ("lenet5-caffe", 64, 0.98, 12, FASTEST_DENSE),
    ("lenet5-caffe", 1, 0.9, 3, FASTEST_DENSE),
    ("lenet5-caffe", 1, 0.98, 8, FASTEST_DENSE),
    ("lenet-300-100", 64, 0.98, 10, FASTEST_DENSE),
    ("resnet20", 16, 0.95, 3, FASTEST_DENSE),
    *(("linear", 64, sparsity, 1.5, CSR) for sparsity in (0.8, 0.9, 0.95, 0.98)),
)
BREAK_EVEN = ("lenet5-caffe", 64, 0.6)
MOST_AT_ZERO = 1.2  # of the fastest dense runtime's time
LEAST_OF_TWO_THREADS = 1.7
MOST_COMPILE_SECONDS = {"lenet5-caffe": 3.0, "resnet20": 10.0}


@dataclass(frozen=True)
class Verdict:
    """One target: `margin` is what was found as a part of what was asked for, above 1 where there is some to spare."""

    what: str
    asked: str
    found: str
    margin: float

    def __str__(self) -> str:
        verdict = "pass" if self.margin >= 1 else "MISS"
        return f"{verdict}  {self.what:76}{self.asked:>12}{self.found:>12}   x{self.margin:.2f} of it"


def fastest_dense(cell: Cell) -> str | None:
    """Return the name of the fastest dense runtime of a cell."""
    return min(set(DENSE) & set(cell.runtimes), key=lambda name: cell.runtimes[name].median_us, default=None)


def speedup(cell: Cell, against: str = FASTEST_DENSE) -> float:
    """Return how many times faster the program is; NaN where a side is missing."""
    other = fastest_dense(cell) if against == FASTEST_DENSE else against
    if other not in cell.runtimes or PROGRAM not in cell.runtimes:
        return math.nan
    return cell.runtimes[other].median_us / cell.runtimes[PROGRAM].median_us


def break_even(cells: Sequence[Cell], subject: str, batch: int) -> float:
    """Return the least measured sparsity from which on the program is no slower; infinity where there is none."""
    found = math.inf
    measured = [cell for cell in cells if (cell.subject, cell.batch) == (subject, batch)]
    for cell in sorted(measured, key=lambda cell: -cell.sparsity):
        if not speedup(cell) >= 1:
            break
        found = cell.sparsity
    return found


def verdicts(
    cells: Sequence[Cell], threads: Sequence[Mapping[str, Any]], compiling: Sequence[Mapping[str, Any]]
) -> list[Verdict]:
    """Return the verdict of each target that something was measured for."""
    return [
        *_on_speed(cells),
        *_on_little_sparsity(cells),
        *_on_threads(threads),
        *_on_compiling(compiling),
    ]


def _on_speed(cells: Sequence[Cell]) -> Iterator[Verdict]:
    for subject, batch, sparsity, least, against in SPEEDUPS:
        for cell in cells:
            times = speedup(cell, against)
            if (cell.subject, cell.batch, cell.sparsity) == (subject, batch, sparsity) and times > 0:
                what = f"{subject} at {sparsity:.0%}, batch {batch}, against {against}"
                yield Verdict(what, f">= {least:g}x", f"{times:.2f}x", times / least)


def _on_little_sparsity(cells: Sequence[Cell]) -> Iterator[Verdict]:
    subject, batch, most = BREAK_EVEN
    measured = [cell for cell in cells if (cell.subject, cell.batch) == (subject, batch) and speedup(cell) > 0]
    if any(cell.sparsity <= most for cell in measured):
        found = break_even(cells, subject, batch)
        what = f"{subject}, batch {batch}: as fast as {FASTEST_DENSE} from"
        margin = most / found if found else math.inf
        yield Verdict(what, f"<= {most:.0%}", "never" if found == math.inf else f"{found:.0%}", margin)
    for cell in cells:
        if cell.sparsity == 0 and speedup(cell) > 0:
            slower = 1 / speedup(cell)
            what = f"{cell.subject} without a zero, batch {cell.batch}: time of {FASTEST_DENSE}"
            yield Verdict(what, f"<= {MOST_AT_ZERO}", f"{slower:.2f}", MOST_AT_ZERO / slower)


def _on_threads(rows: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    for row in rows:
        times = row["one_us"] / row["two_us"]
        what = f"{row['subject']} at {row['sparsity']:.0%}, batch {row['batch']}: two threads against one"
        yield Verdict(what, f">= {LEAST_OF_TWO_THREADS}x", f"{times:.2f}x", times / LEAST_OF_TWO_THREADS)


def _on_compiling(rows: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    for row in rows:
        most, found = MOST_COMPILE_SECONDS[row["subject"]], row["first"]["seconds"]
        what = f"{row['subject']} at {row['sparsity']:.0%}: seconds to compile"
        yield Verdict(what, f"< {most:g}", f"{found:.2f}", most / found)
