"""What the registries hold, so that tests run every method without being told of it."""

from __future__ import annotations

import itertools

import pytest
import torch.nn.functional as F

from prunus.pruning.criteria import CRITERIA, Criterion
from prunus.pruning.patterns import PATTERNS, resolve
from prunus.pruning.scopes import SCOPES
from prunus.pruning.stats import Loss

PATTERN_NAMES = [example for family in PATTERNS.values() for example in family.examples]

# channels are coupled over layers, which their own tests look at
SINGLE_WEIGHT_PATTERNS = [name for name in PATTERN_NAMES if name != "channel"]

# n:m patterns give every layer the same sparsity, so ERK and least_error have nothing to spread and are refused
COMBINATIONS = [
    (criterion, pattern, scope)
    for criterion, pattern, scope in itertools.product(CRITERIA, SINGLE_WEIGHT_PATTERNS, SCOPES)
    if resolve(pattern).only_sparsity is None or scope not in ("erk", "least_error")
]

every_combination = pytest.mark.parametrize(("criterion", "pattern", "scope"), COMBINATIONS)


def with_loss(criterion: str, loss: Loss = F.cross_entropy) -> str | Criterion:
    """Return a criterion that is ready for data: one on gradients has a loss."""
    entry = CRITERIA[criterion]
    return entry.with_loss(loss) if entry.needs == "gradient" else criterion


def sparsity_for(pattern: str, sparsity: float) -> float:
    """Return a sparsity that the pattern can have: the given one, if it can have any."""
    return resolve(pattern).only_sparsity or sparsity
