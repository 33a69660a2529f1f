"""A partition of atoms into classes that grow together: union-find over arrays."""

from __future__ import annotations

import torch
from torch import Tensor


class Partition:
    """Disjoint classes of the integers 0 to `len`; a class is named by its smallest member.

    >>> partition = Partition()
    >>> first = partition.add(4)
    >>> partition.union(torch.tensor([0, 1]), torch.tensor([2, 2]))
    >>> partition.find(torch.arange(4)).tolist()
    [0, 0, 0, 3]
    """

    def __init__(self) -> None:
        self._parent = torch.arange(1024)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, count: int) -> int:
        """Add so many atoms, each a class of its own, and return the first of them."""
        first, self._size = self._size, self._size + count
        if self._size > len(self._parent):
            more = torch.arange(len(self._parent), max(2 * len(self._parent), self._size))
            self._parent = torch.cat([self._parent, more])
        return first

    def find(self, atoms: Tensor) -> Tensor:
        """Return the class of each atom, int64, of the same shape."""
        flat = atoms.reshape(-1)
        parent = self._parent[flat]
        while True:
            above = self._parent[parent]
            if torch.equal(above, parent):
                return parent.reshape(atoms.shape)
            self._parent[flat] = above  # halves the way for the next one
            parent = above

    def union(self, first: Tensor, second: Tensor) -> None:
        """Join the classes of each pair of atoms."""
        first, second = self.find(first.reshape(-1)), self.find(second.reshape(-1))
        while True:
            apart = first != second
            first, second = first[apart], second[apart]
            if not len(first):
                return
            # Where one class hangs below several others, one of them wins; the next round joins the rest.
            self._parent[torch.maximum(first, second)] = torch.minimum(first, second)
            first, second = self.find(first), self.find(second)
