"""Error curves: what the outputs of a model lose if one layer alone loses units."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.copying import copy_model
from prunus.forward import undisturbed
from prunus.proving.verification import relative_error, tensors
from prunus.pruning.allocation import Curve
from prunus.pruning.masks import Masks
from prunus.pruning.stats import Batch, forward

# The shares of its units that a layer loses at the measured points; errors rise fastest where little is left.
_SHARES = (0.0, 0.25, 0.5, 0.65, 0.75, 0.85, 0.9, 0.94, 0.97, 0.985, 1.0)
# Of so many samples the outputs are compared, fewer where that takes longer than so many seconds.
_MOST_SAMPLES, _FEWEST_SAMPLES, _SECONDS = 128, 8, 90.0
# An error that is not finite is that of a useless model.
_WORST = 1e9


@dataclass(frozen=True)
class Asked:
    """A layer whose curve is asked for.

    Attributes:
        name: its name.
        fewest, most: bounds on how many units it loses.
        masks: how many units it loses -> masks that remove these.
    """

    name: str
    fewest: int
    most: int
    masks: Callable[[int], Masks]

    @property
    def points(self) -> list[int]:
        """The numbers of units at which the error is measured."""
        return sorted({self.fewest + round((self.most - self.fewest) * share) for share in _SHARES})


def measure(model: nn.Module, data: Iterable[Batch], layers: Sequence[Asked]) -> dict[str, Curve]:
    """Return the error curve of each layer: the outputs' squared error, relative to their variance.

    The model is not changed. It runs in eval mode, on at most 128 samples, once for each point.

    Args:
        model: the model, with its weights from before pruning.
        data: batches, as criteria take them; targets are not used.
        layers: whose curves.

    Raises:
        ValueError: there is no batch, or the outputs hold no floating-point numbers.
    """
    copied = copy_model(model)
    values = [(parameter, parameter.detach().clone()) for parameter in copied.parameters()]
    with undisturbed(copied), torch.no_grad():
        batches, dense = _samples(copied, data, sum(len(layer.points) for layer in layers))

        def error(masks: Masks) -> float:
            masks.apply(copied)
            pruned = [_run(copied, batch) for batch in batches]
            for parameter, value in values:
                parameter.copy_(value)
            pairs = zip(itertools.chain(*pruned), itertools.chain(*dense), strict=True)
            result = relative_error(pairs)
            return result if math.isfinite(result) else _WORST

        return {
            layer.name: _curve(layer.points, [error(layer.masks(count)) for count in layer.points]) for layer in layers
        }


def _curve(counts: list[int], errors: list[float]) -> Curve:
    """Return a curve that never falls: by chance a layer with fewer weights is sometimes nearer."""
    rising = torch.tensor(errors, dtype=torch.float64).cummax(0).values
    return Curve(tuple(counts), tuple(rising.tolist()))


def _samples(model: nn.Module, data: Iterable[Batch], num_runs: int) -> tuple[list[Batch], list[list[Tensor]]]:
    """Return the batches that outputs are compared on, and the outputs of each."""
    batches: list[Batch] = []
    outputs: list[list[Tensor]] = []
    most, seen = _MOST_SAMPLES, 0
    for whole in data:
        batch = _first(whole, most - seen)
        began = time.monotonic()
        _run(model, _first(batch, _FEWEST_SAMPLES))
        seconds = (time.monotonic() - began) / min(_FEWEST_SAMPLES, _size(batch))
        most = min(most, max(_FEWEST_SAMPLES, int(_SECONDS / (seconds * num_runs))))
        batch = _first(batch, most - seen)
        batches.append(batch)
        outputs.append(_run(model, batch))
        seen += _size(batch)
        if seen >= most:
            break
    if not batches:
        raise ValueError("data held no batch; give batches that can be read again, such as a list or a DataLoader")
    if not any(outputs):
        raise ValueError("the model's outputs hold no floating-point numbers, of which errors could be measured")
    return batches, outputs


def _run(model: nn.Module, batch: Batch) -> list[Tensor]:
    return [value for value in tensors(forward(model, batch)) if value.is_floating_point()]


def _size(batch: Batch) -> int:
    return max(
        1, next((len(value) for value in pytree.tree_leaves(batch) if isinstance(value, Tensor) and value.ndim), 1)
    )


def _first(batch: Batch, count: int) -> Any:
    return pytree.tree_map_only(Tensor, lambda value: value[:count] if value.ndim else value, batch)
