"""Least squares under a mask, and the choice of the mask, from second moments alone.

Weights w and right sides b are (groups, outputs, inputs), Gram matrices H (groups, inputs, inputs). The quadratic form
of a row w is w H w / 2 - w b: the squared error of the layer's outputs, but for a constant, where b = X^T targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

# What keeps as many weights as wanted: scores of weights and the share of the removed ones that are still kept -> mask.
Keep: TypeAlias = Callable[[Tensor, float], Tensor]

# The squared residual, relative to that of no weights at all, at which a solution is good enough.
_TOLERANCE = 1e-14
# Steps of `choose`, and the share of them over which weights are removed.
_CHOOSING, _REMOVING = 250, 0.6
_MOST_MOMENTUM = 0.9


def refit(gram: Tensor, right: Tensor, start: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Return the weights under a mask that minimise the quadratic form.

    Conjugate gradients with the diagonal as preconditioner, on the weights that the mask keeps: after at most as many
    steps as a row has weights the solution is exact but for rounding.

    Args:
        gram: positive definite.
        right: the right sides.
        start: weights to start from.
        mask: which weights stay.
        steps: the largest number of steps; fewer where the residual is small before.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2).unsqueeze(1)
    weight = start * mask
    residual = (right - weight @ gram) * mask
    enough = _TOLERANCE * float(((right * mask).square() / diagonal).sum())
    step = residual / diagonal
    energy = (residual * step).sum(2, keepdim=True)
    for _ in range(steps):
        if float(energy.sum()) <= enough:
            break
        image = (step @ gram) * mask
        curvature = (step * image).sum(2, keepdim=True)
        length = torch.where(curvature > 0, energy / curvature, 0.0)  # of each row by itself
        weight = weight + length * step
        residual = residual - length * image
        towards = residual / diagonal
        before, energy = energy, (residual * towards).sum(2, keepdim=True)
        step = towards + torch.where(before > 0, energy / before, 0.0) * step
    return weight


def choose(gram: Tensor, right: Tensor, start: Tensor, keep: Keep) -> Tensor:
    """Return a mask under which the quadratic form gets small: weights are chosen and updated in turn.

    Projected gradient steps with momentum in coordinates where the Gram matrix has the diagonal 1: after each step the
    weights with the smallest w^2 H_jj are set to zero, at first few and at last as many as are to go, so that what a
    removed weight did can move to others while these still can take it up. Weights removed too soon come back.

    Sources: Blumensath and Davies, "Iterative hard thresholding for compressed sensing", 2009, with the momentum of
    Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm", 2009, and the cubic schedule of Zhu and
    Gupta (arXiv:1710.01878).

    Args:
        gram: positive definite.
        right: the right sides.
        start: weights to start from.
        keep: tells which weights stay.
    """
    scale = gram.diagonal(dim1=1, dim2=2).sqrt().unsqueeze(1)
    even = gram / scale.transpose(1, 2) / scale
    right, weight = right / scale, start * scale
    largest = _largest_eigenvalue(even)
    ahead, time = weight, 1.0
    for step in range(_CHOOSING):
        moved = ahead - (ahead @ even - right) / largest
        passed = min(1.0, (step + 1) / (_REMOVING * _CHOOSING))
        moved = moved * keep(moved.abs(), (1 - passed) ** 3)
        later = (1 + (1 + 4 * time * time) ** 0.5) / 2
        ahead = moved + min((time - 1) / later, _MOST_MOMENTUM) * (moved - weight)
        weight, time = moved, later
    return keep(weight.abs(), 0.0)


def _largest_eigenvalue(gram: Tensor) -> Tensor:
    """Return a little more than the largest eigenvalue of each matrix, (groups, 1, 1), by power iteration."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(gram.shape[1], 1, generator=generator).to(gram).expand(len(gram), -1, -1)
    for _ in range(30):
        vector = gram @ vector
        vector = vector / vector.norm(dim=1, keepdim=True)
    return 1.05 * (vector.transpose(1, 2) @ gram @ vector)
