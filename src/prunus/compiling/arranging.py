"""Copies in front of operations that can't read their sources where those lie."""

from __future__ import annotations

import abc
from dataclasses import replace
from typing import TYPE_CHECKING

from prunus.compiling.net import Box, Net, Operation, View, box_of, whole

if TYPE_CHECKING:
    from prunus.compiling.operations import Contract, Join, Normalize, Pool, Reduce


class Arranger(abc.ABC):
    """Puts copies in front of operations; a subclass knows how values lie in memory.

    Args:
        net: what is arranged.
    """

    def __init__(self, net: Net) -> None:
        self.boxes: dict[int, Box] = dict(net.boxes)
        self._net = net
        self._next = max(self.boxes) + 1
        self.fillings: dict[int, float] = {}  # what has to lie around the rows of values
        for operation in net.operations:
            self.fillings[operation.output] = operation.filling(self.fillings)

    def arranged(self) -> Net:
        """Return the net with the copies that its operations need."""
        operations = [piece for operation in self._net.operations for piece in operation.arranged(self)]
        return replace(self._net, operations=tuple(operations), boxes=self.boxes)

    @abc.abstractmethod
    def rows_are_alike(self, view: View) -> bool:
        """Tell whether the elements of each row of (rows, elements) lie alike, counted from the row's first."""

    @abc.abstractmethod
    def is_regular(self, view: View) -> bool:
        """Tell whether rows and columns of a (channels, rows, columns) view are equal steps in memory."""

    @abc.abstractmethod
    def contraction(self, contract: Contract) -> list[Operation]:
        """Return a contraction behind the copies that it needs."""

    def behind_copy(self, operation: Reduce | Normalize | Pool) -> list[Operation]:
        """Return a copy of what an operation reads, and the operation reading it."""
        source = operation.source
        copy = self.copy(operation.name, View(source.value, source.index.reshape(box_of(source.index.shape))))
        again = View(copy.output, whole(copy.output, copy.box).index.reshape(source.index.shape))
        return [copy, replace(operation, source=again)]

    def copy(self, name: str, source: View) -> Join:
        """Return a copy of a view in an order of its own."""
        from prunus.compiling.operations.join import Join

        box: Box = source.index.shape
        number = self.new(box)
        self.fillings[number] = self.fillings.get(source.value, 0.0)
        return Join(f"{name} (copy)", number, box, ((source, whole(number, box).index),))

    def new(self, box: Box) -> int:
        """Return the number of a new value."""
        self.boxes[self._next] = box
        self._next += 1
        return self._next - 1
