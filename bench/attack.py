"""Attack `shrink`: thousands of small networks made to catch it out, each result held against the masked model.

    python bench/attack.py [--count 5000] [--seed 0] [--family NAME ...] [--jobs 2] [--out runs/bench/attack.json]
    python bench/attack.py --case literal:17      # everything about one case
    python bench/attack.py --against OLD.json     # what an earlier run got right and this one refuses; times

Families: forwards that address channels by literal index or move them; either of them hidden behind operations whose
outputs seldom show it; channels dead for many reasons; tokens, integers and arguments that the example lacks; other
sizes; training branches; attributes equal to sizes; complex and short numbers; random graphs; every kind of layer; the
tests' zoo; optimizers. Zeros come from masks of whole rows and columns, by magnitude, at random, or from channel
pruning. A case depends on its family, its index and the seed only. The judge (`_attack_judge.py`) uses none of prunus'
own checks; it compares 280 samples of seven kinds in float64.

equal: all outputs are the masked model's. refused: ValueError or TypeError of prunus. WRONG: another output, a changed
attribute or model, a failure in training mode, or a file that gives another model. size: equal, but not at a size or
with an argument that the result's `checked` lacks. raw: another error. slow: over the time limit of a case. smaller:
equal, with fewer parameters. fewer inputs: equal, but a batch or size that the model takes is refused. zeroed: `prune`
zeroed what `shrink` then refused.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from _attack_case import Outcome, all_families, cases, run_case
from _attack_subject import build
from prunus.files import write_json
from prunus.machine import machine

RESULTS = ("equal", "refused", "wrong", "size", "raw", "slow", "crash", "broken")
BATCH = 250  # cases of a set of workers: torch.export keeps memory, and a crash costs few of them


def quiet() -> None:
    """Keep a worker's standard error to itself: torch writes graphs there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)


def outcomes(chosen: list[tuple[str, int]], seed: int, jobs: int, limit: float) -> Iterator[dict[str, Any]]:
    """Run cases in worker processes; where one of them dies, its batch is run again case by case."""
    for start in range(0, len(chosen), BATCH):
        left = dict.fromkeys(chosen[start : start + BATCH])
        try:
            with _pool(jobs) as pool:
                for future in as_completed([pool.submit(run_case, *case, seed, limit) for case in left]):
                    outcome = future.result()
                    del left[outcome["family"], outcome["index"]]
                    yield outcome
        except BrokenProcessPool:
            yield from _singly(list(left), seed, limit)


def _singly(chosen: list[tuple[str, int]], seed: int, limit: float) -> Iterator[dict[str, Any]]:
    for family, index in chosen:
        with _pool(1) as pool:
            try:
                yield pool.submit(run_case, family, index, seed, limit).result()
            except BrokenProcessPool:
                yield vars(Outcome(family, index, result="crash", why="the process died"))


def _pool(jobs: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, context, initializer=quiet)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the counts of each family as lines."""
    titles = [name.upper() if name == "wrong" else name for name in RESULTS]
    lines = [
        f"{'family':12} {'tried':>6}" + "".join(f"{t:>8}" for t in [*titles, "smaller", "zeroed"]) + "  fewer inputs"
    ]
    for family in [*sorted({row["family"] for row in rows}), "all"]:
        own = [row for row in rows if family in (row["family"], "all")]
        counts = collections.Counter(row["result"] for row in own)
        equal = [row for row in own if row["result"] == "equal"]
        numbers = [counts[name] for name in RESULTS]
        numbers += [sum(row["after"] < row["before"] for row in equal), sum(row["zeroed"] for row in own)]
        lost = sum(bool(row["lost"]) for row in equal)
        lines.append(f"{family:12} {len(own):6}" + "".join(f"{number:8}" for number in numbers) + f"{lost:14}")
    return lines


def details(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong by attempt, with a case to run again, and attempts that were refused each time."""
    lines = []
    for result in ("wrong", "raw", "crash", "slow", "broken", "size"):
        by_attempt: dict[tuple[str, str], list[dict[str, Any]]] = collections.defaultdict(list)
        for row in rows:
            if row["result"] == result:
                by_attempt[row["family"], row["attempt"]].append(row)
        for _, own in sorted(by_attempt.items()):
            lines.append(f"{result} x{len(own)} {described(own[0])}")
    tried: dict[tuple[str, str], list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        tried[row["family"], row["attempt"]].append(row)
    for _, own in sorted(tried.items()):
        if all(row["result"] == "refused" for row in own):
            lines.append(f"refused in all {len(own)} {described(own[0])}")
    return lines


def described(row: dict[str, Any]) -> str:
    """Return what a case tries, how it is run alone, and why it ended as it did."""
    note = f", {row['note']}" if row.get("note") else ""
    return f"{row['family']}: {row['attempt']}{note} (--case {row['family']}:{row['index']}) {row['why'][:160]}"


def against(rows: list[dict[str, Any]], old: list[dict[str, Any]]) -> list[str]:
    """Compare with an earlier run: what was right there and is not now, and how long `shrink` takes."""
    now = {_identity(row): row for row in rows}
    both = [(row, now[_identity(row)]) for row in old if _identity(row) in now]
    pairs = [(before, after) for before, after in both if before["result"] == "equal"]
    if not pairs:
        return ["no case of the earlier run that was right there was run now"]
    turned = [(before, after) for before, after in pairs if after["result"] != "equal"]
    refused = [pair for pair in turned if pair[1]["result"] == "refused"]
    lines = [f"of {len(pairs)} cases that were right, {len(refused)} are refused now ({len(refused) / len(pairs):.1%})"]
    for _, after in turned:
        lines.append(
            f"  {after['result']}: {after['family']}:{after['index']} {after['attempt']}: {after['why'][:200]}"
        )
    mended = collections.Counter(after["result"] for before, after in both if before["result"] == "wrong")
    lines.append(f"of {sum(mended.values())} that were wrong: {dict(mended)}")
    ratios = [b["seconds"] / a["seconds"] for a, b in pairs if a["seconds"] and b["seconds"]]
    if ratios:
        sums = sum(b["seconds"] for a, b in pairs if b["seconds"]), sum(a["seconds"] for a, b in pairs if b["seconds"])
        lines.append(
            f"shrink takes {statistics.median(ratios):.2f} times as long (median), {sums[0] / sums[1]:.2f} in all"
        )
        lines.append(
            f"a larger result in {sum(b['after'] > a['after'] > 0 for a, b in pairs if b['after'])} cases, "
            f"a smaller one in {sum(0 < b['after'] < a['after'] for a, b in pairs)}"
        )
    return lines


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("family", "index", "attempt", "before"))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", nargs="*", default=all_families(), choices=all_families())
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for a case")
    parser.add_argument("--case", help="family:index, to run alone")
    parser.add_argument("--against", type=Path, help="an earlier run's JSON")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/attack.json"))
    options = parser.parse_args()
    if options.case:
        family, _, index = options.case.rpartition(":")
        print(build(family, int(index), options.seed)[1])
        print(json.dumps(run_case(family, int(index), options.seed, options.limit), indent=2))
        return 0
    earlier = json.loads(options.against.read_text()) if options.against else {}
    if earlier and earlier["seed"] != options.seed:
        parser.error(f"{options.against} was made with --seed {earlier['seed']}, not {options.seed}")
    chosen = cases(options.family, options.count)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    start, wrong = time.perf_counter(), 0
    for outcome in outcomes(chosen, options.seed, options.jobs, options.limit):
        rows.append(outcome)
        wrong += outcome["result"] == "wrong"
        if len(rows) % 50 == 0 or len(rows) == len(chosen):
            seconds = time.perf_counter() - start
            print(f"{len(rows)} of {len(chosen)}, {seconds:.0f} s, {wrong} wrong", file=sys.stderr, flush=True)
            rows.sort(key=lambda row: (row["family"], row["index"]))
            write_json(options.out, {"machine": str(machine()), "seed": options.seed, "cases": rows})
    print("\n".join([*table(rows), "", *details(rows)]))
    if earlier:
        print("\n".join(["", *against(rows, earlier["cases"])]))
    return int(any(row["result"] in ("wrong", "raw", "crash") for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
