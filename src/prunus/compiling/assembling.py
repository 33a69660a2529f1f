"""From laid-out nets to a program: the calls of kernels for a block of samples and for one, and what they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunus.compiling.kernels import word_calls
from prunus.compiling.kernels.calls import Call, CallWriter
from prunus.compiling.kernels.numbers import Numbers
from prunus.compiling.kernels.variants import Variant
from prunus.compiling.kernels.writing import Constants
from prunus.compiling.operations import Contract
from prunus.compiling.planning import Plan


@dataclass(frozen=True)
class CallSequence:
    """Calls in order: the first load the inputs, the last store the outputs.

    Attributes:
        calls: of kernels.
        operations: for each call, the number of the operation it belongs to in its plan; None for loads and stores.
    """

    calls: Sequence[Call]
    operations: Sequence[int | None]


@dataclass(frozen=True)
class Assembly:
    """A program as data.

    Attributes:
        block, single: what is called for a block of samples, and for one.
        constants: weights, tables and arguments.
        block_size: samples of a block.
        work_bytes: of the workspace of a thread.
    """

    block: CallSequence
    single: CallSequence
    constants: bytearray
    block_size: int
    work_bytes: int


def assemble(
    plans: Sequence[Plan],
    chosen: Mapping[tuple[str, int], Variant],
    numbers: Numbers,
    *,
    looks: bool = False,
    saturates: bool = False,
) -> Assembly:
    """Return a program.

    Args:
        plans: of the block mode and of the single one.
        chosen: (mode, number of the output) -> how that contraction is computed.
        numbers: what is computed in.
        looks: whether what contractions read is looked at for infinities and NaN before.
        saturates: whether products of 8 bits are added in pairs of 16 bits.
    """
    constants = Constants()
    block, single = (_sequence(CallWriter(plan, constants, numbers, looks, saturates), chosen) for plan in plans)
    work_bytes = max(plan.size for plan in plans) * numbers.bytes
    return Assembly(block, single, constants.data, plans[0].mode.block, work_bytes)


def _sequence(writer: CallWriter, chosen: Mapping[tuple[str, int], Variant]) -> CallSequence:
    loads, stores = writer.transfers()
    calls, owners = list(loads), [None] * len(loads)
    for number, operation in enumerate(writer.plan.net.operations):
        way = chosen[writer.plan.mode.name, operation.output] if isinstance(operation, Contract) else None
        added = [*word_calls.filled(writer, operation), *operation.calls(writer, way)]
        calls += added
        owners += [number] * len(added)  # type: ignore[list-item]
    return CallSequence([*calls, *stores], [*owners, *(None for _ in stores)])
