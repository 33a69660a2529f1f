"""What can't matter, all of it at once: which classes go, and which constants they leave behind."""

from __future__ import annotations

import torch

from prunus.graph.coupling import Coupling
from prunus.graph.kept import Kept, keep
from prunus.shrinking.finding import content_rules, need_rules, norm_rules, product_rules  # noqa: F401  # enter their rules
from prunus.shrinking.finding.constants import Constants
from prunus.shrinking.finding.contents import Reading
from prunus.shrinking.finding.liveness import needed


def removable(coupling: Coupling) -> tuple[Kept, Constants]:
    """Return what is left when all goes that can't matter, and which of what goes is constant.

    Where a layer would be left empty, or the groups of a convolution uneven, some classes come back; then what these
    need stays as well.
    """
    reading = Reading(coupling)
    staying = torch.zeros(coupling.num_classes, dtype=torch.bool)
    while True:
        sweep = needed(reading, staying)
        kept = keep(coupling, ~sweep.alive)
        back = ~kept.gone & ~sweep.alive
        if not bool((back & ~staying).any()):
            return kept, Constants(reading.constants, sweep.outputs, sweep.matters)
        staying = staying | back
