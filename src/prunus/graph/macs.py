"""Multiply-adds: which operations have some, and how many, told by the shapes of what they read and give.

One MAC is one multiplication and one addition in a sum of products: matrix products, convolutions, recurrent layers
and attention have them. Everything else has none by this definition, even where it multiplies:
element-wise operations, reductions, softmax, norms, pooling, resampling, look-ups and moving data. The table of
operations says which is which. An operation of which neither is known is unknown, and whoever counts must say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from prunus.graph.calls import bound_arguments
from prunus.graph.letters import letter_sizes, matmul_letters, row_letters
from prunus.graph.operations import AtenOperation, Family, find


@dataclass(frozen=True)
class CountedProduct:
    """Multiply-adds of one operation; `weights` are the operands that may be a weight, the likeliest first."""

    macs: int
    weights: tuple[Tensor, ...] = ()


# (arguments by name, output) -> products
Formula: TypeAlias = Callable[[Mapping[str, Any], Any], list[CountedProduct]]


def products(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
) -> list[CountedProduct] | None:
    """Return the products an operation computed, an empty list if it has none, None if that is not known.

    An operation that is not known here may be in PyTorch's registry of FLOP formulas, to which
    `torch.utils.flop_counter.register_flop_formula` adds custom ones; its weights are not known then.

    Args:
        operation: the `torch._ops.OpOverload` that was called.
        args: its positional arguments.
        kwargs: its keyword arguments.
        output: what it returned.
    """
    row = find(operation)
    if formula := formula_of(row):
        return formula(bound_arguments(operation, args, kwargs), output)
    if operation.overloadpacket in flop_registry:
        return [CountedProduct(flop_registry[operation.overloadpacket](*args, **kwargs, out_val=output) // 2)]
    return [] if row.macs == "none" or _is_plain(operation) else None


def formula_of(operation: AtenOperation) -> Formula | None:
    """Return what counts an operation; None where it has no products, is made of others that have, or is unknown."""
    if operation.name.startswith("_scaled_dot_product_"):
        return _attention
    return _FORMULAS.get(operation.family) or _DISPATCHED.get(operation.name)


def _is_plain(operation: Any) -> bool:
    """Tell whether PyTorch says of an operation that it treats elements one by one, or only moves them."""
    namespace, _, name = operation._schema.name.partition("::")
    tagged = torch.Tag.pointwise in operation.tags or operation.is_view or name.endswith("_copy")
    return namespace in ("aten", "prim", "prims") and tagged


def contraction_macs(*factors: tuple[Sequence[int], str]) -> int:
    """Return the multiply-adds of a sum of products of tensors with these shapes and a letter for each dimension."""
    return math.prod(letter_sizes(factors).values())


def convolution_macs(inputs: torch.Size, weight: torch.Size, outputs: torch.Size, transposed: bool) -> int:
    """Return the multiply-adds of a convolution, padding counted as any position.

    A weight is used once for each position of the output, of a transposed convolution for each of the input.
    """
    samples = inputs[0] if len(inputs) == len(weight) else 1
    positions = (inputs if transposed else outputs)[2 - len(weight) :]
    return samples * positions.numel() * weight.numel()


def _matrices(first: int) -> Formula:
    def formula(arguments: Mapping[str, Any], output: Any) -> list[CountedProduct]:
        left, right = list(arguments.values())[first : first + 2]
        letters = matmul_letters(left.ndim, right.ndim)
        # In `x @ w.t()`, as a Linear computes it, the weight is on the right.
        return [CountedProduct(contraction_macs((left.shape, letters[0]), (right.shape, letters[1])), (right, left))]

    return formula


def _convolution(arguments: Mapping[str, Any], output: Any) -> list[CountedProduct]:
    inputs, weight, transposed = (arguments[name] for name in ("input", "weight", "transposed"))
    return [CountedProduct(convolution_macs(inputs.shape, weight.shape, output.shape, transposed), (weight,))]


def _attention(arguments: Mapping[str, Any], output: Any) -> list[CountedProduct]:
    query, key, value = list(arguments.values())[:3]
    lead = row_letters(query.ndim - 2)
    scores = contraction_macs((query.shape, f"{lead}td"), (key.shape[-2:], "sd"))
    return [CountedProduct(scores + contraction_macs((query.shape[:-1], f"{lead}t"), (value.shape[-2:], "se")))]


def _recurrent(weights: Callable[[Sequence[Any]], Sequence[Tensor]]) -> Formula:
    def formula(arguments: Mapping[str, Any], output: Any) -> list[CountedProduct]:
        inputs, *others = arguments.values()
        steps = inputs.shape[:-1].numel()  # time steps of all samples; packed sequences have no padding
        return [CountedProduct(steps * weight.numel(), (weight,)) for weight in weights(others) if weight.ndim == 2]

    return formula


# Operations that PyTorch's dispatcher calls: all others of these families are made of them.
_FORMULAS: dict[Family, Formula] = {
    Family.MATMUL: _matrices(0),
    Family.ADDMM: _matrices(1),
    Family.CONVOLUTION: _convolution,
    Family.ATTENTION: _attention,
}
_DISPATCHED: dict[str, Formula] = {
    **dict.fromkeys(("vdot", "_int_mm", "_scaled_mm"), _matrices(0)),
    "_addmm_activation": _matrices(1),
    "mkldnn_rnn_layer": _recurrent(lambda others: others[:2]),
    **dict.fromkeys(("_cudnn_rnn", "miopen_rnn"), _recurrent(lambda others: others[0])),
}
