"""The state of a phase after its last finished epoch: one safetensors file, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from prunus.files import checksum_of, load_with_metadata, save_tensors
from prunus.lab.train.phase import Record

_FORMAT = "prunus training state 1"


class StateError(ValueError):
    """A state file from which training can't continue: damaged, or of a phase with other settings."""


@dataclass(frozen=True)
class State:
    """The state after an epoch, from which training continues as without an interruption.

    Learning rate, order of the images, augmentation and all other random numbers are functions of the phase and the
    epoch (see `Phase.seed_for`), so the state of generators and of a scheduler is not needed.

    Attributes:
        tensors: ``model.*``, ``optimizer.<parameter>.*``, and if the phase prunes, ``pruner.*`` and ``masks.*``.
        history: the finished epochs.
    """

    tensors: dict[str, Tensor]
    history: tuple[Record, ...]

    def part(self, owner: str) -> dict[str, Tensor]:
        """Return the tensors of ``"model"``, ``"optimizer"``, ``"pruner"`` or ``"masks"``, without that prefix."""
        prefix = f"{owner}."
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def save_state(path: Path, state: State, settings: Mapping[str, Any]) -> None:
    """Write the state, whole or not at all; `load_state` compares `settings`."""
    metadata = {
        "format": _FORMAT,
        "settings": json.dumps(settings),
        "history": json.dumps(state.history),  # floats in JSON keep all their bits
    }
    save_tensors(path, state.tensors, {**metadata, "checksum": checksum_of(state.tensors, metadata)})


def load_state(path: Path, settings: Mapping[str, Any]) -> State | None:
    """Read the state; return None if there is no file.

    Raises:
        StateError: the file is damaged, or was written by a phase with other settings.
    """
    if not path.exists():
        return None
    try:
        tensors, metadata = load_with_metadata(path)
        if metadata.pop("checksum") != checksum_of(tensors, metadata) or metadata["format"] != _FORMAT:
            raise ValueError("its content is not what was written")
        earlier = json.loads(metadata["settings"])
        state = State(tensors, tuple(json.loads(metadata["history"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise StateError(
            f"the training state {str(path)!r} can't be read ({error}); delete it to start the phase again"
        ) from error
    if changes := _changes(earlier, settings):
        raise StateError(
            f"the training state {str(path)!r} belongs to other settings: {'; '.join(changes)}; delete it to start "
            "the phase again, or go back to the settings it was started with"
        )
    return state


def _changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    keys = [*now, *(key for key in earlier if key not in now)]
    return [
        f"{key} was {_short(earlier.get(key))}, is {_short(now.get(key))}"
        for key in keys
        if earlier.get(key) != now.get(key)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:20]}...{text[-8:]}"


def check_savable(model: nn.Module) -> None:
    """Check that the model's state dict holds only tensors.

    Raises:
        TypeError: it holds something else, which could only be saved by pickle.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the model's state dict holds {name!r} of type {type(value).__name__}; training saves its state "
                "without pickle, so it can save tensors only"
            )


def optimizer_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as ``<index of the parameter>.<name>`` -> tensor."""
    return {
        f"{number}.{name}": value
        for number, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the state that `optimizer_tensors` returned into an optimizer of the same parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        entries.setdefault(int(number), {})[name] = _laid_out_as(parameters[int(number)], value)
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    # for other strides PyTorch uses other kernels, which may round differently
    if value.shape != parameter.shape or value.dim() == 0:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
