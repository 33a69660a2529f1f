"""Outputs of two models held against each other on random inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from prunus.forward import undisturbed

# The largest difference, relative to the largest output, that another order of summing may make.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def random_like(args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return inputs like the example's: normal numbers for floating point, the example's own values for all else."""
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device, value.dtype)

    return tuple(drawn(value) for value in args), {name: drawn(value) for name, value in kwargs.items()}


def outputs(model: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> list[Tensor]:
    """Return all tensors of a model's output, in eval mode; the model is left as it was."""
    with undisturbed(model), torch.no_grad(), _fused_attention_off():
        found: Any = model(*args, **kwargs)
    return [leaf for leaf in _leaves(found) if isinstance(leaf, Tensor)]


def difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """Return the largest difference relative to the largest expected value; infinity where shapes differ."""
    if [value.shape for value in expected] != [value.shape for value in found]:
        return float("inf")
    worst = 0.0
    for one, other in zip(expected, found, strict=True):
        wide, near = one.double().cpu(), other.double().cpu()
        same = (wide == near) | (wide.isnan() & near.isnan())
        if bool(same.all()):
            continue
        scale = float(wide[wide.isfinite()].abs().amax()) if bool(wide.isfinite().any()) else 1.0
        apart = float((wide - near).abs()[~same].amax()) / max(scale, 1e-30)
        worst = max(worst, apart if apart == apart else float("inf"))
    return worst


def tolerance(values: list[Tensor]) -> float:
    """Return the difference that rounding may make in outputs of these dtypes."""
    return max((TOLERANCES[value.dtype] for value in values if value.dtype in TOLERANCES), default=0.0)


def _leaves(tree: Any) -> list[Any]:
    leaves = _pytree.tree_leaves(tree)
    if len(leaves) == 1 and isinstance(leaves[0], Mapping):
        return _pytree.tree_leaves(dict(leaves[0]))
    return leaves


@contextlib.contextmanager
def _fused_attention_off() -> Iterator[None]:
    """Run torch's transformer layers operation by operation, as they are traced."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
