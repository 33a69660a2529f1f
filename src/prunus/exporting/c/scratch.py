"""Static arrays in which a layer notes where the weights of one output read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Scratch:
    """What the static arrays for the places of one output's weights must hold, over all layers.

    Attributes:
        offsets: how many places.
        padded: how many of them with a row and a column of the kernel each.
        farthest: the largest place.
        kernel: the most rows or columns of a kernel.
    """

    offsets: int = 0
    padded: int = 0
    farthest: int = 0
    kernel: int = 0

    def hold(self, weights: int, farthest: int, kernel: int | None) -> None:
        """Make room for an output of so many weights; `kernel` is None where windows don't reach over the edge."""
        self.offsets = max(self.offsets, weights)
        self.farthest = max(self.farthest, farthest)
        if kernel is not None:
            self.padded = max(self.padded, weights)
            self.kernel = max(self.kernel, kernel)

    @property
    def bytes(self) -> int:
        """What they take."""
        return self.offsets * _bytes(self.farthest) + 2 * self.padded * _bytes(self.kernel)

    def text(self) -> str:
        """Return their definitions."""
        lines = [f"static {_type(self.farthest)} offsets[{self.offsets}];"] if self.offsets else []
        if self.padded:
            lines.append(f"static {_type(self.kernel)} rows[{self.padded}], columns[{self.padded}];")
        comment = "/* For one output of a layer: what each of its weights reads, from the corner of a window. */"
        return "\n".join([comment, *lines, ""]) if lines else ""


def _bytes(most: int) -> int:
    return 1 if most < 2**8 else 2 if most < 2**16 else 4


def _type(most: int) -> str:
    return f"uint{8 * _bytes(most)}_t"
