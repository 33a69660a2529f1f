"""What a tensor holds whatever the inputs of the model are, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.graph.coupling.values import compact, tidy
from prunus.proving.verification import widened

# Constants of more elements are not searched for dimensions along which they are equal.
_MOST_TIDIED = 1 << 16


@dataclass(frozen=True, eq=False)
class Content:
    """Which elements of a tensor are the same for all inputs, and what they are.

    Both tensors have as many dimensions as the tensor they speak of. A size of 1 where it has more means that all along
    this dimension are alike, however long it is.

    Attributes:
        varies: which elements may depend on the inputs, bool.
        numbers: what the others are; 0 where an element varies.
    """

    varies: Tensor
    numbers: Tensor

    @property
    def is_fixed(self) -> bool:
        """Whether no element depends on the inputs."""
        return not bool(self.varies.any())

    @property
    def is_zero(self) -> Tensor:
        """Which elements are 0 for all inputs, bool."""
        return ~self.varies & (self.numbers == 0)

    @property
    def may_count(self) -> Tensor:
        """Which elements are not always 0, bool."""
        return self.varies | (self.numbers != 0)


def fixed(numbers: Tensor) -> Content:
    """Return the content of a parameter or of what is computed from parameters."""
    numbers = numbers.detach().cpu()
    if numbers.numel() <= _MOST_TIDIED:
        numbers = compact(tidy(numbers))
    return Content(torch.zeros([1] * numbers.ndim, dtype=torch.bool), numbers)


def content(varies: Tensor, numbers: Tensor) -> Content | None:
    """Return a content in its smallest form; None where all elements vary. NaN and infinity count as varying."""
    if numbers.is_floating_point() or numbers.is_complex():
        varies = varies | ~numbers.isfinite()
    if bool(varies.all()):
        return None
    numbers = torch.where(varies, torch.zeros((), dtype=numbers.dtype), numbers)
    return Content(compact(tidy(varies.expand(numbers.shape))), compact(tidy(numbers)))


def unknown(num_dims: int, dtype: torch.dtype) -> Content:
    """Return the content of a tensor of which nothing is known."""
    shape = [1] * num_dims
    return Content(torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=dtype))


def common_shape(first: Tensor, second: Tensor) -> torch.Size:
    """Return the shape to which two tensors broadcast."""
    return torch.broadcast_shapes(first.shape, second.shape)  # type: ignore[no-any-return, no-untyped-call]


def together(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two tensors broadcast to one shape."""
    shape = common_shape(first, second)
    return first.expand(shape), second.expand(shape)


def any_over(mask: Tensor, dims: Sequence[int]) -> Tensor:
    """Return whether any element along some dimensions is true; they stay, with size 1."""
    for dim in dims:
        if mask.shape[dim] > 1:
            mask = mask.any(dim, keepdim=True)
    return mask


def fit(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a mask of what was broadcast from a shape: what any of an element's copies is."""
    for _ in range(mask.ndim - len(shape)):
        mask = mask.any(0)
    return any_over(mask, [dim for dim, size in enumerate(shape) if size == 1])


def along_channels(mask: Tensor, dim: int, size: int) -> Tensor:
    """Return whether any element with an index of a dimension is true, bool of that dimension's size."""
    dim %= mask.ndim
    return any_over(mask, [other for other in range(mask.ndim) if other != dim]).reshape(-1).expand(size)


def channel_numbers(held: Content | None, dim: int, size: int) -> Tensor:
    """Return what each index of a dimension holds, double; NaN where that varies or differs from place to place."""
    if held is None:
        return torch.full((size,), torch.nan, dtype=torch.float64)
    shape = common_shape(held.varies, held.numbers)
    numbers = held.numbers.expand(shape).movedim(dim, 0).reshape(shape[dim], -1)
    numbers = widened(numbers)
    uneven = along_channels(held.varies, dim, shape[dim]) | (numbers != numbers[:, :1]).any(1)
    return torch.where(uneven, torch.nan, numbers[:, 0]).expand(size)
