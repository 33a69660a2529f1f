"""What one phase of training is: all that its result depends on beside the machine."""

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
    """The settings of one phase and where its files go.

    Attributes:
        name: names the phase's state file, its lines in ``log.jsonl`` and its folder for TensorBoard, and enters all
            random numbers.
        section: epochs, batch size, optimizer and learning rate.
        folder: where those files go.
        seed: everything random follows from it: the order of the images, shifts, dropout.
        shift: training images move by up to so many pixels in each direction.
        devices: data-parallel training in so many processes. The batch size counts the images of all, so the steps are
            the same steps up to rounding; with batch norm each process normalises with its own share.
        prune: prune along its schedule over the steps of the phase.

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
            raise ValueError("pruning along a schedule needs training to run along: epochs must be at least 1, got 0")

    @property
    def state_path(self) -> Path:
        """Where the state of the last finished epoch lies."""
        return self.folder / f"{self.name}.state.safetensors"

    def steps_per_epoch(self, num_images: int) -> int:
        """Return how many optimizer steps an epoch takes; the last, smaller batch counts."""
        return -(-num_images // self.section.batch_size)

    def seed_for(self, *purpose: str | int) -> int:
        """Return a seed that depends on the phase's seed and name and on the purpose, and on nothing else.

        Every random number of an epoch comes from such a seed, so an epoch can be repeated without knowing what
        was drawn before it.
        """
        text = json.dumps([self.seed, self.name, *purpose])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def settings(self, model: nn.Module, data: Dataset, masks: Masks | None) -> dict[str, Any]:
        """Return all that the result depends on, as JSON-able values under names a reader understands."""
        settings: dict[str, Any] = {"seed": self.seed, "shift": self.shift, "devices": self.devices}
        settings |= {f"training.{key}": value for key, value in self.section.model_dump(mode="json").items()}
        if self.prune is not None:
            settings |= {f"prune.{key}": value for key, value in self.prune.model_dump(mode="json").items()}
        settings["data"] = f"{data.name} {data.checksum} {len(data.train)}+{len(data.validation)}"
        settings["initial weights"] = content_hash(model.state_dict())
        settings["initial masks"] = None if masks is None else content_hash(masks)
        return settings
