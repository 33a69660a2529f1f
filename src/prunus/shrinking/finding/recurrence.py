"""Hidden units of recurrent layers that are always zero."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from prunus.graph.coupling import Use
from prunus.shrinking.finding.content import channel_numbers
from prunus.shrinking.finding.contents import Reading
from prunus.shrinking.finding.operation import Operation, node_shape
from prunus.shrinking.finding.weights import num_inputs


@dataclass(frozen=True, eq=False)
class ZeroUnits:
    """Which hidden units of a recurrent layer are zero at every step.

    Attributes:
        directions: 1 or 2.
        by_cell: for each layer and direction, bool per unit.
        inputs: use -> which of its inputs are always zero, bool.
    """

    directions: int
    by_cell: list[Tensor] = field(default_factory=list)
    inputs: dict[int, Tensor] = field(default_factory=dict)


def zero_units(reading: Reading, operation: Operation) -> ZeroUnits | None:
    """Find the units whose state starts at zero and stays there.

    With zero for the candidate state, `h' = (1 - z) n + z h` of a GRU and `c' = f c + i g` of an LSTM leave a state of
    zero as it is, whatever the gates are; so does a plain layer whose every term is zero.

    Returns:
        None where the layer is not of the plain kind, or has parameters that are computed from the input.
    """
    uses = reading.uses.get(operation.node, [])
    parameters = list(operation["params"])
    if not uses or not all(reading.is_constant(parameter) for parameter in parameters):
        return None
    directions = 2 if operation["bidirectional"] else 1
    per_cell = 4 if operation["has_biases"] else 2
    result = ZeroUnits(directions)
    carries = reading.carries(uses[0])
    first = channel_numbers(reading.single(operation["input"]), -1, num_inputs(uses[0], carries)) == 0
    for cell in range(operation["num_layers"] * directions):
        if cell and cell % directions == 0:
            first = torch.cat(result.by_cell[-directions:])
        own = parameters[cell * per_cell : (cell + 1) * per_cell]
        starts = _starts_at_zero(reading, operation, cell)
        zero = _zero_of_cell(reading, operation, (uses[2 * cell], uses[2 * cell + 1]), own, first, starts)
        result.inputs[id(uses[2 * cell])] = first
        result.inputs[id(uses[2 * cell + 1])] = zero
        result.by_cell.append(zero)
    return result


def _starts_at_zero(reading: Reading, operation: Operation, cell: int) -> Tensor:
    """Return which units of a cell have zero for their first state, bool per unit."""
    states = operation["hx"] if isinstance(operation["hx"], (list, tuple)) else [operation["hx"]]
    size = node_shape(states[0])[-1]
    result = torch.ones(size, dtype=torch.bool)
    for state in states:
        incoming = reading.single(state)
        if incoming is None:
            return torch.zeros(size, dtype=torch.bool)
        zero = incoming.is_zero
        own = zero.narrow(0, cell, 1) if zero.shape[0] > 1 else zero
        result &= own.reshape(-1, own.shape[-1]).all(0).expand(size)
    return result


def _zero_of_cell(
    reading: Reading,
    operation: Operation,
    uses: tuple[Use, Use],
    parameters: list[fx.Node],
    zero_inputs: Tensor,
    starts: Tensor,
) -> Tensor:
    """Return which units of one layer in one direction are always zero: the largest set that feeds on itself."""
    size = len(starts)
    gate = 2 if operation.row.gates > 1 else 0  # in torch's order the one that makes the candidate for the new state
    rows = slice(gate * size, (gate + 1) * size)
    from_inputs, from_state = (reading.carries(use)[rows] for use in uses)
    zero = starts & ~(from_inputs & ~zero_inputs).any(1)
    if len(parameters) == 4:
        of_inputs, of_state = (reading.content(bias).numbers.expand(node_shape(bias))[rows] for bias in parameters[2:])
        if operation.name == "gru":
            zero &= (of_inputs == 0) & (of_state == 0)
        elif operation.name == "rnn_relu":
            zero &= of_inputs + of_state <= 0
        else:
            zero &= of_inputs + of_state == 0
    while True:
        smaller = zero & ~(from_state & ~zero).any(1)
        if torch.equal(smaller, zero):
            return zero
        zero = smaller
