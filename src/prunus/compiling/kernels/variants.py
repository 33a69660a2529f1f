"""The ways in which a contraction may be computed, and about how many cycles each costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.kernels import contraction, words
from prunus.compiling.kernels.contraction import POOL_SIDE, Tile
from prunus.compiling.layout import Mode, length_of, most_along
from prunus.compiling.planning import Plan, is_dot, row_width

if TYPE_CHECKING:
    from prunus.compiling.operations import Contract


@dataclass(frozen=True)
class Variant:
    """How a contraction is computed.

    Attributes:
        rows: outputs computed together.
        tile: rows, and vectors of a row, held in registers.
        width: numbers in a vector.
        outer: which loop is the outer one: ``tiles``, then all weights are read for each; or ``outputs``, then all of
            the source. ``columns``: neighbouring outputs are the numbers of a vector.
        parts: into how many parts the source is cut, each small enough for the nearest cache; outputs are begun with
            the first and taken up again with each further one.
    """

    rows: int
    tile: tuple[int, int]
    width: int
    outer: str = "tiles"
    parts: int = 1

    def __str__(self) -> str:
        if self == DOT:
            return "number by number"
        if self.outer == "columns":
            return f"{self.rows} outputs in a vector"
        words = [f"{self.rows} row{'s' * (self.rows > 1)}", f"tile {self.tile[0]}x{self.tile[1]} of {self.width}"]
        words += ["outputs outside"] * (self.outer == "outputs")
        return ", ".join([*words, *[f"{self.parts} parts"] * (self.parts > 1)])


# Half of the nearest cache of common processors (32 to 48 KiB), the other half being for weights and outputs.
_NEAREST_CACHE = 16 * 1024

# A vector of outputs is taken at once where that leaves fewer entries than this share of the single weights: an entry
# reads as many numbers as a vector has.
_DENSE = 0.3

# One output after the other, number by number: for rows too short for vectors.
DOT = Variant(1, (1, 1), 1, "outputs")


def variants(contract: Contract, plan: Plan, registers: int) -> list[Variant]:
    """Return the ways a contraction may be computed, the most promising first.

    Args:
        contract: what is computed.
        plan: where what it reads lies.
        registers: vector registers of the processor.
    """
    vector = plan.mode.vector
    if is_dot(contract, plan.mode):
        if contract.computes_in_words:
            return _of_words(contract, vector)
        wide = _column_wise(contract, vector)
        dense = any(_entries(contract, choice.rows) < _DENSE * contract.nonzero for choice in wide)
        return [*wide, DOT] if dense else [DOT, *wide]
    costs: dict[Variant, float] = {}
    offered = _tiles(contract, plan.mode.vector, registers)
    entries = {rows: _entries(contract, rows) for rows in (1, 2, 4) if _divides(contract, rows)}
    if contract.output in plan.along:
        length = length_of(*contract.grid, plan.layouts[contract.output].pitch)
        width = _row_width(contract, (1, length), plan.mode)
        needed = -(-length // width)
        for rows, height, across in offered(width):
            tiles = -(-needed // across)
            if rows in entries and height == 1 and tiles * across * width <= most_along(length, vector) * vector:
                costs[Variant(rows, (1, across), width)] = entries[rows] * tiles * _cost_of_tile(rows, across)
    else:
        width = _row_width(contract, contract.grid, plan.mode)
        for rows, height, across in offered(width):
            outputs = _outputs_across(contract, plan, rows, height, across, width)
            if rows in entries and outputs:
                cost = entries[rows] * _cost(contract, plan.mode, (height, across), outputs, rows, width)
                costs[Variant(rows, (height, across), width)] = cost
    best = sorted(costs, key=lambda variant: costs[variant])
    return [*_otherwise(contract, plan.mode, best[0]), *best[1:]]


def tile_of(contract: Contract, plan: Plan, variant: Variant, narrow: bool) -> Tile:
    """Return the kernel that computes a contraction in some way."""
    lanes = plan.mode.block // variant.width
    several = not plan.mode.single and variant.tile[1] > lanes
    step = plan.taps[contract.output].steps[1] // plan.mode.block if several else 1
    small = variant.rows * math.prod(variant.tile) <= contraction.SMALL
    return Tile(variant.width, variant.rows, *variant.tile, step, narrow and small, variant.parts > 1)


def _tiles(contract: Contract, vector: int, registers: int) -> Callable[[int], Iterable[tuple[int, int, int]]]:
    """Return what yields (rows, height, across) of the tiles for vectors of so many numbers."""
    if contract.depthwise_in_words:
        return lambda width: ((1, 1, across) for across in words.DEPTHWISE_ACROSS)
    if contract.computes_in_words:
        return lambda width: ((1, *shape) for shape in words.shapes(registers))
    return lambda width: contraction.tiles(width, vector, registers)


def _row_width(contract: Contract, grid: tuple[int, int], mode: Mode) -> int:
    return mode.vector if contract.computes_in_words else row_width(grid, mode, mode.vector)


def _divides(contract: Contract, rows: int) -> bool:
    return (len(contract.weight) // contract.groups) % rows == 0


def _outputs_across(contract: Contract, plan: Plan, rows: int, height: int, across: int, width: int) -> int:
    """Return how many neighbouring outputs a tile's row has, counted in vectors singly; 0 where the tile doesn't do."""
    grid = contract.grid
    if height > grid[0] or (contract.pool is not None and height % POOL_SIDE):
        return 0
    if plan.mode.single:  # what reaches beyond a row is written over with the next row: that must not be there yet
        vectors = -(-grid[1] // width)
        in_turn = height == 1 or across == vectors or grid[1] % width == 0 or contract.pool is not None
        return across if vectors % across == 0 and in_turn else 0
    lanes = plan.mode.block // width
    outputs, rest = divmod(across, lanes)
    if rest or outputs > grid[1] or (contract.pool is not None and outputs % POOL_SIDE):
        return 0
    if outputs == 1:
        return 1
    step = plan.taps[contract.output].steps[1] // plan.mode.block
    beside = contract.residual is None or lanes == 1 or plan.step_along(contract.residual, 2) == plan.mode.block
    return outputs if beside and (step == 1 or (step == 2 and lanes == 1 and rows < 4)) else 0


def _column_wise(contract: Contract, vector: int) -> list[Variant]:
    """Return what takes outputs side by side as a vector, where their number lets it: for matrices with few zeros."""
    if math.prod(contract.grid) > 1 or contract.groups > 1:
        return []
    widths = [width for width in contraction.widths(vector)[:2] if width >= 4 and len(contract.weight) % width == 0]
    return [Variant(width, (1, 1), width, "columns") for width in widths[:1]]


def _of_words(contract: Contract, vector: int) -> list[Variant]:
    """Return the ways to compute single places of 8 bits: several outputs at once, or one by one."""
    several = Variant(vector, (1, 1), vector, "columns")
    is_vector = math.prod(contract.grid) == 1 and contract.groups == 1 and not contract.depthwise_in_words
    return [several, DOT] if is_vector else [DOT]


def _otherwise(contract: Contract, mode: Mode, best: Variant) -> list[Variant]:
    """Return a variant, the same with the loops in the other order, and for a matrix whose source is large in parts."""
    ways = [best] if contract.depthwise_in_words else [best, replace(best, outer="outputs")]
    bytes_read = contract.source.index.size * mode.block * 4
    in_parts = math.prod(contract.grid) == 1 and contract.groups == 1 and not contract.computes_in_words
    if in_parts and bytes_read > _NEAREST_CACHE:
        ways.append(replace(best, parts=min(-(-bytes_read // _NEAREST_CACHE), 64)))
    return ways


def _entries(contract: Contract, rows: int) -> int:
    flat = contract.weight.reshape(len(contract.weight) // rows, rows, -1)
    return int(numpy.count_nonzero((flat != 0).any(1)))


def _cost(contract: Contract, mode: Mode, tile: tuple[int, int], outputs: int, rows: int, width: int) -> float:
    """Return about how many cycles one entry of all lists costs, two loads and two multiply-adds a cycle.

    For each entry there is an address to be read and computed besides.
    """
    columns = -(-contract.grid[1] // width) if mode.single else contract.grid[1]
    tiles = -(-contract.grid[0] // tile[0]) * -(-columns // outputs)
    return tiles * _cost_of_tile(rows, math.prod(tile))


def _cost_of_tile(rows: int, vectors: int) -> float:
    return max(rows * vectors / 2, (vectors + rows) / 2) + 0.75
