"""Kill `prunus run` at random moments, start it again each time, and compare the bytes with an uninterrupted run.

    python bench/kill.py [--kills 20] [--recipe lenet] [--seed 0] [key=value ...]

Prints a table of the moments and what was on disk then, and whether every result is the same to the bit.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = tuple(f"{name}.safetensors" for name in ("dense", "pruned", "masks", "finetuned", "predictions"))
RESULTS += ("shrunk.prunus", "model.prunus", "sensitivity.json")


def main() -> int:
    """Run the comparison; the exit code is 1 where bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--recipe", default="lenet")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/kill.json"))
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="prunus-kill-"))
    command = [sys.executable, "-m", "prunus", "run", arguments.recipe, *arguments.overrides, "--out"]
    began = time.monotonic()
    subprocess.run([*command, str(work / "whole")], check=True, capture_output=True)
    whole_seconds = time.monotonic() - began
    print(f"an uninterrupted run takes {whole_seconds:.0f} s", flush=True)
    draw = random.Random(arguments.seed)
    moments: list[dict[str, object]] = []
    runs: list[dict[str, bool]] = []
    while len(moments) < arguments.kills:  # a run that is over before the last kill is compared, and another begun
        out = work / f"killed-{len(runs)}"
        kill_until_over(command, out, arguments.kills, moments, draw, whole_seconds)
        subprocess.run([*command, str(out)], check=True, capture_output=True)
        runs.append(compare(work / "whole" / "seed-0", out / "seed-0"))
        print(f"  run {len(runs)} is over; equal bytes: {runs[-1]}", flush=True)
    shutil.rmtree(work)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"command": sys.argv, "kills": moments, "runs": runs}
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    same = all(all(run.values()) for run in runs)
    print(f"killed {len(moments)} times in {len(runs)} runs; every byte of every result equal: {same}")
    return 0 if same else 1


def kill_until_over(
    command: list[str], out: Path, kills: int, moments: list[dict[str, object]], draw: random.Random, whole: float
) -> None:
    """Start one run again and again and kill it at drawn moments, until it is over or there were enough kills."""
    while len(moments) < kills:
        seconds = draw.uniform(1.0, whole / 2)  # a start alone takes seconds; most kills should come after it
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            return
        done = [name for name in RESULTS if (out / "seed-0" / name).is_file()]
        moments.append({"seconds": round(seconds, 2), "done": done})
        print(f"  kill {len(moments):2d} after {seconds:5.1f} s; done: {', '.join(done) or 'nothing'}", flush=True)


def compare(first: Path, second: Path) -> dict[str, bool]:
    """Tell for each result whether both runs have the same bytes."""
    return {name: (first / name).read_bytes() == (second / name).read_bytes() for name in RESULTS}


if __name__ == "__main__":
    sys.exit(main())
