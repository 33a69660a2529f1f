"""Run a recipe killed again and again, and once more to its end; test_stages.py calls this.

Each attempt is forked off this process, which has imported everything and computed nothing: a start costs no second.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import constriction  # noqa: F401
import lightning_fabric  # noqa: F401
import plotly.graph_objects  # noqa: F401
import rich.progress  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo
import torch.export
import torch.utils.tensorboard

from prunus.lab import recipe, stages
from prunus.measuring.latency import clock


def attempt(settings: recipe.Recipe, out: Path, there: Callable[[], bool]) -> int:
    """Run in a child process, which is killed as soon as `there` holds; return how it ended, as `os.wait` tells."""
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        stages.run(settings, out)
        os._exit(0)
    give_up = time.monotonic() + 120
    while not there() and time.monotonic() < give_up:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main(file: Path, out: Path) -> None:
    settings, folder = recipe.load(file), out / "seed-0"
    log = folder / "log.jsonl"

    def logged(phase: str) -> bool:
        return log.is_file() and f'"phase": "{phase}"' in log.read_text()

    for there in (
        lambda: logged("train"),
        lambda: logged("prune"),
        (folder / "shrunk.prunus").is_file,
        (folder / "predictions.safetensors").is_file,
    ):
        assert not there()
        assert attempt(settings, out, there) == signal.SIGKILL  # so it had not ended by itself
        assert there()
    assert not (folder / "receipt.json").exists()
    assert attempt(settings, out, lambda: False) == 0


if __name__ == "__main__":
    clock._MAX_RUNS = 10  # as in the tests' own process
    main(*map(Path, sys.argv[1:]))
