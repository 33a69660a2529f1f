"""Rows of a table by their numbers: embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.net import Numbers, Operation, View, require

if TYPE_CHECKING:
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant

# Whole numbers are held as floating point ones, which tell so many apart.
MOST_ROWS = 1 << 24


@dataclass(frozen=True, eq=False)
class Lookup(Operation):
    """Rows of a table, beside each other: the box is (width of the table, 1, how many are looked up).

    Attributes:
        table: (rows, width).
        source: the rows' numbers, in one dimension; each call makes sure that there are such rows.
    """

    table: Numbers
    source: View

    def check(self) -> None:  # noqa: D102
        table, index = self.table, self.source.index
        whole = isinstance(table, numpy.ndarray) and table.ndim == 2 and table.dtype == numpy.float64
        require(whole and 0 < len(table) <= MOST_ROWS, f"{self.name!r:.40}: table")
        require(index.ndim == 1 and self.box == (table.shape[1], 1, len(index)), f"{self.name!r:.40}: box")

    def describe(self) -> str:  # noqa: D102
        return "rows of a table"

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        return [writer.look_up(self)]
