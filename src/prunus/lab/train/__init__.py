"""Training: a loop on Lightning Fabric that can be killed at any time and then continues with the same results.

    phase = train.Phase("train", TrainingSection(epochs=4), Path("runs/mine"), seed=0)
    fitted = train.fit(model, data, phase)

The loop is in `loop.py`; `processes.py` starts it, in one process or several; `state.py` saves its state for the next
start; `journal.py` writes the log, TensorBoard files and progress.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from prunus.lab.data import Dataset
from prunus.lab.predicting import predict
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
    "Phase",
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
            seconds. Loss and train_accuracy are means over the training steps of the epoch, lr is that of its last
            step.
        seconds: the time of all epochs, including those before an interruption.
    """

    masks: Masks | None
    history: tuple[Record, ...]
    seconds: float


def fit(model: nn.Module, data: Dataset, phase: Phase, *, masks: Masks | None = None, accelerator: str = "auto") -> Fit:
    """Train a model in place for one phase, with fixed masks or while pruning further.

    After each epoch the state is saved in the phase's folder, so the same call continues an earlier one that was
    interrupted or killed. On a CPU with the same number of threads, its result has the same bits as without the
    interruption, and as every repetition. The model does not change until training ends.

    Args:
        model: maps images (n, channels, height, width) to logits (n, classes); device, dtype and memory layout of its
            parameters do not change.
        data: the training split is trained on, accuracy is measured on the validation split, the test split is not
            used.
        phase: the settings, the seed, and the folder for the files.
        masks: weights to keep at zero; if the phase prunes, the masks to start from.
        accelerator: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Raises:
        DivergedError: a loss or weight became NaN or infinite.
        MaskError: the masks don't fit the model.
        RankError: one of several processes failed.
        StateError: the folder has a state of this phase that is damaged or of other settings.
        TypeError, ValueError: an argument can't be used; nothing was changed.
    """
    model, section = unwrap(model), phase.section
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
    if phase.prune is not None:
        masks = Masks(state.part("masks")).to(next(model.parameters()).device)
    return Fit(masks, state.history, seconds)


def _check(model: nn.Module, data: Dataset) -> None:
    check_savable(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no parameter that requires a gradient, so it can't be trained")
    for split in ("train", "validation"):
        if len(getattr(data, split)) == 0:
            raise ValueError(f"the {split} split of {data.name!r} has no images")
    sample = data.train.take(torch.arange(min(2, len(data.train))))
    try:
        logits = predict(model, sample, mean=data.mean, std=data.std)
    except RuntimeError as error:
        raise ValueError(
            f"the model can't take the images of {data.name!r}, of shape {tuple(sample.images.shape)}: {error}"
        ) from error
    if logits.shape[1] < data.num_classes:
        raise ValueError(
            f"the model must return logits of shape ({len(sample)}, {data.num_classes}) for {len(sample)} images of "
            f"{data.name!r}, got {tuple(logits.shape)}"
        )
