"""The weights of a contraction in the order in which a kernel reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy

from prunus.compiling.codegen.variants import Variant
from prunus.compiling.codegen.writing import Constants
from prunus.compiling.net import Contract
from prunus.compiling.planning import Plan


@dataclass(frozen=True)
class Lists:
    """The weights of a contraction in the order a kernel reads them.

    Attributes:
        starts: where the list of each group begins, part by part, and the last one ends.
        offsets: where each entry's element lies, relative to the output's, counted in elements.
        values: (entries, rows).
    """

    starts: numpy.ndarray
    offsets: numpy.ndarray
    values: numpy.ndarray


def lists(contract: Contract, plan: Plan, variant: Variant) -> Lists:
    """Return a contraction's weights in groups of outputs, those that are zero for a whole group left out."""
    weight, rows = contract.weight, variant.rows
    count = len(weight)
    per_group = count // contract.groups
    assert per_group % rows == 0, "rows computed together read the same channels"
    flat = weight.reshape(count // rows, rows, -1)
    taps = plan.taps[contract.output].offsets.reshape(contract.groups, -1)
    group, entry = numpy.nonzero((flat != 0).any(1))
    offsets = taps[group * rows // per_group, entry]
    part = numpy.zeros(len(offsets), dtype=numpy.int64)
    if variant.parts > 1:
        low, high = int(taps.min()), int(taps.max()) + 1
        part = (offsets - low) * variant.parts // (high - low)
    turns = numpy.where(group % 2 == 0, offsets, -offsets)  # there and back: what was read last is still in the cache
    order = numpy.lexsort((turns, group, part))
    bounds = numpy.bincount(part * len(flat) + group, minlength=variant.parts * len(flat))
    return Lists(
        numpy.concatenate([[0], numpy.cumsum(bounds)]).astype(numpy.int32),
        offsets[order] // plan.mode.block,
        flat[group[order], :, entry[order]],
    )


def is_narrow(contract: Contract, plan: Plan) -> bool:
    """Tell whether 16 bits hold the offsets of a contraction."""
    return int(plan.taps[contract.output].offsets.max()) // plan.mode.block < 1 << 16


def weights(contract: Contract, plan: Plan, variant: Variant, constants: Constants, dtype: type) -> list[int]:
    """Put a contraction's arrays among the constants; return where starts, offsets, values and bias lie."""
    found = lists(contract, plan, variant)
    offsets = found.offsets.astype(numpy.uint16 if is_narrow(contract, plan) else numpy.int32)
    values: Any = found.values.astype(dtype)
    bias: Any = contract.bias.astype(dtype)
    return [constants.add(array) for array in (found.starts, offsets, values, bias)]
