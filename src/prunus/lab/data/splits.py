"""Fixed splits: the same on every machine and for every version of torch and numpy."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def hold_out(labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Split indices into those that stay and `size` that are held out, in proportion from each class.

    The indices are ordered by class, and within a class by the SHA-256 of the index, which is as good as a random
    order and needs no random number generator. Every (n / size)-th of them is held out, so the number from each class
    is its share, rounded up or down, and the total is exact.

    Args:
        labels: int64, shape (n,).
        size: the number of indices to hold out, from 0 to n.

    Returns:
        The indices that stay, shape (n - size,), and those held out, shape (size,), each in rising order.

    Raises:
        ValueError: size is not from 0 to n.
    """
    count = len(labels)
    if not 0 <= size <= count:
        raise ValueError(f"size must be from 0 to {count}, the number of labels, got {size}")
    classes = labels.tolist()
    order = sorted(range(count), key=lambda index: (classes[index], _digest(index)))
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[[order[(2 * place + 1) * count // (2 * size)] for place in range(size)]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def _digest(index: int) -> bytes:
    return hashlib.sha256(str(index).encode()).digest()
