"""A used weight as a matrix of outputs and inputs: which of them reach each other."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.graph.coupling import Coupling, Use


def nonzero(coupling: Coupling, use: Use) -> Tensor:
    """Return which entries of a used weight are not zero, bool of (outputs, inputs) as the weight has them.

    A kernel counts as not zero if any of its weights is. With groups, the weight of a convolution has the inputs of one
    group, that of a transposed one the outputs of one group.
    """
    weight = matrix(coupling, use)
    return (weight != 0).flatten(2).any(2) if weight.ndim > 2 else weight != 0


def matrix(coupling: Coupling, use: Use) -> Tensor:
    """Return a used weight with its outputs first, its inputs second, and everything else behind."""
    weight = coupling.graph.tensor(use.weight.name).detach()
    if use.weight.ids is not None:
        weight = weight.reshape(-1)[use.weight.ids.to(weight.device)]
    return weight.movedim(use.order, (0, 1)).cpu()


def num_outputs(use: Use, carries: Tensor) -> int:
    """Return how many outputs a used weight has in all its groups."""
    return carries.shape[0] * (use.groups if use.order == (1, 0) else 1)


def num_inputs(use: Use, carries: Tensor) -> int:
    """Return how many inputs a used weight has in all its groups."""
    return carries.shape[1] * (use.groups if use.order == (0, 1) else 1)


def consumed(use: Use, carries: Tensor, outputs: Tensor) -> Tensor:
    """Return which inputs reach one of some outputs, bool per input.

    Args:
        use: the weight.
        carries: its non-zero entries, from `nonzero`.
        outputs: which outputs to reach, bool per output.
    """
    if use.groups == 1:
        return carries[outputs].any(0)
    by_group = outputs.reshape(use.groups, -1)
    if use.order == (1, 0):  # a transposed convolution: (outputs of a group, inputs)
        spread = by_group.repeat_interleave(carries.shape[1] // use.groups, 0).T
        return (carries & spread).any(0)
    entries = carries.reshape(use.groups, -1, carries.shape[1])
    return (entries & by_group[:, :, None]).any(1).flatten()


def produced(use: Use, carries: Tensor, inputs: Tensor) -> Tensor:
    """Return which outputs depend on one of some inputs, bool per output; arguments as in `consumed`."""
    if use.groups == 1:
        return carries[:, inputs].any(1)
    by_group = inputs.reshape(use.groups, -1)
    if use.order == (1, 0):
        entries = carries.reshape(carries.shape[0], use.groups, -1)
        return (entries & by_group).any(2).T.flatten()
    spread = by_group.repeat_interleave(carries.shape[0] // use.groups, 0)
    return (carries & spread).any(1)


def applied(use: Use, weight: Tensor, values: Tensor) -> Tensor:
    """Return weight times values, with groups: one number an output.

    Args:
        use: the weight.
        weight: its entries, summed over the kernel: (outputs, inputs) as the weight has them.
        values: one an input.
    """
    if use.groups == 1:
        return weight @ values
    by_group = values.reshape(use.groups, -1)
    if use.order == (1, 0):
        return torch.einsum("ogi,gi->go", weight.reshape(weight.shape[0], use.groups, -1), by_group).flatten()
    return torch.einsum("goi,gi->go", weight.reshape(use.groups, -1, weight.shape[1]), by_group).flatten()
