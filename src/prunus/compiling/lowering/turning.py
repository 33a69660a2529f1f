"""Images of width one, as columns of sound, become rows: vectors run along rows.

A box of (channels, height, 1) holds its elements in the order of (channels, 1, height), so nothing moves: each
operation sees the same elements in another shape, and its kernel, steps and windows change places.
"""

from __future__ import annotations

from dataclasses import replace

from prunus.compiling.net import Box, Net, Operation, View
from prunus.compiling.operations import Contract, Dequantize, Elementwise, Pool, Quantize


def turned(net: Net) -> Net:
    """Return a net that computes the same along rows, where its planes have one column."""
    operations = tuple(_turned(operation) for operation in net.operations)
    inputs = {number: net.boxes[number] for number, _ in net.inputs.values()}
    return replace(
        net, operations=operations, boxes=inputs | {operation.output: operation.box for operation in operations}
    )


def _turned(operation: Operation) -> Operation:
    if isinstance(operation, Contract):
        return _contraction(operation)
    if isinstance(operation, Pool) and _is_column(operation.source.index.shape) and operation.box[2] == 1:
        source = _reshaped(operation.source)
        return replace(
            operation, box=_row(operation.box), source=source, rows=operation.columns, columns=operation.rows
        )
    if isinstance(operation, (Quantize, Dequantize)) and _is_column(operation.box):
        return replace(operation, box=_row(operation.box), source=_reshaped(operation.source))
    if isinstance(operation, Elementwise) and _is_column(operation.box):
        box = _row(operation.box)
        sources = tuple(
            View(source.value, source.index.reshape(box)) if isinstance(source, View) else source.reshape(box)
            for source in operation.sources
        )
        return replace(operation, box=box, sources=sources)
    return operation


def _contraction(contract: Contract) -> Contract:
    along = contract.weight.shape[3] == 1 and contract.padding[1] == 0
    if not along or not _is_column(contract.source.index.shape):
        return contract
    return replace(
        contract,
        box=_row(contract.box),
        source=_reshaped(contract.source),
        weight=contract.weight.swapaxes(2, 3),
        grid=contract.grid[::-1],
        stride=contract.stride[::-1],
        padding=contract.padding[::-1],
        dilation=contract.dilation[::-1],
    )


def _reshaped(view: View) -> View:
    return View(view.value, view.index.swapaxes(1, 2))


def _is_column(box: Box) -> bool:
    return box[2] == 1 and box[1] > 1


def _row(box: Box) -> Box:
    return (box[0], box[2], box[1]) if _is_column(box) else box
