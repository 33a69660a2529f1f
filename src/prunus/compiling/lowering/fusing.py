"""Operations that go into the one before, so that they are done while its numbers are still in registers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy
from numpy import ndarray

from prunus.compiling.kernels.numbers import RISING
from prunus.compiling.net import Net, Numbers, Operation, View, is_whole
from prunus.compiling.operations import Contract, Elementwise, Pool
from prunus.compiling.operations.elementwise import followed

# (contraction, what follows it) -> both in one; None where they don't fit.
Fusion: TypeAlias = Callable[[Contract, Operation], "Contract | None"]


def fuse(net: Net, fusions: Sequence[Fusion]) -> Net:
    """Return a net that computes the same with fewer operations: first into contractions, then functions in a row.

    Args:
        net: what is computed.
        fusions: what may go into a contraction before it.
    """
    operations = list(net.operations)
    keep = {view.value for view in net.outputs}
    for into in (_into_contraction(fusions), _into_functions):
        while (step := _next_fusion(operations, keep, into)) is not None:
            gone, operation, fused = step
            operations = [fused if other is operation else other for other in operations if other is not gone]
    return replace(net, operations=tuple(operations), boxes=_boxes(net, operations))


def _boxes(net: Net, operations: list[Operation]) -> dict[int, tuple[int, int, int]]:
    inputs = {number: net.boxes[number] for number, _ in net.inputs.values()}
    return inputs | {operation.output: operation.box for operation in operations}


# (what makes a value, what reads it, by which view) -> both in one; None where they don't fit.
_Into: TypeAlias = Callable[[Operation, Operation, View], "Operation | None"]


def _next_fusion(
    operations: list[Operation], keep: set[int], into: _Into
) -> tuple[Operation, Operation, Operation] | None:
    """Return two operations, the second of which reads the first's value, and one that does the work of both."""
    readers = Counter(view.value for operation in operations for view in operation.views)
    makers = {operation.output: operation for operation in operations}
    order = {value: number for number, value in enumerate(makers)}
    for operation in operations:
        for view in sorted(operation.views, key=lambda view: -order.get(view.value, 0)):
            maker = makers.get(view.value)
            if maker is None or readers[view.value] != 1 or view.value in keep or not is_whole(view, maker.box):
                continue
            fused = into(maker, operation, view)
            if fused is not None:
                return maker, operation, fused
    return None


def _into_contraction(fusions: Sequence[Fusion]) -> _Into:
    def into(maker: Operation, operation: Operation, view: View) -> Operation | None:
        if not isinstance(maker, Contract):
            return None
        fused = next((both for fusion in fusions if (both := fusion(maker, operation)) is not None), None)
        box = operation.box if isinstance(operation, Pool) else maker.box
        return None if fused is None else replace(fused, output=operation.output, box=box)

    return into


def _into_functions(maker: Operation, operation: Operation, view: View) -> Operation | None:
    if not isinstance(maker, Elementwise) or not isinstance(operation, Elementwise):
        return None
    return followed(maker, operation, view)


def _scaled(maker: Contract, operation: Operation) -> Contract | None:
    """A factor, divisor, summand of each channel goes into weights and bias."""
    function, _, numbers = _combined(operation)
    if not isinstance(numbers, ndarray) or not _ends_with_sum(maker):
        return None
    rows = numbers.reshape(maker.box[0], -1)
    is_broadcast = rows.strides[1] == 0
    if not is_broadcast and not bool((rows == rows[:, :1]).all()):
        return None
    number = rows[:, 0]
    if function in ("add", "sub"):
        return replace(maker, bias=maker.bias + (number if function == "add" else -number))
    if function not in ("mul", "div"):
        return None
    factor = number if function == "mul" else 1 / number
    if not bool(numpy.isfinite(factor).all()):
        return None
    return replace(maker, weight=maker.weight * factor[:, None, None, None], bias=maker.bias * factor)


def _combined(operation: Operation) -> tuple[str, View | None, View | Numbers | None]:
    """Return a function of two numbers and its operands; nothing where the operation is none."""
    combined = operation.combined if isinstance(operation, Elementwise) else None
    return combined or ("", None, None)


def _ends_with_sum(maker: Contract) -> bool:
    return maker.activation is None and maker.residual is None and maker.pool is None


def _added(maker: Contract, operation: Operation) -> Contract | None:
    """Another value of the same shape is added before the sum is stored."""
    function, first, second = _combined(operation)
    if function != "add" or first is None or not isinstance(second, View) or not _ends_with_sum(maker):
        return None
    other = second if first.value == maker.output else first
    if other.value == maker.output:
        return None
    return replace(maker, residual=View(other.value, other.index.reshape(maker.box)))


def _activated(maker: Contract, operation: Operation) -> Contract | None:
    """A function of each element; after a maximum one that never falls may as well be applied before."""
    pointwise = operation.pointwise if isinstance(operation, Elementwise) else None
    if pointwise is None or maker.activation is not None:
        return None
    if maker.pool is not None:
        slope = pointwise.constants[0] if pointwise.function == "leaky_relu" else 1.0
        if maker.pool[0] != "max" or pointwise.function not in RISING or slope < 0:
            return None
    return replace(maker, activation=pointwise)


def _pooled(maker: Contract, operation: Operation) -> Contract | None:
    """Windows side by side."""
    if not isinstance(operation, Pool) or maker.pool is not None:
        return None
    height, width = operation.rows.side, operation.columns.side
    if height is None or width is None or height * width == 1 or operation.source.index.shape != maker.box:
        return None
    return replace(maker, pool=(operation.function, height, width))


# Windows are pooled in 8 bits by themselves.
FUSIONS_IN_8_BITS: tuple[Fusion, ...] = (_added, _activated)
# Without factors in the weights, a sum that overflows before it is scaled stays the infinity that it is in PyTorch.
EXACT_FUSIONS: tuple[Fusion, ...] = (*FUSIONS_IN_8_BITS, _pooled)
FUSIONS: tuple[Fusion, ...] = (_scaled, *EXACT_FUSIONS)
