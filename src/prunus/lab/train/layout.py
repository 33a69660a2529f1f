"""How memory is laid out and kept while training on a CPU: a third of the time of a small network's step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# glibc gives memory back to the system beyond twice the size of the largest mapped block that was ever freed, and
# lets such a block count up to 32 MiB (DEFAULT_MMAP_THRESHOLD_MAX), its own header and alignment included.
_LARGEST_COUNTED_BLOCK = 31 * 2**20


def keep_freed_memory() -> None:
    """Let the C library keep 62 MiB of freed memory for what is allocated next, instead of returning it.

    A step frees its activations at its end and allocates them anew in the next one. If they go back to the system in
    between, each page is mapped and zeroed again at its first touch. Other C libraries just see one short allocation.
    """
    torch.empty(_LARGEST_COUNTED_BLOCK, dtype=torch.uint8)


def use_fastest_layout(model: nn.Module, images: Tensor) -> None:
    """Store convolution weights channels-last where that is faster: on a CPU, if the model can compute so.

    The values do not change. A model that takes a `view` of what a convolution returned, where it should `reshape`,
    can't; it is tried on a few images, and put back if it fails.

    Args:
        model: changed in place.
        images: a batch to try it on, on the model's device.
    """
    if images.device.type != "cpu" or not any(parameter.dim() == 4 for parameter in model.parameters()):
        return
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval()
    try:
        with torch.no_grad():
            model(images)
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
