"""Pruning while training: a `Pruner` for the steps of a phase, and calibration batches for its criterion."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.lab.data import Dataset, batches, normalise
from prunus.lab.recipe import PruneSection
from prunus.pruning import Pruner, Random, scopes
from prunus.pruning.criteria import Criterion
from prunus.pruning.masks import Masks


def calibration_batches(
    data: Dataset,
    batch_size: int,
    num_batches: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[tuple[Tensor, Tensor]]:
    """Return batches of normalised training images at even distances in the split, the same on every call.

    With even distances, every class has its share even if the images are sorted by class. If the split is too small,
    there are fewer images, each once.

    Args:
        data: its training split is used, unshifted.
        batch_size: the number of images in a batch.
        num_batches: the largest number of batches.
        device: the device of the batches; that of the split by default.
        dtype: the dtype of the images.
    """
    count = min(batch_size * num_batches, len(data.train))
    order = torch.arange(count) * len(data.train) // count
    return list(batches(data.train, batch_size, mean=data.mean, std=data.std, order=order, device=device, dtype=dtype))


def channel_options(
    section: PruneSection, data: Dataset, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Return the arguments of `prune` and `Pruner` that whole channels need; none for other patterns.

    Args:
        section: what is removed and how.
        data: one of its images is the example input.
        device: the device of the image; that of the data by default.
        dtype: the dtype of the image.
    """
    if not section.channels:
        return {}
    return {"example_inputs": normalise(data.train.images[:1], data.mean, data.std, dtype).to(device=device)}


def criterion_of(section: PruneSection, seed: int) -> Criterion:
    """Return a section's criterion: with the run's seed if it is random, with the cross-entropy if it needs a loss."""
    if section.criterion == "random":
        return Random(seed)
    criterion = section.method().criterion
    return criterion.with_loss(F.cross_entropy) if criterion.needs == "gradient" else criterion


def make_pruner(
    model: nn.Module,
    section: PruneSection,
    steps: int,
    data: Dataset,
    batch_size: int,
    *,
    masks: Masks | None = None,
    seed: int = 0,
) -> Pruner:
    """Create the Pruner of a recipe's section; criteria that need data get calibration batches.

    Args:
        model: the model to prune, on its device.
        section: what is removed and how.
        steps: the number of optimizer steps of the schedule.
        data: the source of calibration batches.
        batch_size: the batch size of the calibration batches.
        masks: masks to start from.
        seed: for criteria that draw random numbers.

    Raises:
        ValueError: as `Pruner`.
    """
    criterion = criterion_of(section, seed)
    first = next(model.parameters())
    return Pruner(
        model,
        section.sparsity,
        steps=steps,
        schedule=section.schedule,
        criterion=criterion,
        pattern=section.pattern,
        scope=section.scope,
        include=section.include,
        exclude=section.exclude,
        masks=masks,
        data=calibration_batches(data, batch_size, section.calibration_batches, first.device, first.dtype)
        if criterion.needs or scopes.resolve(section.scope).needs_curves
        else None,
        **channel_options(section, data, first.device, first.dtype),
    )
