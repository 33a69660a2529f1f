"""Codebooks: a few values that all weights of a layer share, found by k-means and trained further."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunus.supported import unwrap

MOST_BITS = 8
_MAX_ITERATIONS = 100
# The number of last mantissa bits of a float32 centroid that are zero: the error, 2 ** -16 of its value, is far below
# that of sharing.
_ROUNDED_BITS = 8


def check_bits(bits: object, name: str = "bits") -> int:
    """Return `bits`, after checking that it is a whole number from 1 to 8.

    Raises:
        ValueError: it is not.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MOST_BITS:
        raise ValueError(f"{name} must be a whole number from 1 to {MOST_BITS}, got {bits!r}")
    return bits


def shares(tensor: Tensor) -> bool:
    """Return whether a tensor's values are shared: if it has two or more dimensions, so is no bias and no norm."""
    return tensor.is_floating_point() and tensor.ndim >= 2


def snapped(name: str, tensor: Tensor, bits: int) -> Tensor:
    """Round the nonzero entries of a tensor to the nearest of at most ``2 ** bits`` values; zeros stay zero.

    Args:
        name: the tensor's name, for errors.
        tensor: a tensor of a floating dtype.
        bits: the width of an index of a value.

    Raises:
        ValueError: an entry is not finite.
    """
    centroids, indices = _cluster(name, tensor, bits)
    return _table(centroids).to(tensor.dtype)[indices].reshape(tensor.shape).to(tensor.device)


def snap(state: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Return a state dict whose weights share values; the other tensors are the same objects."""
    return {name: snapped(name, tensor, bits) if shares(tensor) else tensor for name, tensor in state.items()}


class Codebook:
    """The shared values of a model's weights, to be trained further in your own loop.

        codebook = prunus.packing.Codebook(model, bits=4)
        codebook.apply()
        optimizer = torch.optim.SGD(codebook.parameters(), lr=1e-3)
        for inputs, targets in batches:
            loss_function(model(inputs), targets).backward()
            codebook.step(optimizer)

    The gradient of a shared value is the sum of the gradients of all weights that share it. Pruned weights stay zero.
    ``prunus.save(model, path, example_inputs)`` saves the result, and finds the shared values by itself.

    Args:
        model: any module; within each parameter of two or more dimensions, weights share values.
        bits: a parameter has at most ``2 ** bits`` values besides zero.

    Raises:
        ValueError: `bits` is not a whole number from 1 to 8, or a weight is not finite.

    Source: Han et al., "Deep Compression", ICLR 2016, section 3 and figure 3.
    """

    def __init__(self, model: nn.Module, bits: int = 4) -> None:
        check_bits(bits)
        self._weights = {name: p for name, p in unwrap(model).named_parameters() if shares(p)}
        self.centroids: dict[str, nn.Parameter] = {}
        self._indices: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            centroids, indices = _cluster(name, weight, bits)
            precise = torch.promote_types(weight.dtype, torch.float32)
            self.centroids[name] = nn.Parameter(centroids.to(weight.device, precise))
            self._indices[name] = indices.to(weight.device)

    def parameters(self) -> list[nn.Parameter]:
        """Return the shared values, one tensor per layer, for an optimizer."""
        return list(self.centroids.values())

    @torch.no_grad()
    def apply(self) -> None:
        """Set each weight of the model to its shared value, in place."""
        for name, weight in self._weights.items():
            values = _table(self.centroids[name]).to(weight.dtype)
            weight.copy_(values[self._indices[name]].reshape(weight.shape))

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Add the weights' gradients to those of the shared values, step the optimizer, and set the weights again.

        Gradients of the weights and of the shared values are cleared; those of other parameters are not.
        """
        for name, weight in self._weights.items():
            centroids = self.centroids[name]
            centroids.grad = None
            if weight.grad is not None:
                sums = torch.zeros(len(centroids) + 1, dtype=centroids.dtype, device=weight.device)
                sums.index_add_(0, self._indices[name].long(), weight.grad.flatten().to(centroids.dtype))
                centroids.grad = sums[1:]
                weight.grad = None
        optimizer.step()
        for centroids in self.parameters():
            centroids.grad = None
        self.apply()


def _table(centroids: Tensor) -> Tensor:
    """Return the value of each index; index 0 is zero."""
    return torch.cat([centroids.new_zeros(1), centroids])


def _cluster(name: str, tensor: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return a tensor's centroids, and flat indices of them for its entries: 0 for zeros, the others count from 1."""
    flat = tensor.detach().flatten().cpu()
    entries = flat.double().numpy()
    if not np.isfinite(entries).all():
        raise ValueError(f"{name!r} holds values that are not finite, which no shared value can replace")
    nonzero = entries != 0
    ordered = np.sort(entries[nonzero])
    centroids = _rounded(_means(ordered, 1 << bits), tensor.dtype) if len(ordered) else ordered
    indices = np.zeros(len(entries), np.int32)
    if len(centroids):
        indices[nonzero] = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, entries[nonzero]) + 1
    return torch.from_numpy(centroids), torch.from_numpy(indices)


def _means(ordered: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return at most `count` centroids of sorted values: the better of two runs of Lloyd's algorithm.

    One starts from evenly spaced values (which distinguishes large weights), one from quantiles.
    """
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        return distinct
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    even = np.linspace(ordered[0], ordered[-1], count)
    quantiles = ordered[((np.arange(count) + 0.5) * len(ordered) / count).astype(np.int64)]
    results = [_lloyd(ordered, sums, start) for start in (even, np.unique(quantiles))]
    return max(results, key=lambda centroids: _explained(ordered, sums, centroids))


def _lloyd(
    ordered: NDArray[np.float64], sums: NDArray[np.float64], centroids: NDArray[np.float64]
) -> NDArray[np.float64]:
    for _ in range(_MAX_ITERATIONS):
        starts = _starts(ordered, centroids)
        counts = np.diff(starts)
        means = np.where(counts > 0, np.diff(sums[starts]) / np.maximum(counts, 1), centroids)
        means.sort()
        if np.array_equal(means, centroids):
            break
        centroids = means
    used = np.diff(_starts(ordered, centroids)) > 0
    return centroids[used]


def _starts(ordered: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return where in the sorted values each centroid's cluster begins, and where the last one ends."""
    between = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2, side="right")
    return np.concatenate([[0], between, [len(ordered)]])


def _explained(ordered: NDArray[np.float64], sums: NDArray[np.float64], centroids: NDArray[np.float64]) -> float:
    """Return the sum of squares minus the squared error of the centroids: the larger, the better."""
    starts = _starts(ordered, centroids)
    return float((np.diff(sums[starts]) ** 2 / np.maximum(np.diff(starts), 1)).sum())


def _rounded(centroids: NDArray[np.float64], dtype: torch.dtype) -> NDArray[np.float64]:
    """Round centroids to the dtype, and in float32 to fewer bits; none becomes zero."""
    values = torch.from_numpy(centroids).to(dtype)
    if dtype == torch.float32:
        half = 1 << (_ROUNDED_BITS - 1)
        bits = (values.view(torch.int32) + half) & -(1 << _ROUNDED_BITS)
        values = bits.view(torch.float32)
    rounded = values.double().numpy()
    return np.unique(np.where(rounded == 0, centroids, rounded))
