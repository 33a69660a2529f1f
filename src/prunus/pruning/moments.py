"""Second moments of a layer's inputs, X^T X: what least squares and optimal brain surgeon need to know of the data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Rows longer than this are taken in parts, between which no moments are kept: 170 MB in float64.
MOST_INPUTS = 4608


class Moments:
    """Sums over rows of inputs, in float64: of the rows, and of the products of each two of their elements.

    Products of float32 are summed in float32 within a piece, and over the pieces in float64.

    Attributes:
        count: the number of rows so far.
        sums: the sum of the rows, (groups, inputs).
        gram: the sum of row^T row, (groups, inputs, inputs).
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums = torch.zeros(())
        self.gram = torch.zeros(())

    def add(self, pieces: Iterable[Tensor]) -> None:
        """Add rows, (groups, rows, inputs) at a time."""
        for piece in pieces:
            rows = piece.to(torch.promote_types(piece.dtype, torch.float32))
            gram, sums = (rows.transpose(1, 2) @ rows).double(), rows.sum(1, dtype=torch.float64)
            self.gram = gram if self.count == 0 else self.gram + gram
            self.sums = sums if self.count == 0 else self.sums + sums
            self.count += rows.shape[1]

    def centred(self) -> Tensor:
        """Return the Gram matrices of the rows less their mean: what is left for the weights beside a free bias."""
        return self.gram - self.sums.unsqueeze(2) * self.sums.unsqueeze(1) / self.count


def damped(gram: Tensor, strength: float) -> Tensor:
    """Return Gram matrices with a share of their mean diagonal added to the diagonal; 1 where that is zero."""
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)
    ridge = torch.where(mean > 0, mean * strength, 1.0)
    return gram + torch.diag_embed(ridge.unsqueeze(1).expand(gram.shape[:2]))


def inverse_diagonal(gram: Tensor) -> Tensor:
    """Return the diagonals of the inverses of positive definite matrices, (groups, inputs); NaN if not finite."""
    if not bool(gram.isfinite().all()):
        return torch.full(gram.shape[:2], torch.nan, dtype=gram.dtype, device=gram.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return inverse.diagonal(dim1=-2, dim2=-1)
