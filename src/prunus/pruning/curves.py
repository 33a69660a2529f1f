"""Error curves: what the outputs of a model lose if one layer alone loses units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.forward import undisturbed
from prunus.proving.verification import relative_error, tensors
from prunus.pruning.allocation import Curve
from prunus.pruning.masks import Masks
from prunus.pruning.stats import Batch, forward

# The shares of its units that a layer loses at the measured points; errors rise fastest where little is left.
_SHARES = (0.0, 0.25, 0.5, 0.65, 0.75, 0.85, 0.9, 0.94, 0.97, 0.985, 1.0)
# Batches are read until this many samples are there, as many as SparseGPT (arXiv:2301.00774) calibrates with.
_SAMPLES = 128
# Stands for an error that is not finite: larger than any that a model which still computes something has.
_WORST = 1e9


@dataclass(frozen=True)
class Prunable:
    """A layer whose curve is measured.

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


def error_curves(model: nn.Module, data: Iterable[Batch], layers: Sequence[Prunable]) -> dict[str, Curve]:
    """Return the error curve of each layer: the outputs' squared error, relative to their variance.

    The model is not changed. It runs in eval mode, once for each point, on whole batches of at least 128 samples in all
    if there are so many.

    Args:
        model: the model, with its weights from before pruning.
        data: batches, as criteria take them; targets are not used.
        layers: whose curves.

    Raises:
        ValueError: there is no batch, the outputs hold no floating-point numbers, or not all are finite.
    """
    copied = copy_model(model)
    values = [(parameter, parameter.detach().clone()) for parameter in copied.parameters()]
    with undisturbed(copied), torch.no_grad():
        batches = list(_enough(data))
        dense = [_outputs(copied, batch) for batch in batches]
        _check(dense)

        def error(masks: Masks) -> float:
            masks.apply(copied)
            pruned = [_outputs(copied, batch) for batch in batches]
            for parameter, value in values:
                parameter.copy_(value)
            result = relative_error(zip(itertools.chain(*pruned), itertools.chain(*dense), strict=True))
            return result if math.isfinite(result) else _WORST

        return {
            layer.name: _curve(layer.points, [error(layer.masks(count)) for count in layer.points]) for layer in layers
        }


def _curve(counts: list[int], errors: list[float]) -> Curve:
    """Return a curve that never falls: by chance a layer with fewer weights is sometimes nearer."""
    rising = torch.tensor(errors, dtype=torch.float64).cummax(0).values
    return Curve(tuple(counts), tuple(rising.tolist()))


def _enough(data: Iterable[Batch]) -> Iterator[Batch]:
    """Yield whole batches until there are enough samples: a model's code may fix the batch."""
    seen = 0
    for batch in data:
        yield batch
        seen += max((len(value) for value in tensors(batch) if value.ndim), default=1)
        if seen >= _SAMPLES:
            return


def _check(dense: list[list[Tensor]]) -> None:
    if not dense:
        raise ValueError("data held no batch; give batches that can be read again, such as a list or a DataLoader")
    if not any(dense):
        raise ValueError("the model's outputs hold no floating-point numbers, of which errors could be measured")
    if not all(bool(value.isfinite().all()) for own in dense for value in own):
        raise ValueError(
            "the model's outputs on the data are not all finite, so no errors can be measured; are the weights and the "
            "inputs finite?"
        )


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    return [value for value in tensors(forward(model, batch)) if value.is_floating_point()]
