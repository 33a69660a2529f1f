"""What goes with one index of one parameter, in a form that can be written by hand."""

from __future__ import annotations

import torch
from torch import nn

from prunus.graph import ExampleInputs, trace
from prunus.graph.coupling import Coupling, couple
from prunus.graph.kept import keep

# Parameter or buffer -> dimension -> the indices that go.
Going = dict[str, dict[int, list[int]]]


def coupled(model: nn.Module, inputs: ExampleInputs) -> Coupling:
    """Read a model in eval mode."""
    return couple(trace(model, inputs))


def going(coupling: Coupling, name: str, dim: int, index: int) -> Going:
    """Return all that goes when one index of a parameter's dimension has to go; nothing if it has to stay."""
    gone = torch.zeros(coupling.num_classes, dtype=torch.bool)
    gone[coupling.axis_classes((name, (dim,)))[index]] = True
    kept = keep(coupling, gone)
    found: Going = {}
    for tensor, by_dim in kept.indices.items():
        shape = coupling.graph.tensor(tensor).shape
        for each, stays in by_dim.items():
            found.setdefault(tensor, {})[each] = sorted(set(range(shape[each])) - set(stays.tolist()))
    return found


def why_kept(coupling: Coupling, name: str, dim: int) -> set[str]:
    """Return the reasons why indices of a dimension have to stay; empty where all may go."""
    reasons = coupling.reason[coupling.axis_classes((name, (dim,)))].tolist()
    return {coupling.reasons[reason] for reason in reasons if reason >= 0}
