"""Training: one loop on Lightning Fabric that can be killed at any moment and goes on to the same bits.

    fitted = train.fit(model, data, TrainingSection(epochs=4), name="train", folder=Path("runs/mine"), seed=0)

The loop itself is in `loop.py`; how it is started, in one process or in several, in `processes.py`; what it keeps for
the next start in `state.py`; what it tells meanwhile in `journal.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prunus.forward import undisturbed
from prunus.lab.data import Dataset
from prunus.lab.recipe import PruneSection, TrainingSection
from prunus.lab.train.gradual import calibration_batches, channel_options, criterion_of
from prunus.lab.train.journal import forget
from prunus.lab.train.loop import DivergedError
from prunus.lab.train.phase import Phase, Record
from prunus.lab.train.processes import Job, RankError, launch
from prunus.lab.train.state import StateError, check_savable, load_state
from prunus.pruning.masks import Masks
from prunus.supported import unwrap

__all__ = [
    "DivergedError",
    "Fit",
    "RankError",
    "StateError",
    "calibration_batches",
    "channel_options",
    "criterion_of",
    "fit",
    "forget",
]


@dataclass(frozen=True)
class Fit:
    """What a phase of training gave, beside the trained model.

    Attributes:
        masks: the final masks, on the model's device; None if nothing was pruned or kept at zero.
        history: one record for each epoch: epoch (from 1), loss, train_accuracy, validation_accuracy, lr, sparsity,
            seconds. Loss and train_accuracy are means over the epoch while the model was learning, lr is that
            of its last step.
        seconds: what all epochs took, those before an interruption included.
    """

    masks: Masks | None
    history: tuple[Record, ...]
    seconds: float


def fit(
    model: nn.Module,
    data: Dataset,
    section: TrainingSection,
    *,
    name: str,
    folder: Path,
    seed: int,
    shift: int = 0,
    devices: int = 1,
    accelerator: str = "auto",
    prune: PruneSection | None = None,
    masks: Masks | None = None,
) -> Fit:
    """Train a model in place for one phase, with the zeros it has or while more are made.

    After each epoch the state is stored in `folder`, so the same call goes on where an earlier one was stopped, by
    ctrl-C or by force. On a CPU with the same number of threads it ends with the same bits as if it had never
    been stopped, and so does every repetition. Until it ends the model stays as it was.

    Args:
        model: takes images (n, channels, height, width) to logits (n, classes); device, dtype and memory layout of its
            parameters stay as they are.
        data: the training split is learned from, the validation split tells how it goes, the test split is not
            touched.
        section: epochs, batch size, optimizer and learning rate.
        name: of the phase; names its state file, its lines in ``log.jsonl`` and its folder for TensorBoard, and
            enters all random numbers.
        folder: where those go.
        seed: everything random follows from it: the order of the images, shifts, dropout.
        shift: training images move by up to so many pixels in each direction.
        devices: data-parallel training in so many processes. The batch size counts the images of all, so the steps are
            the same steps up to rounding; with batch norm each process normalises with its own share.
        accelerator: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        prune: prune along its schedule over the steps of the phase.
        masks: weights to keep at zero; with `prune`, those to start from.

    Raises:
        DivergedError: a loss or weight became NaN or infinite.
        MaskError: the masks don't fit the model.
        RankError: one of several processes failed.
        StateError: the folder has a state of this phase that is damaged or belongs to other settings.
        TypeError, ValueError: an argument can't be used; nothing was changed.
    """
    model = unwrap(model)
    phase = Phase(name, section, Path(folder), seed, shift, devices, prune)
    if section.epochs == 0:
        if masks is not None:
            masks.apply(model)
        return Fit(masks, (), 0.0)
    _check(model, data)
    settings = phase.settings(model, data, masks)
    state = load_state(phase.state_path, settings)
    if state is None or len(state.history) < section.epochs:
        launch(Job(phase, model, data, masks, settings), accelerator)
        state = load_state(phase.state_path, settings)
    assert state is not None
    model.load_state_dict(state.part("model"))
    seconds = sum(record["seconds"] for record in state.history)
    if prune is not None:
        masks = Masks(state.part("masks")).to(next(model.parameters()).device)
    return Fit(masks, state.history, seconds)


def _check(model: nn.Module, data: Dataset) -> None:
    check_savable(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no parameter that requires a gradient, so there is nothing to train")
    for split in ("train", "validation"):
        if len(getattr(data, split)) == 0:
            raise ValueError(f"the {split} split of {data.name!r} has no images; training needs some")
    parameter = next(model.parameters())
    images, _ = calibration_batches(data, 2, 1, parameter.device, parameter.dtype)[0]
    with undisturbed(model), torch.no_grad():
        try:
            shape = tuple(model(images).shape)
        except RuntimeError as error:
            raise ValueError(
                f"the model can't take the images of {data.name!r}, of shape {tuple(images.shape)}: {error}"
            ) from error
    if len(shape) != 2 or shape[0] != len(images) or shape[1] < data.num_classes:
        raise ValueError(
            f"the model must return logits of shape ({len(images)}, {data.num_classes}) for {len(images)} images of "
            f"{data.name!r}, got {shape}"
        )
