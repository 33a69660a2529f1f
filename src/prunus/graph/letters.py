"""Sums of products as einsum writes them: a letter for each dimension, the same one for what is multiplied."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence


def row_letters(count: int) -> str:
    """Return so many letters, of dimensions that lead."""
    return string.ascii_uppercase[:count]


def matmul_letters(left: int, right: int) -> tuple[str, str, str]:
    """Return the letters of two matrices or stacks of them, as matmul takes them."""
    rank = max(left, right, 2) - 2
    batch = row_letters(rank)
    rows = "t" if left > 1 else ""
    columns = "u" if right > 1 else ""
    first = batch[rank - max(left - 2, 0) :] + rows + "s"
    second = batch[rank - max(right - 2, 0) :] + "s" + columns
    return first, second, batch + rows + columns


def einsum_terms(equation: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """Return a letter for each dimension of the two factors of an einsum, and those of its result.

    None where there are not two factors, or where one has a letter twice.
    """
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != 2 or any(len(set(term.replace("...", ""))) != len(term.replace("...", "")) for term in terms):
        return None
    if not arrow:
        written = inputs.replace("...", "").replace(",", "")
        out = ("..." if "..." in inputs else "") + "".join(sorted(x for x in written if written.count(x) == 1))
    spare = [letter for letter in string.ascii_letters if letter not in equation]
    own = [rank - len(term.replace("...", "")) for rank, term in zip(ranks, terms, strict=True)]
    most = max(own)
    expanded = [
        term.replace("...", "".join(spare[most - count : most])) for term, count in zip(terms, own, strict=True)
    ]
    return expanded, out.replace("...", "".join(spare[:most]))


def letter_sizes(factors: Iterable[tuple[Sequence[int], str]]) -> dict[str, int]:
    """Return how many indices each letter has; a size of 1 broadcasts.

    >>> letter_sizes([((5, 3), "ti"), ((4, 3), "oi")])
    {'t': 5, 'i': 3, 'o': 4}
    """
    sizes: dict[str, int] = {}
    for shape, letters in factors:
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = size if sizes.get(letter, 1) == 1 else sizes[letter]
    return sizes
