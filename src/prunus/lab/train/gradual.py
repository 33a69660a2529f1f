"""Pruning while training: a `Pruner` along the steps of a phase, and the batches its criterion looks at."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.lab.data import Dataset, batches, normalise
from prunus.lab.recipe import PruneSection
from prunus.pruning import Pruner, Random
from prunus.pruning.criteria import Criterion
from prunus.pruning.masks import Masks


def calibration_batches(
    data: Dataset,
    batch_size: int,
    num_batches: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[tuple[Tensor, Tensor]]:
    """Return batches of normalised training images, taken at even distances over the whole split.

    They are the same on every call. Even distances give every class its part also where the images are sorted by
    class. A split that is too small gives fewer images, each once.

    Args:
        data: its training split is used, unshifted.
        batch_size: images in a batch.
        num_batches: batches at most.
        device: where the batches lie; where the split lies by default.
        dtype: of the images.
    """
    count = min(batch_size * num_batches, len(data.train))
    order = torch.arange(count) * len(data.train) // count
    return list(batches(data.train, batch_size, mean=data.mean, std=data.std, order=order, device=device, dtype=dtype))


def channel_options(
    section: PruneSection, data: Dataset, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Return what `prune` and `Pruner` need to know for whole channels; nothing for other patterns.

    Args:
        section: what is removed and how.
        data: where the image comes from that the model's graph is read with.
        device: where it lies; where the data lies by default.
        dtype: of the image.
    """
    if not section.channels:
        return {}
    return {"example_inputs": normalise(data.train.images[:1], data.mean, data.std, dtype).to(device=device)}


def criterion_of(section: PruneSection, seed: int) -> Criterion:
    """Return a section's criterion: random numbers are a run's own, and gradients those of the cross-entropy."""
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
    """Make the Pruner a recipe's section asks for; criteria that need data get calibration batches.

    Args:
        model: what is pruned, on its device.
        section: what is removed and how.
        steps: how many optimizer steps the schedule runs along.
        data: where calibration batches come from.
        batch_size: of the calibration batches.
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
        if criterion.needs
        else None,
        **channel_options(section, data, first.device, first.dtype),
    )
