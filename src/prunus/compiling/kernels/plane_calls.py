"""Calls of kernels that compute planes of words: where each word's runs lie, and what they take besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy

from prunus.compiling.kernels import arguments
from prunus.compiling.kernels.calls import Call, CallWriter, runs
from prunus.compiling.net import Indices

if TYPE_CHECKING:
    from prunus.compiling.operations import QuantizedFunction, QuantizedMean, QuantizedProduct

_CHANNELS = 4


class _Planes(NamedTuple):
    """Planes in several buffers: where the runs of each word begin, (words, runs), their length and steps."""

    starts: list[Indices]
    length: int
    steps: tuple[int, ...]


def _planes(*addresses: Indices) -> _Planes:
    """Return planes, (words, height, width), as runs of elements that lie alike in all words."""
    flat = [array.reshape(len(array), -1) for array in addresses]
    if not all(bool((array - array[:, :1] == array[0] - array[0, 0]).all()) for array in flat):
        return _Planes(flat, 1, (1,) * len(flat))
    first = runs([array[0] for array in addresses])
    starts = [array[:, :1] + (start - array[0, 0]) for array, start in zip(flat, first.starts, strict=True)]
    return _Planes(starts, first.length, first.steps)


def mean(writer: CallWriter, operation: QuantizedMean) -> Call:
    """Return the call that takes means of planes."""
    source = writer.plan.addresses(operation.source)
    return _call(writer, "words_mean", operation, _planes(source), writer.output(operation))


def product(writer: CallWriter, operation: QuantizedProduct) -> Call:
    """Return the call that multiplies planes by factors."""
    factors = writer.plan.addresses(operation.factors).reshape(-1)
    planes = _planes(writer.plan.addresses(operation.source), writer.output(operation))
    factors = numpy.pad(factors, (0, -len(factors) % _CHANNELS), constant_values=-1)
    return _call(writer, "words_product", operation, planes, planes.starts[1], factors_at=writer.table(factors))


def function(writer: CallWriter, operation: QuantizedFunction) -> Call:
    """Return the call that looks bytes up in a table."""
    planes = _planes(writer.plan.addresses(operation.source), writer.output(operation))
    table = writer.constants.add(operation.table.astype(numpy.uint8))
    return _call(writer, "words_function", operation, planes, planes.starts[1], table_at=table)


def _call(
    writer: CallWriter,
    kernel: str,
    operation: QuantizedMean | QuantizedProduct | QuantizedFunction,
    planes: _Planes,
    outputs: Indices,
    **more: float,
) -> Call:
    return writer.call(
        kernel,
        arguments.PLANES,
        unit=writer.plan.mode.block,
        words=len(planes.starts[0]),
        runs=planes.starts[0].shape[1],
        length=planes.length,
        from_at=writer.table(planes.starts[0]),
        to_at=writer.table(outputs),
        from_step=planes.steps[0],
        to_step=planes.steps[-1],
        from_zero=operation.source_zero,
        to_zero=operation.zero,
        factor=float(operation.factor),
        **more,
    )
