"""The weights of a contraction in the order in which a kernel reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.kernels.contraction import POOL_SIDE
from prunus.compiling.kernels.variants import Variant
from prunus.compiling.layout import length_of
from prunus.compiling.net import Indices
from prunus.compiling.planning import Plan

if TYPE_CHECKING:
    from prunus.compiling.operations import Contract


@dataclass(frozen=True)
class Lists:
    """The weights of a contraction in the order a kernel reads them.

    Attributes:
        starts: where the list of each group begins, part by part, and the last one ends; in every other group the
            entries are in reverse order.
        offsets: where each entry's element lies, relative to the output's, counted in numbers.
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
    if variant.parts == 1 and bool((taps[:, 1:] > taps[:, :-1]).all()):
        counts = numpy.bincount(group, minlength=len(flat))
        order = _alternating(group, counts)
    else:
        low, high = int(taps.min()), int(taps.max()) + 1
        part = (offsets - low) * variant.parts // (high - low)
        order = numpy.lexsort((numpy.where(group % 2 == 0, offsets, -offsets), group, part))
        counts = numpy.bincount(part * len(flat) + group, minlength=variant.parts * len(flat))
    return Lists(
        numpy.concatenate([[0], numpy.cumsum(counts)]).astype(numpy.int32),
        offsets[order],
        flat[group[order], :, entry[order]],
    )


def _alternating(group: Indices, counts: Indices) -> Indices:
    """Return the order that reverses every other group: what was read last is still in the cache.

    Args:
        group: of each entry, rising.
        counts: entries of each group.
    """
    ends = numpy.cumsum(counts)
    order = numpy.arange(len(group))
    reverse: Indices = (2 * ends - counts - 1)[group] - order
    return numpy.where(group % 2 == 0, order, reverse)


def tiles(contract: Contract, plan: Plan, variant: Variant) -> Indices:
    """Return where each tile begins in the source, the output and the residual, and the room to the end of its row.

    The last tile of a row or column lies over the one before where they don't come out even; singly, where vectors may
    reach beyond the end of a row, it does that.

    Returns:
        (tiles, 4) of numbers from the first output's places.
    """
    mode = plan.mode
    height, width = contract.grid
    if contract.output in plan.along:
        length = length_of(height, width, plan.layouts[contract.output].pitch)
        places = numpy.arange(0, length, variant.tile[1] * variant.width)
        return numpy.stack([places, places, places, length - places], axis=1)
    pool = POOL_SIDE if contract.pool is not None else 1
    height, width = height // pool * pool, width // pool * pool
    lanes = 1 if mode.single else mode.block // variant.width
    down = _origins(height, variant.tile[0])
    if mode.single:
        right = numpy.arange(0, width, variant.tile[1] * variant.width)
    else:
        right = _origins(width, max(variant.tile[1] // lanes, 1))
    y, x = (axis.reshape(-1) for axis in numpy.meshgrid(down, right, indexing="ij"))
    steps, layout = plan.taps[contract.output].steps, plan.layouts[contract.output]
    residual = numpy.zeros_like(y)
    if contract.residual is not None:
        residual = y * plan.step_along(contract.residual, 1) + x * plan.step_along(contract.residual, 2)
    output = (y // pool * layout.pitch + x // pool) * mode.block
    return numpy.stack([y * steps[0] + x * steps[1], output, residual, contract.box[2] - x // pool], axis=1)


def _origins(side: int, step: int) -> Indices:
    return numpy.minimum(numpy.arange(0, side, step), max(side - step, 0))
