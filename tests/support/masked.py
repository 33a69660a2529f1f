"""Models with zeros in them, and what a smaller model's outputs are held against."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.graph import ExampleInputs
from prunus.graph.coupling import Coupling


def cast(inputs: ExampleInputs, dtype: torch.dtype) -> ExampleInputs:
    """Return inputs with their floats in another dtype."""
    if isinstance(inputs, dict):
        return {name: _cast(value, dtype) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_cast(value, dtype) for value in inputs)
    assert isinstance(inputs, Tensor)
    return _cast(inputs, dtype)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


@torch.no_grad()
def outputs(model: nn.Module, inputs: ExampleInputs) -> list[Tensor]:
    """Return all tensors that a model in eval mode returns."""
    with separate_attention():
        if isinstance(inputs, dict):
            found = model(**inputs)
        else:
            found = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    leaves = pytree.tree_leaves(dict(found) if hasattr(found, "items") else found)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@contextlib.contextmanager
def separate_attention() -> Iterator[None]:
    """Keep attention layers from their fused operation, whose rounding is its own."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def apart(expected: list[Tensor], found: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest expected output."""
    assert [value.shape for value in expected] == [value.shape for value in found]
    assert all(value.dtype == other.dtype for value, other in zip(expected, found, strict=True))
    largest = max(float(value.abs().max()) for value in expected)
    worst = max(float((one - other).abs().max()) for one, other in zip(expected, found, strict=True))
    return worst / max(largest, 1e-30)


def num_parameters(model: nn.Module) -> int:
    """Count a model's parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def zero_at_random(model: nn.Module, sparsity: float, generator: torch.Generator) -> None:
    """Set this share of each weight of two dimensions or more to zero; biases and norms stay."""
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter[torch.rand(parameter.shape, generator=generator) < sparsity] = 0


@torch.no_grad()
def zero_everywhere(model: nn.Module, generator: torch.Generator) -> None:
    """Set rows and columns of weights, scales and shifts of norms, biases and factors to zero at random."""

    def chance(share: float, size: int) -> Tensor:
        return torch.rand(size, generator=generator) < share

    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter[chance(0.3 if "bias" in name else 0.5, len(parameter))] = 0
        elif parameter.dim() >= 2:
            parameter[chance(0.35, parameter.shape[0])] = 0
            parameter[:, chance(0.2, parameter.shape[1])] = 0


@torch.no_grad()
def kill_channels(coupling: Coupling, sparsity: float, generator: torch.Generator) -> Tensor:
    """Kill this share of the channels that may go, one half by what they feed, one half by what makes them.

    Of the latter, every other one loses its bias too; the biases of the others are left for shrink to fold.

    Channels that grouped convolutions make or take are left alone.

    Returns:
        Which classes were killed, bool per class.
    """
    grouped = torch.zeros(coupling.num_classes, dtype=torch.bool)
    for use in coupling.uses:
        for atoms in (use.inputs, use.outputs):
            if use.groups > 1 and atoms is not None:
                grouped[coupling.class_of[atoms]] = True
    chosen = ~grouped & coupling.removable
    chosen &= torch.rand(coupling.num_classes, generator=generator) < sparsity
    by_source = torch.rand(coupling.num_classes, generator=generator) < 0.5
    without_bias = by_source & (torch.rand(coupling.num_classes, generator=generator) < 0.5)
    for use in coupling.uses:
        if use.groups > 1:
            continue
        weight = coupling.graph.tensor(use.weight.name)
        ids = use.weight.indices().movedim(use.order, (0, 1))
        if use.inputs is not None:
            dead = (chosen & ~by_source)[coupling.class_of[use.inputs]]
            weight.view(-1)[ids[:, dead].reshape(-1)] = 0
        if use.outputs is not None:
            dead = (chosen & by_source)[coupling.class_of[use.outputs]]
            weight.view(-1)[ids[dead].reshape(-1)] = 0
            if use.bias is not None:
                gone = (chosen & without_bias)[coupling.class_of[use.outputs]]
                coupling.graph.tensor(use.bias.name).view(-1)[use.bias.indices().reshape(-1)[gone]] = 0
    return chosen
