"""The optimizer, and its learning rate over the steps of a phase."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from torch import nn, optim

from prunus.lab.recipe import TrainingSection

LearningRate: TypeAlias = Callable[[int], float]
"""From the number of a step, counted from 0, to its learning rate."""

# The shape of the cycle: PyTorch's defaults for OneCycleLR.
_RISING = 0.3
_FIRST_DIVISOR = 25.0
_LAST_DIVISOR = 1e4


def learning_rate(section: TrainingSection, num_steps: int) -> LearningRate:
    """Return the learning rate as a function of the step, so that a resumed run needs no other state."""
    if section.lr_schedule == "constant":
        return lambda step: section.lr
    return lambda step: one_cycle(step, num_steps, section.lr)


def one_cycle(step: int, num_steps: int, peak: float) -> float:
    """Rise to the peak in the first 30% of the steps, then fall towards zero, both along a half cosine.

    The values are those of `torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, num_steps)`: it begins at
    peak / 25 and ends at peak / 250,000. The momentum is not cycled.

    Args:
        step: from 0 to num_steps - 1.
        num_steps: the total number of optimizer steps.
        peak: the highest learning rate.

    Source: Smith and Topin, "Super-convergence", 2017; the cosine form is PyTorch's and fast.ai's.

    >>> [round(one_cycle(step, 100, 0.5), 6) for step in (0, 29, 99)]
    [0.02, 0.5, 2e-06]
    """
    first = peak / _FIRST_DIVISOR
    top, end = _RISING * num_steps - 1, num_steps - 1
    if step <= top:
        return _half_cosine(first, peak, step / top if top else 1.0)
    return _half_cosine(peak, first / _LAST_DIVISOR, (step - top) / (end - top))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, section: TrainingSection) -> optim.Optimizer:
    """Create the section's optimizer for the parameters that require a gradient.

    ``sgd`` is SGD with Nesterov momentum; ``adamw`` uses the momentum as its first beta. Parameters of fewer than two
    dimensions (biases, and the scales and shifts of norms) have no weight decay, which does not regularise them and for
    norms only costs accuracy (He et al., "Bag of tricks for image classification", CVPR 2019, section 3.1).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": section.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # Fused: one pass over memory instead of one per term of the update, which takes a third of the time on a CPU, too.
    if section.optimizer == "adamw":
        return optim.AdamW(groups, lr=section.lr, betas=(section.momentum, 0.999), fused=True)
    nesterov = section.momentum > 0
    return optim.SGD(groups, lr=section.lr, momentum=section.momentum, nesterov=nesterov, fused=True)


def set_learning_rate(optimizer: optim.Optimizer, value: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = value
