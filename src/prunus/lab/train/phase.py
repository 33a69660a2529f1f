"""The settings of one phase of training: everything that its result depends on, except for the machine."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from prunus.files import content_hash
from prunus.lab.data import Dataset
from prunus.lab.recipe import PruneSection, TrainingSection
from prunus.pruning.masks import Masks

Record: TypeAlias = dict[str, float]
"""One finished epoch: epoch (from 1), loss, train_accuracy, validation_accuracy, lr, sparsity, seconds."""


@dataclass(frozen=True)
class Phase:
    """The settings of one phase and the folder for its files.

    Attributes:
        name: the name of the phase, in its state file, in ``log.jsonl`` and in its folder for TensorBoard; all random
            numbers depend on it.
        section: epochs, batch size, optimizer and learning rate.
        folder: the folder for those files.
        seed: the seed of all random numbers: for the order of the images, shifts, dropout.
        shift: the largest shift of training images in each direction, in pixels.
        devices: the number of processes for data-parallel training. They share each batch, so the steps are the same up
            to rounding; batch norm uses the statistics of each process's share.
        prune: prune during the phase, along the schedule of this section.

    Raises:
        ValueError: the settings don't fit each other.
    """

    name: str
    section: TrainingSection
    folder: Path
    seed: int
    shift: int = 0
    devices: int = 1
    prune: PruneSection | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name must be usable as a file name (letters, digits, '.', '_', '-'), got {self.name!r}")
        if self.devices < 1:
            raise ValueError(f"devices must be at least 1, got {self.devices}")
        if self.section.batch_size < self.devices:
            raise ValueError(
                f"batch_size {self.section.batch_size} can't be shared by {self.devices} devices; "
                f"give a batch_size of at least {self.devices}, or fewer devices"
            )
        if self.prune is not None and self.section.epochs == 0:
            raise ValueError("pruning along a schedule needs training steps: epochs must be at least 1, got 0")

    @property
    def state_path(self) -> Path:
        """The path of the state after the last finished epoch."""
        return self.folder / f"{self.name}.state.safetensors"

    def steps_per_epoch(self, num_images: int) -> int:
        """Return the number of optimizer steps in an epoch, including the last, smaller batch."""
        return -(-num_images // self.section.batch_size)

    def seed_for(self, *purpose: str | int) -> int:
        """Return a seed that depends only on the phase's seed and name and on the purpose.

        All random numbers of an epoch come from such seeds, so an epoch can be repeated without the random state of
        those before.
        """
        text = json.dumps([self.seed, self.name, *purpose])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def settings(self, model: nn.Module, data: Dataset, masks: Masks | None) -> dict[str, Any]:
        """Return everything that the result depends on, as JSON values with readable names."""
        settings: dict[str, Any] = {"seed": self.seed, "shift": self.shift, "devices": self.devices}
        settings |= {f"training.{key}": value for key, value in self.section.model_dump(mode="json").items()}
        if self.prune is not None:
            settings |= {f"prune.{key}": value for key, value in self.prune.model_dump(mode="json").items()}
        settings["data"] = f"{data.name} {data.checksum} {len(data.train)}+{len(data.validation)}"
        settings["initial weights"] = content_hash(model.state_dict())
        settings["initial masks"] = None if masks is None else content_hash(masks)
        return settings
