"""Scores of whole channels: the sums of their weights' scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from prunus.graph.coupling import Coupling
from prunus.pruning.channels.families import Family
from prunus.pruning.criteria import ON_INPUTS, Criterion
from prunus.pruning.finding import gather
from prunus.pruning.stats import Batch, Stats
from prunus.pruning.targets import Target, named


def unit_scores(
    model: nn.Module,
    coupling: Coupling,
    groups: Sequence[Family],
    criterion: Criterion,
    data: Iterable[Batch] | None,
) -> list[Tensor]:
    """Return a score for each channel of each family, float64, on the CPU.

    A channel's score is the sum of the scores of all weights that produce or consume it. If the criterion is additive,
    as a change of the loss is, the sums are compared as they are; otherwise those of each family are divided by their
    mean, since weights of wide layers are smaller, and more of them are added.

    Args:
        model: the model with its present weights.
        coupling: the coupled channels of the model.
        groups: the families.
        criterion: as `prune`.
        data: as `prune`.

    Raises:
        ValueError: weights or scores are NaN, or data that the criterion needs is missing.
    """
    weights = _weights(model, coupling, criterion)
    stats = gather(model, weights, criterion, data)
    totals = torch.zeros(coupling.num_classes, dtype=torch.float64)
    for name, target in weights.items():
        scores = _scores(target, criterion, stats[name])
        for axis in coupling.axes:
            if axis[0] == name:
                dims = axis[1]
                lead = scores.movedim(dims, tuple(range(len(dims)))).reshape(coupling.axes[axis][1], -1)
                totals.index_add_(0, coupling.axis_classes(axis), lead.sum(1).cpu())
    sums = [totals[family.classes] for family in groups]
    if criterion.additive:
        return sums
    return [scores / scores.mean() if float(scores.mean()) > 0 else scores for scores in sums]


def _weights(model: nn.Module, coupling: Coupling, criterion: Criterion) -> dict[str, Target]:
    """Return the parameters to score: all with channel axes; for criteria on inputs, Linear and convolution weights."""
    parameters = dict(model.named_parameters())
    names = dict.fromkeys(name for name, _ in coupling.axes if name in parameters)
    targets = named(model, names)
    if criterion.needs not in ON_INPUTS:
        return targets
    fitting = {
        name: target
        for name, target in targets.items()
        if target.attribute == "weight" and all(isinstance(module, (nn.Linear, _ConvNd)) for module in target.modules)
    }
    if not fitting:
        raise ValueError(
            f"criterion {criterion.name!r} knows the inputs of Linear and convolution weights only, and this model has "
            "none; use another criterion"
        )
    return fitting


def _scores(target: Target, criterion: Criterion, stats: Stats) -> Tensor:
    weight = target.parameter.detach()
    scores = criterion(weight, stats)
    if not isinstance(scores, Tensor) or scores.shape != weight.shape:
        returned = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else repr(scores)
        raise ValueError(
            f"criterion {criterion.name!r} must return one score for each weight of {target.name!r}, shape "
            f"{tuple(weight.shape)}, but returned {returned}"
        )
    if bool(torch.isnan(weight).any()) or bool(torch.isnan(scores).any()):
        raise ValueError(
            f"{target.name!r} holds NaN weights or gets NaN scores, which can't be ranked; nothing was pruned (did "
            "training diverge? load an earlier checkpoint, or exclude the layer)"
        )
    wide = scores.double()
    largest = torch.finfo(torch.float32).max  # infinite scores would make the sum of any channel the same
    return wide.clamp(-largest, largest)
