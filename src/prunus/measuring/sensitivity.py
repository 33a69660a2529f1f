"""Sensitivity of the layers: the accuracy after pruning one layer alone, one-shot, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from prunus.copying import copy_model
from prunus.pruning import patterns, prune
from prunus.pruning.by_layer import prunable
from prunus.tables import Table

SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
ALL_LAYERS = "all layers"


class Curves(dict[str, list[float]]):
    """One curve for each layer, and one for all layers together: the score at each of `sparsities`.

    >>> print(Curves({"all layers": [0.99, 0.5]}, sparsities=(0.0, 0.9)))
    sparsity       0%    90%
    all layers  0.990  0.500
    """

    def __init__(self, curves: Mapping[str, list[float]], sparsities: Sequence[float]) -> None:
        super().__init__(curves)
        self.sparsities = tuple(sparsities)

    def __str__(self) -> str:
        columns = ("sparsity", *(f"{100 * sparsity:g}%" for sparsity in self.sparsities))
        return str(Table(columns, tuple((name, *(f"{v:.3f}" for v in curve)) for name, curve in self.items())))


def sensitivity(
    model: nn.Module,
    score: Callable[[nn.Module], float],
    *,
    sparsities: Sequence[float] = SPARSITIES,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    **method: Any,
) -> Curves:
    """Return one curve for each layer and one for all layers together: the score at each sparsity.

    Each point prunes a new copy of the model once, without training. A sparsity that a layer can't have (it rounds to
    no weight at all) repeats the previous point.

    Args:
        model: any module; it is not changed.
        score: a measure of a pruned model, such as its accuracy on validation data; never on test data, since
            sparsities are chosen by the curve.
        sparsities: rising, in [0, 1).
        include: the parameters to prune, as in `prune`.
        exclude: the parameters not to prune, as in `prune`.
        **method: criterion, pattern, scope and so on, as in `prune`.

    Raises:
        ValueError: as `prune`.
    """
    pattern = patterns.resolve(method.get("pattern", "unstructured"))
    layers = list(prunable(model, pattern, include, exclude))
    selections = {ALL_LAYERS: layers} | {name: [name] for name in layers}
    whole = score(model)
    curves = {label: _curve(model, score, sparsities, names, method, whole) for label, names in selections.items()}
    return Curves(curves, sparsities)


def _curve(
    model: nn.Module,
    score: Callable[[nn.Module], float],
    sparsities: Sequence[float],
    names: list[str],
    method: dict[str, Any],
    whole: float,
) -> list[float]:
    parameters = dict(model.named_parameters())
    num_weights = sum(parameters[name].numel() for name in names)
    curve: list[float] = []
    for sparsity in sparsities:
        removed = round(sparsity * num_weights)
        if removed == 0 or removed > num_weights - len(names):
            curve.append(curve[-1] if curve else whole)
            continue
        pruned = copy_model(model)
        prune(pruned, sparsity, include=names, **method)
        curve.append(score(pruned))
    return curve
