"""Prune a model: `prune` all at once, `Pruner` step by step during training."""

from prunus.pruning.at_once import prune
from prunus.pruning.criteria import Gradient, Random
from prunus.pruning.patterns import Channels, Inputs
from prunus.pruning.pruner import Pruner
from prunus.pruning.schedules import Cubic, Geometric, Linear
from prunus.pruning.scopes import Erk, Global, LeastError, Uniform

__all__ = [
    "Channels",
    "Cubic",
    "Erk",
    "Geometric",
    "Global",
    "Gradient",
    "Inputs",
    "LeastError",
    "Linear",
    "Pruner",
    "Random",
    "Uniform",
    "prune",
]
