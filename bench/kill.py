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
RESULTS += ("sensitivity.json",)


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
    print(f"an uninterrupted run takes {whole_seconds:.0f} s")
    killed = work / "killed"
    moments = kill_again_and_again(command, killed, arguments.kills, arguments.seed, whole_seconds)
    subprocess.run([*command, str(killed)], check=True, capture_output=True)
    same = compare(work / "whole" / "seed-0", killed / "seed-0")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"command": sys.argv, "kills": moments, "same": same}, indent=2) + "\n")
    shutil.rmtree(work)
    print(f"killed {len(moments)} times; equal bytes: {same}")
    return 0 if all(same.values()) and len(moments) == arguments.kills else 1


def kill_again_and_again(
    command: list[str], out: Path, kills: int, seed: int, whole_seconds: float
) -> list[dict[str, object]]:
    """Start the run `kills` times and kill each; return when, and which results were finished then.

    Raises:
        RuntimeError: the run was over before the last kill, so the kills did not all hit one run.
    """
    draw = random.Random(seed)
    moments: list[dict[str, object]] = []
    while len(moments) < kills:
        # short enough that the run is not over before the last kill, long enough to get past the start
        seconds = draw.uniform(0.5, max(5.0, whole_seconds / 8))
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        done = [name for name in RESULTS if (out / "seed-0" / name).is_file()]
        if process.returncode == 0:
            raise RuntimeError(f"the run was over after {len(moments)} kills; give it more epochs: train.epochs=40")
        moments.append({"seconds": round(seconds, 2), "done": done})
        print(f"  kill {len(moments):2d} after {seconds:5.1f} s; finished by then: {', '.join(done) or 'nothing'}")
    return moments


def compare(first: Path, second: Path) -> dict[str, bool]:
    """Tell for each result whether both runs have the same bytes."""
    return {name: (first / name).read_bytes() == (second / name).read_bytes() for name in RESULTS}


if __name__ == "__main__":
    sys.exit(main())
