"""Recurrent layers: a hidden unit is a row of every gate, a column of the recurrent weight, and an output."""

from __future__ import annotations

from torch import Tensor

from prunus.graph.coupling.calls import Call
from prunus.graph.coupling.reader import Reader, rule
from prunus.graph.coupling.uses import Use
from prunus.graph.coupling.values import Value, along, inert
from prunus.graph.operations import Family

_PROJECTED = "prunus does not follow recurrent layers with projections (proj_size)"


@rule(Family.RECURRENT)
def recurrent(reader: Reader, call: Call) -> list[Value]:
    """Couple the hidden units of all layers and directions: torch's layers have one hidden size."""
    sequence = call["input"]
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    per_cell = 4 if call["has_biases"] else 2
    parameters = call["params"]
    directions = 2 if call["bidirectional"] else 1
    labels = reader.promote(sequence)
    size = states[0].shape[-1]
    if len(parameters) != per_cell * directions * call["num_layers"] or any(len(p.sources) != 1 for p in parameters):
        for value in (sequence, *states, *parameters):
            reader.keep(reader.promote(value), _PROJECTED)
            reader.keep_rows(value, _PROJECTED)
        return [Value(inert(shape)) for shape in call.shapes]
    channels = reader.vector(labels, labels.ndim - 1)
    hidden = reader.atoms((parameters[1].sources[0].name, (1,)), size)
    for layer in range(call["num_layers"]):
        for direction in range(directions):
            start = (layer * directions + direction) * per_cell
            _cell(reader, call, parameters[start : start + per_cell], channels, hidden)
        channels = hidden.repeat(directions)
    for state in states:
        initial = reader.promote(state)
        reader.join(initial, along(hidden, initial.ndim - 1, initial.shape))
    last = call.shapes[0]
    outputs = [Value(along(channels, len(last) - 1, last))] if channels is not None else [Value(inert(last))]
    return outputs + [Value(along(hidden, len(shape) - 1, shape)) for shape in call.shapes[1:]]


def _cell(reader: Reader, call: Call, parameters: list[Value], channels: Tensor | None, hidden: Tensor) -> None:
    """Couple one layer in one direction."""
    rows = hidden.repeat(call.row.gates)
    steps = call["input"].shape[:-1].numel() / reader.graph.num_samples
    for index, parameter in enumerate(parameters):
        (source,) = parameter.sources
        if index > 1:
            reader.bind(parameter, rows)
            continue
        own, columns = reader.axis(source, 0), reader.axis(source, 1)
        assert own is not None
        assert columns is not None
        reader.join(own, rows)
        consumed = channels if index == 0 else hidden
        if consumed is None:
            reader.keep(columns, "its input comes from no layer, such as the model's input")
        else:
            reader.join(columns, consumed)
        used = columns if consumed is not None else None
        macs = steps * parameter.shape.numel()
        reader.uses.append(Use(call.node, source, (0, 1), used, own, macs=macs, recurrent=True))
