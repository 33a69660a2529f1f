"""The scope that removes what the outputs miss least, by curves of the layers that are measured first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from prunus.pruning.allocation import ByCurves
from prunus.pruning.budgets import Range
from prunus.pruning.by_layer import ByLayer
from prunus.pruning.finding import check_data, find_masks, layer_curves, reachable, unscored
from prunus.pruning.masks import Masks
from prunus.pruning.method import Method
from prunus.pruning.patterns import num_gone
from prunus.pruning.scopes import Scope
from prunus.pruning.stats import Batch
from prunus.pruning.targets import Target


def measured(
    method: Method,
    model: nn.Module,
    targets: Mapping[str, Target],
    *,
    masks: Mapping[str, Tensor] | None,
    data: Iterable[Batch] | None,
    shares: Mapping[str, float] | None = None,
) -> Method:
    """Return a method that spreads by curves, which are measured now; another method as it is.

    Args:
        method: the method.
        model: the model, which is not changed.
        targets: the parameters that are pruned.
        masks: as `prune`.
        data: as `prune`, but it is read more than once.
        shares: parameter -> what it adds to the cost that is to be met; None if units cost alike.

    Raises:
        ValueError: there is no data.
    """
    if not method.scope.needs_curves:
        return method
    check_data(method, data)
    assert data is not None
    sizes = {name: method.pattern.num_units(target.parameter.shape) for name, target in targets.items()}
    prices = {name: shares.get(name, 0.0) / size for name, size in sizes.items()} if shares else {}
    curves = layer_curves(model, targets, method, masks, data)
    return replace(method, scope=Scope(ByCurves(curves, prices), method.scope.min_kept))


def find_within(
    model: nn.Module,
    targets: Mapping[str, Target],
    method: Method,
    share: float,
    *,
    masks: Mapping[str, Tensor] | None,
    data: Iterable[Batch] | None,
) -> Masks:
    """Find masks that remove a share of what the weights cost, as `finding.find_masks` does of how many they are."""
    spreading = method.scope.spreading
    if not isinstance(spreading, ByCurves):
        return find_masks(model, targets, method, share, masks=masks, data=data)
    layers = unscored(targets, method, masks)
    counts = spreading.within(layers, 1 - share)
    sparsity = sum(counts) / sum(layer.count for layer in layers)
    by_hand = _by_hand(method, {layer.name: count for layer, count in zip(layers, counts, strict=True)})
    return find_masks(model, targets, by_hand, sparsity, masks=masks, data=data)


def reachable_within(targets: Mapping[str, Target], method: Method, masks: Mapping[str, Tensor] | None) -> Range:
    """Return the shares that `find_within` can meet."""
    spreading = method.scope.spreading
    if not isinstance(spreading, ByCurves):
        return reachable(targets, method, masks)
    layers = unscored(targets, method, masks)
    total = spreading.cost(layers, [layer.count for layer in layers])
    fewest, most = [layer.fewest for layer in layers], [layer.most for layer in layers]
    return Range(spreading.cost(layers, fewest) / total, spreading.cost(layers, most) / total)


def settled(method: Method, targets: Mapping[str, Target], masks: Masks) -> Method:
    """Return a method that comes to the counts of masks step by step, if it spreads by curves."""
    if not isinstance(method.scope.spreading, ByCurves):
        return method
    return _by_hand(method, {name: num_gone(method.pattern, masks[name]) for name in targets})


def _by_hand(method: Method, counts: Mapping[str, int]) -> Method:
    return replace(method, scope=Scope(ByLayer(counts), method.scope.min_kept))
