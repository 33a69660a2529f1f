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
from prunus.lab.recipe import TrainingSection
from prunus.lab.train import Phase, fit
from training_parts import cubic, small_network, striped

SECTION = TrainingSection(epochs=16, batch_size=16, lr=0.1)
KILLS = 12


def attempt(folder: Path, last_call: float) -> bool:
    """Train in a child process up to a function call; tell whether it came to its end."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    torch.set_num_threads(1)
    calls = calls_before_training = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls, calls_before_training
        calls += 1
        if frame.f_code.co_name == "_train_epoch":
            calls_before_training = calls_before_training or calls
        if calls >= last_call:
            os.kill(os.getpid(), signal.SIGKILL)

    model = small_network()
    sys.setprofile(count)
    fit(model, striped(), Phase("train", SECTION, folder, seed=1, shift=1, prune=cubic(SECTION)))
    sys.setprofile(None)
    save_tensors(folder.with_suffix(".safetensors"), model.state_dict())
    folder.with_suffix(".json").write_text(json.dumps([calls_before_training, calls]))
    os._exit(0)


def main(folder: Path) -> None:
    assert attempt(folder / "whole", float("inf"))
    before, calls = json.loads((folder / "whole.json").read_text())
    an_epoch = (calls - before) / SECTION.epochs
    moments = random.Random(0)
    epochs_logged = []
    for kill in range(KILLS):
        last_call = moments.uniform(0, before) if kill % 4 == 0 else before + moments.uniform(0, 2.5) * an_epoch
        assert not attempt(folder / "killed", last_call)
        log = folder / "killed" / "log.jsonl"
        epochs_logged.append(len(log.read_text().splitlines()) if log.exists() else 0)
    assert attempt(folder / "killed", float("inf"))
    print(json.dumps(epochs_logged))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
