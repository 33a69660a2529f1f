"""Copies of values and constants beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from prunus.compiling.net import Indices, Numbers, Operation, View, require

if TYPE_CHECKING:
    from prunus.compiling.kernels.calls import Call, CallWriter
    from prunus.compiling.kernels.variants import Variant


@dataclass(frozen=True, eq=False)
class Join(Operation):
    """Copies of views and constants beside each other.

    Attributes:
        pieces: (what, where in the output's box): arrays of one shape each.
    """

    pieces: tuple[tuple[View | Numbers, Indices], ...]

    @property
    def views(self) -> list[View]:  # noqa: D102
        return [piece for piece, _ in self.pieces if isinstance(piece, View)]

    def check(self) -> None:  # noqa: D102
        size = math.prod(self.box)
        for piece, places in self.pieces:
            shape = piece.index.shape if isinstance(piece, View) else piece.shape
            whole = isinstance(places, numpy.ndarray) and places.dtype == numpy.int64 and shape == places.shape
            inside = whole and (places.size == 0 or (int(places.min()) >= 0 and int(places.max()) < size))
            require(inside, f"{self.name!r:.40}: a piece lies outside")

    def describe(self) -> str:  # noqa: D102
        return "copies, put together"

    def filling(self, fillings: Mapping[int, float]) -> float:  # noqa: D102
        return next((fillings.get(view.value, 0.0) for view in self.views), 0.0)

    def calls(self, writer: CallWriter, variant: Variant | None = None) -> list[Call]:  # noqa: D102
        places = writer.output(self).reshape(-1)
        return [writer.tape(places[where], [piece], []) for piece, where in self.pieces if where.size]
