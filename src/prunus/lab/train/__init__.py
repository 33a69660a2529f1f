"""Training: one loop on Lightning Fabric that can be killed at any moment and goes on to the same bits.

    phase = train.Phase("train", TrainingSection(epochs=4), Path("runs/mine"), seed=0)
    fitted = train.fit(model, data, phase)

The loop itself is in `loop.py`; how it is started, in one process or in several, in `processes.py`; what it keeps for
the next start in `state.py`; what it tells meanwhile in `journal.py`.
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
            seconds. Loss and train_accuracy are means over the epoch while the model was learning, lr is that
            of its last step.
        seconds: what all epochs took, those before an interruption included.
    """

    masks: Masks | None
    history: tuple[Record, ...]
    seconds: float


def fit(model: nn.Module, data: Dataset, phase: Phase, *, masks: Masks | None = None, accelerator: str = "auto") -> Fit:
    """Train a model in place for one phase, with the zeros it has or while more are made.

    After each epoch the state is stored in the phase's folder, so the same call goes on where an earlier one was
    stopped, by ctrl-C or by force. On a CPU with the same number of threads it ends with the same bits as if it had
    never been stopped, and so does every repetition. Until it ends the model stays as it was.

    Args:
        model: takes images (n, channels, height, width) to logits (n, classes); device, dtype and memory layout of its
            parameters stay as they are.
        data: the training split is learned from, the validation split tells how it goes, the test split is not
            touched.
        phase: how to train, from which seed, and where the files go.
        masks: weights to keep at zero; where the phase prunes, those to start from.
        accelerator: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Raises:
        DivergedError: a loss or weight became NaN or infinite.
        MaskError: the masks don't fit the model.
        RankError: one of several processes failed.
        StateError: the folder has a state of this phase that is damaged or belongs to other settings.
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
        raise ValueError("the model has no parameter that requires a gradient, so there is nothing to train")
    for split in ("train", "validation"):
        if len(getattr(data, split)) == 0:
            raise ValueError(f"the {split} split of {data.name!r} has no images; training needs some")
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
