"""The ways in which a contraction may be computed, and about how many cycles each costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy

from prunus.compiling.layout import Mode
from prunus.compiling.net import Contract
from prunus.compiling.planning import is_dot, row_width


@dataclass(frozen=True)
class Variant:
    """How a contraction is computed.

    Attributes:
        rows: outputs computed together.
        tile: outputs below and beside each other (in blocks), or rows and vectors of a row (singly), held in registers.
        width: numbers in a vector.
        outer: which loop is the outer one: ``tiles``, then all weights are read for each; or ``outputs``, then all of
            the source. ``columns``: neighbouring outputs are the numbers of a vector.
        chains: sums that each output is split into, so that one multiply-add doesn't wait for the one before.
        parts: into how many parts the source is cut, each small enough for the nearest cache; outputs are begun with
            the first and taken up again with each further one.
    """

    rows: int
    tile: tuple[int, int]
    width: int
    outer: str = "tiles"
    chains: int = 1
    parts: int = 1

    def __str__(self) -> str:
        if self == DOT:
            return "number by number"
        if self.outer == "columns":
            return f"{self.rows} outputs in a vector"
        words = [f"{self.rows} row{'s' * (self.rows > 1)}", f"tile {self.tile[0]}x{self.tile[1]} of {self.width}"]
        words += ["outputs outside"] * (self.outer == "outputs") + [f"{self.chains} chains"] * (self.chains > 1)
        return ", ".join([*words, *[f"{self.parts} parts"] * (self.parts > 1)])


# Half of the nearest cache of common processors (32 to 48 KiB), the other half being for weights and outputs.
_NEAREST_CACHE = 16 * 1024

# A vector of outputs is taken at once where that leaves fewer entries than this share of the single weights: an entry
# reads as many numbers as a vector has.
_DENSE = 0.3

# One output after the other, number by number: for rows too short for vectors.
DOT = Variant(1, (1, 1), 1, "outputs")


def variants(contract: Contract, mode: Mode, registers: int, vector: int) -> list[Variant]:
    """Return the ways a contraction may be computed, the most promising first.

    Args:
        contract: what is computed.
        mode: how samples lie in memory.
        registers: vector registers of the processor.
        vector: numbers in the widest of them.
    """
    if is_dot(contract, mode):
        wide = _column_wise(contract, vector)
        dense = any(_entries(contract, each.rows) < _DENSE * contract.nonzero for each in wide)
        return [*wide, DOT] if dense else [DOT, *wide]
    found = {}
    width = row_width(contract, mode, vector)
    lanes = 1 if mode.single else mode.block // width
    grid = contract.grid
    columns = -(-grid[1] // width) if mode.single else grid[1]
    for rows in (1, 2, 4):
        if (len(contract.weight) // contract.groups) % rows:
            continue
        entries = _entries(contract, rows)
        for tile in _tiles(contract, (grid[0], columns), lanes, rows, registers, width if mode.single else 1):
            cost = entries * _cost((grid[0], columns), tile, lanes, rows)
            vectors = rows * math.prod(tile) * lanes
            chains = 1
            while chains * 2 * vectors <= min(registers // 2, 8):
                chains *= 2
            found[Variant(rows, tile, width, chains=chains)] = cost
    best = sorted(found, key=lambda each: found[each])
    return [*_otherwise(contract, mode, best[0]), *best[1:]] if best else best


def _column_wise(contract: Contract, vector: int) -> list[Variant]:
    """Return what takes outputs side by side as a vector, where their number lets it: for matrices with few zeros."""
    if math.prod(contract.grid) > 1 or contract.groups > 1:
        return []
    widths = [width for width in (vector, vector // 2) if width >= 4 and len(contract.weight) % width == 0]
    return [Variant(width, (1, 1), width, "columns") for width in widths[:1]]


def _otherwise(contract: Contract, mode: Mode, best: Variant) -> list[Variant]:
    """Return a variant, the same with the loops in the other order, and for a matrix whose source is large in parts."""
    found = [best, replace(best, outer="outputs")]
    bytes_read = contract.source.index.size * mode.block * 4
    if math.prod(contract.grid) == 1 and contract.groups == 1 and bytes_read > _NEAREST_CACHE:
        found.append(replace(best, parts=min(-(-bytes_read // _NEAREST_CACHE), 64)))
    return found


def _entries(contract: Contract, rows: int) -> int:
    flat = contract.weight.reshape(len(contract.weight) // rows, rows, -1)
    return int(numpy.count_nonzero((flat != 0).any(1)))


def _tiles(
    contract: Contract, grid: tuple[int, int], lanes: int, rows: int, registers: int, columns_per_vector: int
) -> Iterator[tuple[int, int]]:
    """Yield tiles that registers can hold, and that pooling divides."""
    down = across = 1
    if contract.pool is not None:
        _, down, across = contract.pool
        if columns_per_vector > 1:
            across = across // math.gcd(across, columns_per_vector)
    most = max((registers - 3 if rows == 1 else registers - 2 - rows // 2) // rows // lanes, 1)
    smallest = (down, across)
    for height in range(down, grid[0] + 1, down):
        for width in range(across, grid[1] + 1, across):
            even = columns_per_vector == 1 or grid[1] % width == 0  # singly, a vector beyond the row is another row's
            if even and (height * width <= most or (height, width) == smallest):
                yield height, width


def _cost(grid: tuple[int, int], tile: tuple[int, int], lanes: int, rows: int) -> float:
    """Return about how many cycles one entry of all lists costs, two loads and two multiply-adds a cycle.

    For each entry there is an address to be read and computed besides.
    """
    tiles = math.prod(-(-side // step) for side, step in zip(grid, tile, strict=True))
    vectors = math.prod(tile) * lanes
    busy = max(rows * vectors / 2, (vectors + rows) / 2)
    return tiles * (busy + 0.75)
