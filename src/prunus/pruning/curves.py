"""Error curves: what the outputs of a model are predicted to lose if one layer loses units and is refitted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.forward import undisturbed
from prunus.proving.verification import relative_error, tensors
from prunus.pruning import solving, stats
from prunus.pruning.allocation import Curve
from prunus.pruning.masks import Masks
from prunus.pruning.moments import MOST_INPUTS, Moments, damped
from prunus.pruning.products import LinearMap
from prunus.pruning.stats import Batch, forward
from prunus.pruning.targets import Target

# The shares of its units that a layer loses at the points of its curve; errors rise fastest where little is left.
_SHARES = (0.0, 0.25, 0.5, 0.65, 0.75, 0.85, 0.9, 0.94, 0.97, 0.985, 1.0)
# Sensitivities are taken at the first of these shares at which the outputs lose less than this: larger errors of the
# outputs say little, since they stop rising where nothing is left of the signal.
_SMALLER, _SMALL = (0.75, 0.5, 0.25, 0.1), 0.1
# Pruned a little, an early layer counts little, but nothing is left of the outputs without it: its curve bends up to
# what they lose with all of it gone. The power is a guess.
_BEND = 3
# Batches are read until this many samples are there; every so many-th batch is held out to measure errors on.
_SAMPLES, _HELD_OUT = 256, 4
# Refitted are at most this many rows of a layer, at even distances, in so many steps of conjugate gradients.
_ROWS, _STEPS = 64, 50
_DAMPING = 1e-2  # as SparseGPT (arXiv:2301.00774)


@dataclass(frozen=True)
class Prunable:
    """A layer whose curve is wanted.

    Attributes:
        target: its weight.
        fewest, most: bounds on how many units it loses.
        mask: how many units it loses -> the mask that removes these.
    """

    target: Target
    fewest: int
    most: int
    mask: Callable[[int], Tensor]

    def count(self, share: float) -> int:
        """Return how many units go with a share of those that may."""
        return self.fewest + round((self.most - self.fewest) * share)


def error_curves(model: nn.Module, data: Iterable[Batch], layers: Sequence[Prunable]) -> dict[str, Curve]:
    """Return the error curve of each layer.

    A layer's own error is the part of the variance of its output that is lost on held-out samples when it is pruned and
    its weights are refitted by least squares; where its inputs are not known, that of its squared weights. Layers
    differ in how much the outputs depend on them: that is measured by pruning each a little, and is the factor of its
    curve, which bends up to what the outputs lose with nothing left of the layer. (What the outputs lose with a layer
    pruned a lot, and not refitted, predicts badly: it stops rising, so that whole layers would be sacrificed.)

    The model is not changed. It runs in eval mode, on whole batches of at least 256 samples if there are so many.

    Args:
        model: the model, with its weights from before pruning.
        data: batches, as criteria take them; targets are not used.
        layers: whose curves.

    Raises:
        ValueError: there is no batch, the outputs hold no floating-point numbers, or not all are finite; or a layer is
            never called.
    """
    batches = list(_enough(data))
    outputs = _Outputs(model, batches)
    known = {layer.target.name: layer.target for layer in layers if stats.is_linear_in_weight(layer.target)}
    by_name = {layer.target.name: layer for layer in layers}
    curves = {}
    held_out = batches[_HELD_OUT - 1 :: _HELD_OUT] or batches
    fitted = [batch for at, batch in enumerate(batches) if at % _HELD_OUT != _HELD_OUT - 1]
    both = zip(stats.moments(model, known, fitted), stats.moments(model, known, held_out), strict=True)
    for (name, linear, moments), (_, _, others) in both:
        local = _Least(by_name[name].target.parameter, linear, moments, others)
        curves[name] = _curve(by_name[name], local, outputs)
    for name in by_name.keys() - known.keys():
        curves[name] = _curve(by_name[name], _Squares(by_name[name].target.parameter), outputs)
    return curves


class _Outputs:
    """The outputs of a model on batches, and what they lose with masks."""

    def __init__(self, model: nn.Module, batches: list[Batch]) -> None:
        self._model, self._batches = copy_model(model), batches
        self._values = [(parameter, parameter.detach().clone()) for parameter in self._model.parameters()]
        self._dense = self._run()
        _check(self._dense)

    def error(self, masks: Mapping[str, Tensor]) -> float:
        """Return the squared error of the outputs relative to their variance; infinite if they are not finite."""
        Masks(masks).apply(self._model)
        pruned = self._run()
        with torch.no_grad():
            for parameter, value in self._values:
                parameter.copy_(value)
        error = relative_error(zip(itertools.chain(*pruned), itertools.chain(*self._dense), strict=True))
        return error if math.isfinite(error) else math.inf

    def _run(self) -> list[list[Tensor]]:
        with undisturbed(self._model), torch.no_grad():
            runs = [tensors(forward(self._model, batch)) for batch in self._batches]
        return [[value for value in own if value.is_floating_point()] for own in runs]


class _Least:
    """The error of a layer whose inputs are known, by their second moments."""

    def __init__(self, weight: Tensor, linear: LinearMap, moments: list[Moments], held_out: list[Moments]) -> None:
        self._linear = linear
        rows = linear.rows(weight.detach())
        self._rows = torch.arange(0, rows.shape[1], max(1, rows.shape[1] // _ROWS), device=rows.device)
        self._fitted, self._held_out = ([own.centred().float() for own in sums] for sums in (moments, held_out))
        self._weights = self._parts(rows)
        self._total = self._sum(self._weights)

    def kept(self, mask: Tensor) -> float:
        """Return the error with the weights as they are."""
        masks = self._parts(self._linear.rows(mask))
        return self._sum([weight * ~own for weight, own in zip(self._weights, masks, strict=True)]) / self._total

    def refitted(self, mask: Tensor) -> float:
        """Return the error with weights that are refitted under the mask."""
        masks, missing = self._parts(self._linear.rows(mask)), []
        for gram, weight, own in zip(self._fitted, self._weights, masks, strict=True):
            drawn = damped(gram, _DAMPING)
            missing.append(weight - solving.refit(drawn, weight @ drawn, weight, own, _STEPS))
        return self._sum(missing) / self._total

    def _parts(self, rows: Tensor) -> list[Tensor]:
        chosen = rows[:, self._rows]
        chosen = chosen.float() if chosen.is_floating_point() else chosen
        return list(chosen.split(MOST_INPUTS, dim=2))  # type: ignore[no-untyped-call]

    def _sum(self, rows: Sequence[Tensor]) -> float:
        squares = [
            ((own @ gram) * own).sum(dtype=torch.float64) for own, gram in zip(rows, self._held_out, strict=True)
        ]
        return float(torch.stack(squares).sum()) or 1.0


class _Squares:
    """The error of a layer whose inputs are not known: the part of its squared weights that goes."""

    def __init__(self, weight: Tensor) -> None:
        self._squares = weight.detach().double().square()

    def kept(self, mask: Tensor) -> float:
        """Return the error with the weights as they are."""
        return float((self._squares * ~mask).sum()) / (float(self._squares.sum()) or 1.0)

    refitted = kept


def _curve(layer: Prunable, local: _Least | _Squares, outputs: _Outputs) -> Curve:
    counts = sorted({layer.count(share) for share in _SHARES})
    base, factor = local.kept(layer.mask(layer.fewest)), 0.0
    for share in _SMALLER:
        mask = layer.mask(layer.count(share))
        error, gone = outputs.error({layer.target.name: mask}), local.kept(mask) - base
        if gone > 0 and math.isfinite(error):
            factor = error / gone
        if error < _SMALL:
            break
    whole = min(1.0, outputs.error({layer.target.name: layer.mask(layer.most)}))
    lost = torch.tensor([local.refitted(layer.mask(count)) for count in counts], dtype=torch.float64)
    rising = lost.clamp(min=0).cummax(0).values  # by chance it sometimes falls
    errors = factor * rising + max(0.0, whole - factor) * rising**_BEND
    return Curve(tuple(counts), tuple(errors.tolist()))


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
