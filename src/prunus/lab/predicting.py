"""The logits of a model for every image of a split."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunus.forward import devices_of, undisturbed
from prunus.lab.data import Images, batches


def predict(
    model: nn.Module,
    split: Images,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 1000,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the model's logits for every image of a split, in order.

    The model runs in eval mode, under `torch.inference_mode`, in its own floating dtype; its training flags and
    buffers do not change.

    Args:
        model: returns logits of shape (batch, classes) for images of shape (batch, channels, height, width).
        split: the images, unnormalised.
        mean: the mean of each channel, for normalisation.
        std: the standard deviation of each channel, for normalisation.
        batch_size: the number of images in a batch.
        device: the device of the model; None: that of its parameters.

    Returns:
        float32 logits of shape (images, classes), on the CPU.

    Raises:
        ValueError: `batch_size` is not positive, the split is empty, the model is on another device, or it does not
            return logits.
    """
    if batch_size < 1 or len(split) == 0:
        raise ValueError(f"need a batch_size of at least 1 and an image; got {batch_size} and {len(split)} images")
    place, dtype = _device(model, device), _dtype(model)
    with undisturbed(model), torch.inference_mode():
        pieces = [
            _logits(model(images), len(images)).float().cpu()
            for images, _ in batches(split, batch_size, mean=mean, std=std, device=place, dtype=dtype)
        ]
    return torch.cat(pieces)  # outside inference mode, so that it is an ordinary tensor


def _device(model: nn.Module, device: torch.device | str | None) -> torch.device:
    devices = devices_of(model)
    if device is None:
        return next(iter(devices)) if devices else torch.device("cpu")
    indexed = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", as for tensors
    if devices and indexed not in devices:
        actual = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"device is {indexed}, but the model is on {actual}; move it: model.to({str(indexed)!r})")
    return indexed


def _dtype(model: nn.Module) -> torch.dtype:
    kinds = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(kinds, torch.float32)


def _logits(output: object, num_images: int) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != num_images:
        kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the model must return logits of shape ({num_images}, classes), got {kind}")
    return output
