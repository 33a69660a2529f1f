"""The table of operations: one row for each operation of ATen, with all that prunus knows of it.

Rules are code and lie where they are used: of coupling in `graph.coupling`, of constants and needs in `shrinking`, of
rewriting in `graph.rewriting`, of compiling in `compiling`. They are entered by family and found through the row. What
PyTorch itself says of an operation (its overloads, what it writes to, what shares memory, whether it draws random
numbers) is asked of PyTorch. To follow a new operation, give it a row in the family whose rules it keeps; the tests try
what the row claims.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from prunus.graph.operations import elementwise, making, moving, others, products, reducing
from prunus.graph.operations.row import PRODUCTS, AtenOperation, Family, Trait, base_name

__all__ = ["OPERATIONS", "PRODUCTS", "AtenOperation", "Family", "Trait", "base_name", "find"]

_ROWS = (*elementwise.ROWS, *moving.ROWS, *reducing.ROWS, *products.ROWS, *making.ROWS, *others.ROWS)

# Name -> row.
OPERATIONS: Mapping[str, AtenOperation] = MappingProxyType({row.name: row for row in _ROWS})
assert len(OPERATIONS) == len(_ROWS), "an operation has two rows"

# Overloads that do something else than the others of their name: reading the bits as another dtype.
_APART = frozenset({"aten.view.dtype"})


@functools.cache
def find(target: Any) -> AtenOperation:
    """Return the row of what a node of a graph calls.

    What is no operation of ATen's, or has no row, gets one of the family OTHER, of unknown multiply-adds.

    >>> find(torch.ops.aten.relu_.default).name
    'relu'
    """
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten" or str(target) in _APART:
        return AtenOperation(str(target), Family.OTHER, Trait.NOT_IN_FILES, macs="unknown")
    name = base_name(target._schema.name.removeprefix("aten::"))
    return OPERATIONS.get(name) or AtenOperation(name, Family.OTHER, Trait.NOT_IN_FILES, macs="unknown")
