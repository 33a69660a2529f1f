"""Products of two tensors as letters of their dimensions, and whether anything at all goes into a sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from prunus.graph.letters import einsum_terms, matmul_letters, row_letters
from prunus.graph.operations import Family
from prunus.shrinking.finding.operation import Operation, rank_of


@dataclass(frozen=True, eq=False)
class Contraction:
    """A sum of products of two tensors, as `torch.einsum` writes it.

    Attributes:
        factors: the two tensors, each with a letter for each of its dimensions.
        out: the letters of the result.
        bias: what is added, its last dimensions beside those of the result.
        scale: by how much the product is multiplied.
        bias_scale: by how much what is added is.
    """

    factors: tuple[tuple[fx.Node, str], tuple[fx.Node, str]]
    out: str
    bias: fx.Node | None = None
    scale: float = 1.0
    bias_scale: float = 1.0

    @property
    def summed(self) -> list[str]:
        """The letters that are summed over, in the order in which the factors have them."""
        return [letter for letter in dict.fromkeys("".join(own for _, own in self.factors)) if letter not in self.out]


def contraction_of(operation: Operation) -> Contraction | None:
    """Return an operation as a product of two tensors; None where it is none."""
    if operation.family is Family.LINEAR:
        rows = row_letters(rank_of(operation["input"]) - 1)
        factors = ((operation["input"], f"{rows}i"), (operation["weight"], "oi"))
        return Contraction(factors, f"{rows}o", operation["bias"])
    if operation.family is Family.MATMUL:
        first, second = operation.node.args[:2]
        return _matmul(first, second)
    if operation.family is Family.ADDMM and operation.name != "addbmm":
        bias, first, second = operation.node.args[:3]
        product = _matmul(first, second)
        scales = float(operation.get("alpha", 1)), float(operation.get("beta", 1))
        added = bias if isinstance(bias, fx.Node) else None
        return None if product is None else Contraction(product.factors, product.out, added, *scales)
    if operation.family is Family.EINSUM:
        tensors = list(operation["tensors"])
        terms = einsum_terms(operation["equation"], [rank_of(tensor) for tensor in tensors])
        if terms is not None:
            (left, right), out = terms
            return Contraction(((tensors[0], left), (tensors[1], right)), out)
    return None


def _matmul(first: object, second: object) -> Contraction | None:
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return None
    left, right, out = matmul_letters(rank_of(first), rank_of(second))
    return Contraction(((first, left), (second, right)), out)


def meets(first: Tensor, left: str, second: Tensor, right: str, out: str) -> Tensor:
    """Return which sums of products have a term where both are true: einsum over bools, sizes of 1 standing for any."""
    if bool(first.all()):
        return reduced(second, right, out)
    return torch.einsum(f"{left},{right}->{out}", first.float(), second.float()) > 0


def reduced(mask: Tensor, letters: str, out: str) -> Tensor:
    """Return whether any element is true along the letters that a result has not; its other dimensions get size 1."""
    own = [letter for letter in letters if letter in out]
    over = [place for place, letter in enumerate(letters) if letter not in out]
    mask = mask.any(over) if over else mask
    mask = mask.permute([own.index(letter) for letter in out if letter in own])
    return mask.reshape([mask.shape[_place(out, letter, own)] if letter in own else 1 for letter in out])


def _place(out: str, letter: str, own: list[str]) -> int:
    return [other for other in out if other in own].index(letter)
