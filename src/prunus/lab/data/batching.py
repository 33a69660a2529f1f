"""Make batches for a model from a split in memory: slice, shift, normalise, all on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from prunus.lab.data.images import Images

# Batches are computed in blocks of about this many pixel values: several batches then share the fixed cost of an
# operation (starting threads, or a kernel on a GPU), and a block still fits the processor's cache.
BLOCK_VALUES = 2**20

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def normalise(
    images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return (images / 255 - mean) / std, computed in float32 (float64 if asked for) and rounded to `dtype` once.

    Args:
        images: uint8, shape (n, channels, height, width), on any device.
        mean: one number per channel, as a fraction of 255.
        std: the same, above 0.
        dtype: one of float16, bfloat16, float32, float64.

    Raises:
        TypeError: the images are not uint8, or the dtype is not one of the four.
        ValueError: the shapes don't fit, or a std is not above 0.

    >>> normalise(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), (0.5,), (0.25,))
    tensor([[[[-2.,  2.]]]])
    """
    center, scale = _statistics(images, mean, std, dtype)
    return _normalised(images, center, scale, dtype)


def shift_images(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image by its own whole number of pixels; pixels from outside are 0.

    Args:
        images: shape (n, channels, height, width).
        down: int64, shape (n,): pixels to move down; negative moves up.
        right: the same to the right; negative moves left.

    Returns:
        The moved images, of the same shape.

    >>> shift_images(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([1]), torch.tensor([0]))
    tensor([[[[0, 0],
              [1, 2]]]])
    """
    count, channels, height, width = images.shape
    if count == 0:
        return images.clone()
    limit = int(torch.stack((down, right)).abs().max())
    padded = F.pad(images, (limit, limit, limit, limit))
    padded_height, padded_width = padded.shape[2:]
    # A moved image is a window of its padded form, and each of its rows is a run of `width` pixels in memory. Selecting
    # runs by their first pixel copies memory; indexing by pixel would compute an index for each.
    runs = padded.flatten().unfold(0, width, 1)
    plane = torch.arange(count * channels, device=images.device).view(count, channels, 1) * padded_height
    row = plane + (limit - down).view(count, 1, 1) + torch.arange(height, device=images.device)
    first = row * padded_width + (limit - right).view(count, 1, 1)
    return runs.index_select(0, first.flatten()).view(images.shape)


def batches(
    split: Images,
    batch_size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    order: Tensor | None = None,
    shift: int = 0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a split once, as (normalised images, labels); the last batch may be smaller.

    All random numbers are drawn when this is called, before the first batch: two for each image, in order. So the
    shifts depend on the generator's state and `order`, not on `batch_size`.

    Args:
        split: the images; all are moved to `device`, which costs nothing if they are there already.
        batch_size: the number of images in a batch.
        mean: per channel, as for `normalise`.
        std: per channel, as for `normalise`.
        order: int64, shape (m,): indices of the images to yield, in order; all in their own order by default.
        shift: each image moves by -shift to shift pixels in each direction, filled up with the pixel value 0.
        generator: draws the shifts, on any device; torch's global one by default.
        device: the device of the batches; that of the split by default.
        dtype: the dtype of the images.

    Raises:
        TypeError: the dtype is not one of those of `normalise`, or `order` is not int64.
        ValueError: a value is out of range.
    """
    _check(split, batch_size, order, shift)
    split = split if device is None else split.to(device)
    place = split.images.device
    order = torch.arange(len(split), device=place) if order is None else order.to(place)
    center, scale = _statistics(split.images, mean, std, dtype)
    moves = _draw_moves(len(order), shift, generator).to(place)
    block = batch_size * max(1, BLOCK_VALUES // (batch_size * math.prod(split.input_shape)))

    def pass_over() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(order), block):
            part = slice(start, start + block)
            images = split.images.index_select(0, order[part])
            if shift:
                images = shift_images(images, moves[0, part], moves[1, part])
            images = _normalised(images, center, scale, dtype)
            labels = split.labels.index_select(0, order[part])
            yield from zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)

    return pass_over()


def _normalised(images: Tensor, center: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return images.to(center.dtype).div_(255).sub_(center).div_(scale).to(dtype)


def _draw_moves(count: int, shift: int, generator: torch.Generator | None) -> Tensor:
    if shift == 0:
        return torch.zeros(2, 0, dtype=torch.int64)
    device = generator.device if generator is not None else "cpu"
    return torch.randint(-shift, shift + 1, (2, count), generator=generator, device=device)


def _statistics(
    images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if dtype not in DTYPES:
        raise TypeError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    if images.dim() != 4:
        raise ValueError(f"images must have 4 dimensions (n, channels, height, width), got shape {tuple(images.shape)}")
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    center = torch.as_tensor(mean, dtype=precise)
    scale = torch.as_tensor(std, dtype=precise)
    channels = images.shape[1]
    if center.shape != (channels,) or scale.shape != (channels,):
        raise ValueError(f"mean and std must hold one number for each of {channels} channels, got {mean} and {std}")
    if not bool((scale > 0).all()):
        raise ValueError(f"std must be above 0, got {std}; images of a single colour can't be normalised")
    return center.to(images.device).view(-1, 1, 1), scale.to(images.device).view(-1, 1, 1)


def _check(split: Images, batch_size: int, order: Tensor | None, shift: int) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    size = min(split.images.shape[2:])
    if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift < size:
        raise ValueError(
            f"shift must be a whole number from 0 to {size - 1} for images of {size} pixels, got {shift!r}"
        )
    if order is None:
        return
    if order.dtype != torch.int64 or order.dim() != 1:
        raise TypeError(f"order must be int64 of shape (m,), got {order.dtype} of shape {tuple(order.shape)}")
    if len(order) and (int(order.min()) < 0 or int(order.max()) >= len(split)):
        raise ValueError(
            f"order must hold indices from 0 to {len(split) - 1}, got {int(order.min())} to {int(order.max())}"
        )
