"""What the registries hold, so that tests run every method without being told of it."""

from __future__ import annotations

import itertools

import pytest

from prunus.pruning.criteria import CRITERIA
from prunus.pruning.patterns import PATTERNS, resolve
from prunus.pruning.scopes import SCOPES

PATTERN_NAMES = [example for family in PATTERNS.values() for example in family.examples]

# channels are coupled over layers, which their own tests look at
SINGLE_WEIGHT_PATTERNS = [name for name in PATTERN_NAMES if name != "channel"]

# n:m patterns give every layer the same sparsity, so ERK has nothing to spread and is refused
COMBINATIONS = [
    (criterion, pattern, scope)
    for criterion, pattern, scope in itertools.product(CRITERIA, SINGLE_WEIGHT_PATTERNS, SCOPES)
    if resolve(pattern).only_sparsity is None or scope != "erk"
]

every_combination = pytest.mark.parametrize(("criterion", "pattern", "scope"), COMBINATIONS)


def sparsity_for(pattern: str, sparsity: float) -> float:
    """Return a sparsity that the pattern can have: the given one, if it can have any."""
    return resolve(pattern).only_sparsity or sparsity
