"""Operations that go into the one before, so that they are done while its numbers are still in registers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy

from prunus.compiling.net import Combine, Contract, Map, Net, Operation, Pool, View, views_of

# Functions that never fall: they may be applied before a maximum as well as after.
_RISING = ("relu", "relu6", "sigmoid", "tanh", "clamp", "leaky_relu")

# (contraction, what follows it) -> both in one; None where they don't fit.
Fusion: TypeAlias = Callable[[Contract, Operation], "Contract | None"]


def fuse(net: Net, fusions: Sequence[Fusion]) -> Net:
    """Return a net that computes the same with fewer operations.

    Args:
        net: what is computed.
        fusions: what may go into a contraction before it.
    """
    operations = list(net.operations)
    keep = {view.value for view in net.outputs}
    changed = True
    while changed:
        changed = False
        readers = Counter(view.value for operation in operations for view in views_of(operation))
        makers = {operation.output: operation for operation in operations}
        for operation in operations:
            found = _into_maker(operation, makers, readers, keep, fusions)
            if found is not None:
                gone, fused = found
                operations = [fused if each is operation else each for each in operations if each is not gone]
                changed = True
                break
    return replace(net, operations=tuple(operations), boxes=_boxes(net, operations))


def _boxes(net: Net, operations: list[Operation]) -> dict[int, tuple[int, int, int]]:
    given = {number: net.boxes[number] for number, _ in net.inputs.values()}
    return given | {operation.output: operation.box for operation in operations}


def _into_maker(
    operation: Operation,
    makers: dict[int, Operation],
    readers: Counter[int],
    keep: set[int],
    fusions: Sequence[Fusion],
) -> tuple[Operation, Operation] | None:
    """Return an operation that goes, and one that does its work and that of the one given."""
    order = list(makers)
    for view in sorted(views_of(operation), key=lambda view: -order.index(view.value) if view.value in order else 0):
        maker = makers.get(view.value)
        if maker is None or readers[view.value] != 1 or view.value in keep or not _is_whole(view, maker):
            continue
        fused: Operation | None = None
        if isinstance(maker, Contract):
            fused = next((found for fusion in fusions if (found := fusion(maker, operation)) is not None), None)
        elif isinstance(maker, Combine) and isinstance(operation, Map) and maker.activation is None:
            fused = replace(maker, activation=operation.pointwise)
        if fused is not None:
            box = operation.box if isinstance(operation, Pool) else maker.box
            return maker, replace(fused, output=operation.output, box=box)
    return None


def _is_whole(view: View, maker: Operation) -> bool:
    """Tell whether a view is all of a value in its own arrangement."""
    size = int(numpy.prod(maker.box))
    return view.index.size == size and bool((view.index.reshape(-1) == numpy.arange(size)).all())


def _scaled(maker: Contract, operation: Operation) -> Contract | None:
    """A factor, divisor, summand of each channel goes into weights and bias."""
    if not isinstance(operation, Combine) or isinstance(operation.second, View) or operation.activation is not None:
        return None
    if maker.activation is not None or maker.residual is not None or maker.pool is not None:
        return None
    rows = operation.second.reshape(maker.box[0], -1)
    if not bool((rows == rows[:, :1]).all()):
        return None
    number = rows[:, 0]
    if operation.function in ("add", "sub"):
        return replace(maker, bias=maker.bias + (number if operation.function == "add" else -number))
    if operation.function not in ("mul", "div"):
        return None
    factor = number if operation.function == "mul" else 1 / number
    if not bool(numpy.isfinite(factor).all()):
        return None
    return replace(maker, weight=maker.weight * factor[:, None, None, None], bias=maker.bias * factor)


def _added(maker: Contract, operation: Operation) -> Contract | None:
    """Another value of the same shape is added before the sum is stored."""
    if not isinstance(operation, Combine) or operation.function != "add" or not isinstance(operation.second, View):
        return None
    if maker.activation is not None or maker.residual is not None or maker.pool is not None:
        return None
    ours = operation.first.value == maker.output
    other = operation.second if ours else operation.first
    if other.value == maker.output:
        return None
    other = View(other.value, other.index.reshape(maker.box))
    return replace(maker, residual=other, activation=operation.activation)


def _activated(maker: Contract, operation: Operation) -> Contract | None:
    """A function of each element; after a maximum one that never falls may as well be applied before."""
    if not isinstance(operation, Map) or maker.activation is not None:
        return None
    if maker.pool is not None:
        slope = operation.pointwise.constants[0] if operation.pointwise.function == "leaky_relu" else 1.0
        if maker.pool[0] != "max" or operation.pointwise.function not in _RISING or slope < 0:
            return None
    return replace(maker, activation=operation.pointwise)


def _pooled(maker: Contract, operation: Operation) -> Contract | None:
    """Windows side by side."""
    if not isinstance(operation, Pool) or maker.pool is not None:
        return None
    height, width = operation.rows.side, operation.columns.side
    if height is None or width is None or height * width == 1 or operation.source.index.shape != maker.box:
        return None
    return replace(maker, pool=(operation.function, height, width))


FUSIONS: tuple[Fusion, ...] = (_scaled, _added, _activated, _pooled)
# Without factors in the weights, a sum that overflows before it is scaled stays the infinity that it is in PyTorch.
EXACT_FUSIONS: tuple[Fusion, ...] = (_added, _activated, _pooled)
