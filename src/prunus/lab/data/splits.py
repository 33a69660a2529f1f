"""Fixed splits: the same on every machine, in every version of torch and numpy."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def hold_out(labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Divide indices into those that stay and `size` of them held out, each class in its share.

    The indices are ordered by class, and within a class by the sha256 of the index, which is as good as a random
    order and depends on no random number generator. From this row every (n / size)-th is held out, so a class
    gives the number its share comes to, rounded up or down, and the total is exact.

    Args:
        labels: int64, shape (n,).
        size: how many to hold out, from 0 to n.

    Returns:
        The indices that stay, shape (n - size,), and those held out, shape (size,), each in rising order.

    Raises:
        ValueError: there are not that many.
    """
    count = len(labels)
    if not 0 <= size <= count:
        raise ValueError(f"size must be from 0 to {count}, the number of labels, got {size}")
    classes = labels.tolist()
    row = sorted(range(count), key=lambda index: (classes[index], _digest(index)))
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[[row[(2 * place + 1) * count // (2 * size)] for place in range(size)]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def _digest(index: int) -> bytes:
    return hashlib.sha256(str(index).encode()).digest()
