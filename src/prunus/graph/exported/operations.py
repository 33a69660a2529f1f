"""What the graph in a file may call: these operations and no others.

Each is a function of its arguments alone (those with a trailing underscore, and the statistics of norms, write into
a tensor of the graph) and reaches nothing outside: no files, no memory that is not initialised, no views past a
tensor's end. What a file names is looked up here before it is looked up anywhere else. Some do so only with the
constants that `limits` lets through where a document is read, and the shapes and values that `guards` lets through when
they run. The table of operations (`graph.operations`) says which; `bench/hostile_operations.py` tries them all, so
an operation that is let into files there is tried.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch

from prunus.graph.operations import OPERATIONS

# Overloads of torch.ops.aten, as ``name.overload``.
ATEN = frozenset(overload for operation in OPERATIONS.values() for overload in operation.files)

# What is computed on sizes: numbers in, a number out.
NUMBERS: MappingProxyType[str, Callable[..., Any]] = MappingProxyType(
    {
        "add": operator.add,
        "sub": operator.sub,
        "mul": operator.mul,
        "truediv": operator.truediv,
        "floordiv": operator.floordiv,
        "mod": operator.mod,
        "neg": operator.neg,
        "pos": operator.pos,
        "abs": operator.abs,
        "eq": operator.eq,
        "ne": operator.ne,
        "lt": operator.lt,
        "le": operator.le,
        "gt": operator.gt,
        "ge": operator.ge,
        "and": operator.and_,
        "or": operator.or_,
        "sym_float": torch.sym_float,
        "sym_int": torch.sym_int,
        "sym_max": torch.sym_max,
        "sym_min": torch.sym_min,
        "sym_not": torch.sym_not,
        "ceil": math.ceil,
        "floor": math.floor,
        "trunc": math.trunc,
        "round": round,
    }
)
# How many numbers each takes; two, where it isn't listed.
_UNARY = frozenset({"neg", "pos", "abs", "sym_float", "sym_int", "sym_not", "ceil", "floor", "trunc", "round"})


def num_operands(name: str) -> int:
    """Return how many numbers one of `NUMBERS` takes."""
    return 1 if name in _UNARY else 2


def overload(name: str) -> torch._ops.OpOverload | None:
    """Return the operation that one of `ATEN` names; None where this version of PyTorch has none."""
    if name not in ATEN:
        raise KeyError(name)
    packet, _, kind = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet, None), kind, None)
    return operation if isinstance(operation, torch._ops.OpOverload) else None
