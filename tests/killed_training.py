"""Train a small network twice, once in peace and once killed again and again; test_train_state.py runs this.

Each attempt is forked off this process, which has imported everything and computed nothing. It kills itself, by a
signal that nothing can catch, before a function call whose number was drawn at random: so the moments are spread over
all the code that runs, however fast the machine is.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from types import FrameType

import lightning_fabric  # noqa: F401
import rich.progress  # noqa: F401
import torch
import torch.utils.tensorboard

from prunus.files import save_tensors
from prunus.recipe import TrainingSection
from prunus.train import fit
from training_parts import cubic, small_network, striped

SECTION = TrainingSection(epochs=16, batch_size=16, lr=0.1)
MOST_KILLS = 20


def attempt(folder: Path, last_call: float) -> int:
    """Train in a child process up to a function call; return how the process ended."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    torch.set_num_threads(1)
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1
        if calls >= last_call:
            os.kill(os.getpid(), signal.SIGKILL)

    model = small_network()
    sys.setprofile(count)
    fit(model, striped(), SECTION, name="train", folder=folder, seed=1, shift=1, prune=cubic(SECTION))
    sys.setprofile(None)
    save_tensors(folder.with_suffix(".safetensors"), model.state_dict())
    folder.with_suffix(".calls").write_text(str(calls))
    os._exit(0)


def main(folder: Path) -> None:
    assert attempt(folder / "whole", float("inf")) == 0
    calls = int((folder / "whole.calls").read_text())
    moments = random.Random(0)  # a fifth of the calls come before the first epoch
    kills = kills_after_an_epoch = 0
    while attempt(folder / "killed", calls * moments.uniform(0.1, 0.4) if kills < MOST_KILLS else float("inf")) != 0:
        kills += 1
        kills_after_an_epoch += (folder / "killed" / "train.state.safetensors").exists()
    print(json.dumps({"calls": calls, "kills": kills, "kills_after_an_epoch": kills_after_an_epoch}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
