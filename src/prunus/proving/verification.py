"""Outputs of two models held against each other on random inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from prunus.forward import devices_of, undisturbed
from prunus.graph.tracing import fused_attention_off

# The largest difference, relative to the largest output, that another order of summing may make.
TOLERANCES = {
    torch.float64: 1e-10,
    torch.complex128: 1e-10,
    torch.float32: 1e-5,
    torch.complex64: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


# The least that outputs in 8 bits may be apart, of their mean square, and how many times what rounding itself costs.
# And the most, whatever that costs: outputs of nothing but zeros are apart by 1.
_LEAST_LIMIT, _ROUNDINGS, _MOST_LIMIT = 1e-4, 2.0, 0.1


def random_like(args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return inputs like the example's: normal numbers, real or complex, and the example's own values for all else."""
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Tensor) -> Tensor:
        if not (value.is_floating_point() or value.is_complex()):
            return value
        return normal(value.shape, generator, value)

    return tuple(drawn(value) for value in args), {name: drawn(value) for name, value in kwargs.items()}


def normal(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Return normal numbers of a shape, of the dtype and on the device of a tensor."""
    wide = torch.complex128 if like.is_complex() else torch.float64
    return torch.randn(tuple(shape), generator=generator, dtype=wide).to(like.device, like.dtype)


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor in double precision, complex where it is complex."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def outputs(model: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor | bool | int]) -> list[Tensor]:
    """Return all tensors of a model's output, in eval mode; the model and the inputs are left as they were."""
    own = _pytree.tree_map_only(Tensor, torch.clone, (list(args), dict(kwargs)))
    with undisturbed(model), torch.no_grad(), fused_attention_off():
        result: Any = model(*own[0], **own[1])
    return tensors(result)


def depends_on_chance(model: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> bool:
    """Tell whether a model gives other outputs for the same inputs, in eval mode, with other random numbers."""
    with torch.random.fork_rng(devices=[device for device in devices_of(model) if device.type == "cuda"]):
        torch.manual_seed(1)
        first = outputs(model, args, kwargs)
        torch.manual_seed(2)
        return difference(first, outputs(model, args, kwargs)) > 0


def check_numbers(values: list[Tensor], error: type[ValueError]) -> None:
    """Raise an error of this class if a model's outputs are NaN alone, which would agree with NaN of any other."""
    if any(value.numel() for value in values) and all(bool(value.isnan().all()) for value in values):
        raise error(
            "the model gives NaN alone for random inputs, so nothing can be compared; look for NaN in its weights"
        )


def difference(expected: list[Tensor], actual: list[Tensor]) -> float:
    """Return the largest difference relative to the largest expected value; infinity where shapes differ."""
    if [value.shape for value in expected] != [value.shape for value in actual]:
        return float("inf")
    worst = 0.0
    for one, other in zip(expected, actual, strict=True):
        quick = _apart_where_finite(one, other)
        worst = max(worst, _apart(widened(one).cpu(), widened(other).cpu()) if quick is None else quick)
    return worst


def rounding_limit(expected: list[Tensor], plain: list[Tensor]) -> float:
    """Return how far, as `distance` tells, outputs in 8 bits may be from those of the rounded model.

    Numbers halfway between two whole ones may go to the other in another program, and a sum may be rounded once where
    the model rounds its terms too. That may cost twice what rounding itself does.

    Args:
        expected: outputs of the rounded model.
        plain: those of the model in floating point.
    """
    return min(max(_LEAST_LIMIT, _ROUNDINGS * distance(expected, plain)), _MOST_LIMIT)


def distance(expected: list[Tensor], actual: list[Tensor]) -> float:
    """Return the sum of squared differences, relative to that of the squares."""
    if [value.shape for value in expected] != [value.shape for value in actual]:
        return float("inf")
    pairs = [(widened(one), widened(other).to(one.device)) for one, other in zip(expected, actual, strict=True)]
    squares = sum(float((one - other).abs().square().sum()) for one, other in pairs)
    total = sum(float(one.abs().square().sum()) for one, _ in pairs)
    return squares / total if total else squares


def _apart_where_finite(expected: Tensor, value: Tensor) -> float | None:
    """Do what `_apart` does in the tensors' own precision, reading them once; None where they are not all finite."""
    alike = value.dtype == expected.dtype and value.device == expected.device
    if expected.dtype not in (torch.float32, torch.float64) or not alike or not expected.numel():
        return None
    apart, scale = (
        max(-float(least), float(most)) for least, most in ((expected - value).aminmax(), expected.aminmax())
    )
    return apart / max(scale, 1e-30) if math.isfinite(apart + scale) else None


def _apart(expected: Tensor, value: Tensor) -> float:
    same = (expected == value) | (expected.isnan() & value.isnan())
    if bool(same.all()):
        return 0.0
    scale = float(expected[expected.isfinite()].abs().amax()) if bool(expected.isfinite().any()) else 1.0
    apart = float((expected - value).abs()[~same].amax()) / max(scale, 1e-30)
    return apart if apart == apart else float("inf")


def where_finite(expected: list[Tensor], outputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Leave out what overflowed in the larger model: zero times infinity is NaN, which a smaller one does not show."""
    if [value.shape for value in expected] != [value.shape for value in outputs]:
        return expected, outputs
    if all(map(is_finite, expected)):
        return expected, outputs
    finite = [value.isfinite() for value in expected]
    left = [[value[mask] for value, mask in zip(values, finite, strict=True)] for values in (expected, outputs)]
    return left[0], left[1]


def difference_where_finite(expected: list[Tensor], actual: list[Tensor]) -> float:
    """Do what `difference` does with what `where_finite` leaves; tensors that are all finite are read once."""
    if [value.shape for value in expected] != [value.shape for value in actual]:
        return float("inf")
    quick = [_apart_where_finite(*pair) for pair in zip(expected, actual, strict=True)]
    known = [apart for apart in quick if apart is not None]
    return max(known, default=0.0) if len(known) == len(quick) else difference(*where_finite(expected, actual))


def is_finite(value: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity: where its sum is finite, nothing else is looked at."""
    return (value.dtype in TOLERANCES and bool(value.sum().isfinite())) or bool(value.isfinite().all())


def tolerance(values: list[Tensor]) -> float:
    """Return the difference that rounding may make in outputs of these dtypes."""
    return max((TOLERANCES[value.dtype] for value in values if value.dtype in TOLERANCES), default=0.0)


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors in what a model returns, in order."""
    return [leaf for leaf in _leaves(tree) if isinstance(leaf, Tensor)]


def _leaves(tree: Any) -> list[Any]:
    leaves = _pytree.tree_leaves(tree)
    if len(leaves) == 1 and isinstance(leaves[0], Mapping):
        return _pytree.tree_leaves(dict(leaves[0]))
    return leaves


def relative_error(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the sum of squared differences, relative to the variance of the second of each pair; in float64.

    >>> relative_error([(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))])
    0.5
    """
    squares = total = totals = 0.0
    count = 0
    for output, target in pairs:
        wide = target.double()
        squares += float((output.double() - wide).square().sum())
        total, totals, count = total + float(wide.sum()), totals + float(wide.square().sum()), count + wide.numel()
    variance = totals - total**2 / max(1, count)
    return squares / variance if variance > 0 else squares
