"""The controls that a pruned model has to beat: random pruning, a small dense net, and longer training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prunus.copying import copy_model
from prunus.lab import models
from prunus.lab.models.catalogue import check_arguments
from prunus.lab.recipe import TrainingSection

if TYPE_CHECKING:
    from prunus.lab.stages import Road


def make(road: Road, dense: nn.Module, finetuned: nn.Module, trained: str) -> dict[str, nn.Module]:
    """Return the three controls of a run, each trained for as many epochs as the pruned model.

    - ``random``: the same stages with weights removed at random;
    - ``small-dense``: the same architecture with narrower layers, no more parameters than the pruned model has
      nonzero ones, trained from scratch (Liu et al., "Rethinking the value of network pruning", ICLR 2019);
    - ``dense-longer``: the unpruned model, given the same extra epochs.

    Args:
        road: the stages of the run.
        dense: its trained model.
        finetuned: its final model.
        trained: the fingerprint of `dense`.
    """
    recipe, folder = road.recipe, road.folder / "controls"
    by_chance = recipe.prune.model_copy(update={"criterion": "random"})
    _, _, random = road.prune_and_finetune(dense, by_chance, folder, trained, "random-")

    extra = [section for section in (recipe.prune.training, recipe.finetune) if section is not None]
    longer = road.stage(
        "dense-longer",
        folder,
        road.made_from(trained, *extra),
        copy_model(dense),
        _phases(road, "dense-longer", folder, extra),
    )
    num_nonzero = sum(int(torch.count_nonzero(parameter)) for parameter in finetuned.parameters())
    arguments = narrowed(recipe.model.name, recipe.model.arguments, num_nonzero)
    small = road.stage(
        "small-dense",
        folder,
        road.made_from(recipe.model, recipe.train, *extra, str(arguments["widths"])),
        road.seeded(arguments),
        _phases(road, "small-dense", folder, [recipe.train, *extra]),
    )
    return {"random": random, "small-dense": small, "dense-longer": longer}


def _phases(road: Road, name: str, folder: Path, sections: list[TrainingSection]) -> Callable[[nn.Module], float]:
    def train(model: nn.Module) -> float:
        return sum(
            road.fit(model, section, f"{name}-{number}", folder).seconds
            for number, section in enumerate(sections, start=1)
        )

    return train


def narrowed(name: str, arguments: dict[str, Any], num_parameters: int) -> dict[str, Any]:
    """Return a model's arguments with all widths scaled by one factor, as large as a number of parameters allows.

    Args:
        name: a model that takes `widths`.
        arguments: the arguments of the full model.
        num_parameters: the largest number of parameters of the narrow model.

    Raises:
        ValueError: even widths of 1 have more parameters.
    """
    widths = check_arguments(name, models.MODELS[name], arguments)["widths"]
    best: dict[str, Any] | None = None
    low, high = 0.0, 1.0
    for _ in range(20):  # 2^-20 of a width is less than a channel
        factor = (low + high) / 2
        candidate = {**arguments, "widths": tuple(max(1, round(factor * width)) for width in widths)}
        if _num_parameters(name, candidate) <= num_parameters:
            best, low = candidate, factor
        else:
            high = factor
    if best is None:
        raise ValueError(
            f"no {name} is as small as {num_parameters:,} parameters, so the small dense control can't be made; "
            "run with controls=false"
        )
    return best


def _num_parameters(name: str, arguments: dict[str, Any]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in models.create(name, **arguments).parameters())
