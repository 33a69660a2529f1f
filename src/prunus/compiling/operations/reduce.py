"""Sums, means, maxima and minima over the elements of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunus.compiling.loops import RowLoops
from prunus.compiling.net import Operation, View, require

if TYPE_CHECKING:
    from prunus.compiling.arranging import Arranger
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant
    from prunus.compiling.kernels.writing import Writer

FUNCTIONS = ("mean", "sum", "amax", "amin")


@dataclass(frozen=True, eq=False)
class Reduce(Operation):
    """``mean``, ``sum``, ``amax`` or ``amin`` over the last dimension of a view of shape (outputs, elements)."""

    function: str
    source: View

    def check(self) -> None:  # noqa: D102
        shape = self.source.index.shape
        require(len(shape) == 2 and math.prod(self.box) == shape[0], f"{self.name!r:.40}: box")
        require(self.function in FUNCTIONS, f"{self.name!r:.40}: function")

    def describe(self) -> str:  # noqa: D102
        return f"{self.function} over elements"

    def arranged(self, arranger: Arranger) -> list[Operation]:  # noqa: D102
        return [self] if arranger.rows_are_alike(self.source) else arranger.behind_copy(self)

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        return [writer.rows(f"reduce_{self.function}", self.source, writer.output(self).reshape(-1, 1))]


def loop(function: str, write: Writer, dialect: RowLoops) -> None:
    """Write the loop of a reduction."""
    with dialect.rows(write) as (source, to):
        gathered = "sum" if function == "mean" else function
        dialect.gather(write, "total", gathered)
        for element in dialect.elements(write):
            numbers, total = element.numbers, f"total{element.suffix}"
            number = numbers.load(source, element.here)
            combined = {"amax": numbers.larger, "amin": numbers.smaller}
            write(
                f"{total} = {combined[function](total, number)};" if function in combined else f"{total} += {number};"
            )
        dialect.gathered(write, "total")
        write(dialect.store(to, "0", f"total / {dialect.count}" if function == "mean" else "total"))
