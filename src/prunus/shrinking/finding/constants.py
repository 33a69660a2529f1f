"""Channels that always hold the same number: what they give to the layers behind is a part of those layers' bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, fx

from prunus.graph.calls import arguments_by_name
from prunus.graph.coupling import Coupling, Use
from prunus.graph.operations import Family
from prunus.proving.verification import is_finite, widened
from prunus.shrinking.finding.contents import Reading
from prunus.shrinking.finding.operation import Operation
from prunus.shrinking.finding.product_rules import pads
from prunus.shrinking.finding.weights import applied, consumed, matrix, num_outputs

Matters: TypeAlias = Callable[[fx.Node, int], Tensor | None]

# What may take a bias that it had not: these operations have an argument for it.
_TAKES_BIAS = (Family.LINEAR, Family.CONVOLUTION)


@dataclass
class Constants:
    """What channels hold that are the same for all inputs.

    Attributes:
        constants: use -> what each of its inputs holds, double; NaN where that varies or differs from place to place.
        outputs: use -> which of its outputs matter, bool.
        matters: operation, and which of its outputs -> which elements matter, bool that broadcasts to it; None where
            none does.
    """

    constants: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    matters: Matters = lambda node, piece: None

    def shift(self, coupling: Coupling, use: Use, gone: Tensor) -> Tensor | None:
        """Return what the classes that go added to each output of a use; None where they added nothing."""
        values, outputs = self.constants.get(id(use)), self.outputs.get(id(use))
        if values is None or outputs is None or use.inputs is None:
            return None
        going = gone[coupling.class_of[use.inputs]] & ~values.isnan()
        values = torch.where(going, values, 0.0)
        if not bool(values.any()):
            return None
        weight = widened(matrix(coupling, use))
        weight = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
        shift = torch.where(outputs, applied(use, weight.nan_to_num(0.0, 0.0, 0.0), values), 0.0)
        return shift if bool(shift.any()) else None


def foldable(reading: Reading, use: Use) -> Tensor:
    """Return which inputs of a use may go with their constant in its bias, bool per input.

    Across the zeros that pad a convolution, and where there is no bias that is only its own, this holds for zero.
    """
    assert use.inputs is not None
    values = reading.constants.get(id(use))
    if values is None:
        return torch.zeros(len(use.inputs), dtype=torch.bool)
    taken = ~values.isnan() if _takes_constants(reading.coupling, use) else values == 0
    if bool(taken.any()):
        weight = matrix(reading.coupling, use)
        if not is_finite(weight):  # times zero it is NaN, not zero
            strange = ~weight.isfinite()
            strange = strange.flatten(2).any(2) if strange.ndim > 2 else strange
            everywhere = torch.ones(num_outputs(use, strange), dtype=torch.bool)
            taken = taken & ~consumed(use, strange, everywhere)
    return taken


def _takes_constants(coupling: Coupling, use: Use) -> bool:
    """Tell whether any constant may become a part of the bias of a use."""
    operation = Operation(use.node, arguments_by_name(use.node))
    shared = sum(other.weight.name == use.weight.name or _same_bias(other, use) for other in coupling.uses) > 1
    shared = shared or (use.bias is not None and len(coupling.bindings.get(use.bias.name, ())) > 1)
    padded = operation.family is Family.CONVOLUTION and pads(operation)
    is_free = operation.family in _TAKES_BIAS and operation["bias"] is None
    return (is_free or _adds_its_bias(coupling, use, operation)) and not (shared or use.recurrent or padded)


def _adds_its_bias(coupling: Coupling, use: Use, operation: Operation) -> bool:
    """Tell whether an operation adds a parameter as it is: one that is computed, or a multiple, takes no constant."""
    added = operation.get("bias", operation.get("self"))
    is_parameter = isinstance(added, fx.Node) and coupling.graph.tensors.get(added.name) is not None
    return use.bias is not None and is_parameter and operation.get("alpha", 1) == 1 == operation.get("beta", 1)


def _same_bias(one: Use, other: Use) -> bool:
    return one.bias is not None and other.bias is not None and one.bias.name == other.bias.name
