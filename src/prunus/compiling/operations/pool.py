"""Maxima and averages over windows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunus.compiling.loops import WindowLoops
from prunus.compiling.net import Operation, View, Windows, require

if TYPE_CHECKING:
    from prunus.compiling.arranging import Arranger
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant
    from prunus.compiling.kernels.writing import Writer

# "max_bytes": of four whole numbers of 8 bits each by themselves, see `operations.quantized`.
FUNCTIONS = ("max", "avg", "max_bytes")


@dataclass(frozen=True, eq=False)
class Pool(Operation):
    """Maximum or average over windows of a (channels, height, width) view."""

    function: str
    source: View
    rows: Windows
    columns: Windows

    @property
    def computes_in_words(self) -> bool:  # noqa: D102
        return self.function == "max_bytes"

    def check(self) -> None:  # noqa: D102
        shape = self.source.index.shape
        require(len(shape) == 3 and self.function in FUNCTIONS, f"{self.name!r:.40}: pool")
        require(self.box == (shape[0], len(self.rows.start), len(self.columns.start)), f"{self.name!r:.40}: box")
        self.rows.check(shape[1], self.name)
        self.columns.check(shape[2], self.name)

    def describe(self) -> str:  # noqa: D102
        return f"{self.function} over windows"

    def arranged(self, arranger: Arranger) -> list[Operation]:  # noqa: D102
        return [self] if arranger.is_regular(self.source) else arranger.behind_copy(self)

    def filling(self, fillings: Mapping[int, float]) -> float:  # noqa: D102
        return fillings.get(self.source.value, 0.0)

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        return [writer.pool(self)]


def loop(function: str, write: Writer, dialect: WindowLoops) -> None:
    """Write the loop of a pooling."""
    with dialect.outputs(write) as (to, corner):
        write(f"{dialect.type} pooled = {dialect.constant(-math.inf if function == 'max' else 0.0)};")
        with dialect.window(write) as place:
            number = dialect.load(corner, place)
            write(f"pooled += {number};" if function == "avg" else f"pooled = {dialect.larger('pooled', number)};")
        write(dialect.store(to, "0", f"pooled / {dialect.area}" if function == "avg" else "pooled"))
