"""Samples that commands calibrate and choose with, and the progress of the work on them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from prunus.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from prunus.pruning.stats import Batch

_BATCH, _AT_ONCE = 64, 500
# Name -> tensor, or one tensor, with labels.
Labelled: TypeAlias = "list[tuple[dict[str, Tensor] | Tensor, Tensor]]"
_LABELS = "labels"


def batches(calibrate: str, count: int, like: Tensor) -> list[Batch]:
    """Return so many samples in batches; floating-point ones in the dtype of a tensor.

    Raises:
        ValueError: it is neither a data set nor a file of samples.
    """
    if count < 2:
        raise ValueError(f"--samples must be at least 2, since some are held out to measure errors on; got {count}")
    tensors = _samples(calibrate, count)
    cast = [value.to(like.dtype) if value.is_floating_point() else value for value in tensors.values()]
    starts = range(0, min(count, len(cast[0])), _BATCH)
    parts = [[value[start : min(start + _BATCH, count)] for value in cast] for start in starts]
    return [part[0] if len(part) == 1 else dict(zip(tensors, part, strict=True)) for part in parts]


def labelled(validate: str, like: Tensor) -> Labelled:
    """Return labelled samples in batches; floating-point ones in the dtype of a tensor.

    Raises:
        ValueError: it is neither a data set nor a file of samples with labels.
    """
    from prunus.lab import data

    if validate in data.DATASETS:
        loaded = data.load(validate)
        images = data.batches(loaded.validation, _AT_ONCE, mean=loaded.mean, std=loaded.std)
        return [(x.to(like.dtype), y) for x, y in images]
    tensors = _samples(validate, 0)
    labels = tensors.pop(_LABELS, None)
    if labels is None or not tensors or labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        raise ValueError(f"{validate!r} must hold samples, and the class of each as whole numbers named {_LABELS!r}")
    cast = {name: value.to(like.dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    parts: Labelled = []
    for start in range(0, len(labels), _AT_ONCE):
        place = slice(start, start + _AT_ONCE)
        part = {name: value[place] for name, value in cast.items()}
        parts.append((next(iter(part.values())) if len(part) == 1 else part, labels[place].long()))
    return parts


def _samples(calibrate: str, count: int) -> dict[str, Tensor]:
    from prunus import files
    from prunus.lab import data

    if calibrate in data.DATASETS:
        from prunus.lab.train import calibration_batches

        ((images, _),) = calibration_batches(data.load(calibrate), count, 1)
        return {"": images}
    path = Path(calibrate)
    if not path.is_file() or path.suffix != ".safetensors":
        raise ValueError(
            f"samples are a .safetensors file, or a data set: {', '.join(data.names())}; got {calibrate!r}"
        )
    tensors = files.load_tensors(path)
    if (
        not tensors
        or len({value.shape[:1] for value in tensors.values()}) != 1
        or not next(iter(tensors.values())).ndim
    ):
        shapes = ", ".join(f"{name} {terminal.by_x(value.shape)}" for name, value in list(tensors.items())[:4])
        raise ValueError(
            f"{calibrate!r} must hold a tensor for each argument of the model's forward, with as many samples in each "
            f"along the first dimension; it holds {shapes or 'nothing'}"
        )
    return tensors


@contextlib.contextmanager
def shown() -> Iterator[Callable[[str, float], None]]:
    """Show on a terminal what is being done."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("reading the model's graph", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)
