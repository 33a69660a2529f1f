"""Find masks: score -> pool -> spread -> pick -> expand. The model is not changed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from prunus.errors import MaskError
from prunus.pruning import curves, select, stats
from prunus.pruning.allocation import Curve
from prunus.pruning.budgets import Range
from prunus.pruning.criteria import ON_INPUTS, Criterion
from prunus.pruning.masks import Masks, check_shape
from prunus.pruning.method import Method
from prunus.pruning.patterns import Pattern, num_missing
from prunus.pruning.scoring import LayerScores
from prunus.pruning.stats import Batch, Stats
from prunus.pruning.targets import Target
from prunus.supported import unwrap


def find_masks(
    model: nn.Module,
    targets: Mapping[str, Target],
    method: Method,
    sparsity: float,
    *,
    masks: Mapping[str, Tensor] | None = None,
    data: Iterable[Batch] | None = None,
) -> Masks:
    """Find the masks that `prune` would apply; the model is not changed.

    Args:
        model: the model, which is run if the criterion needs data.
        targets: the parameters to prune, from `targets.resolve`.
        method: criterion, pattern and scope.
        sparsity: the fraction of the units to remove now: the method's or less.
        masks: as `prune`.
        data: as `prune`.

    Raises:
        TypeError, ValueError: as `prune`.
    """
    layers = unscored(targets, method, masks)
    budget = _budget(layers, sparsity)
    check_data(method, data)
    layer_stats = gather(unwrap(model), targets, method.criterion, data)
    for layer in layers:
        layer.stats = layer_stats[layer.name]
    try:
        spread = method.scope.spread(layers, budget)
        new_masks = {
            layer.name: _mask(layer, remove, spread.near) for layer, remove in zip(layers, spread.remove, strict=True)
        }
    except select.NanScoresError as error:
        raise _nan_error(layers) from error
    return Masks({**other_masks(masks, targets), **new_masks})


def reachable(targets: Mapping[str, Target], method: Method, masks: Mapping[str, Tensor] | None) -> Range:
    """Return the sparsities that `find_masks` can meet, from that of one more unit than the earlier masks prune."""
    layers = unscored(targets, method, masks)
    total = sum(layer.count for layer in layers)
    return Range(max(1, sum(layer.fewest for layer in layers)) / total, sum(layer.most for layer in layers) / total)


def layer_curves(
    model: nn.Module,
    targets: Mapping[str, Target],
    method: Method,
    masks: Mapping[str, Tensor] | None,
    data: Iterable[Batch],
) -> dict[str, Curve]:
    """Return the error curve of each target; arguments and errors as `find_masks`."""
    layers = unscored(targets, method, masks)
    for name, own in gather(unwrap(model), targets, method.criterion, data).items():
        next(layer for layer in layers if layer.name == name).stats = own

    if any(layer.num_nan_weights() for layer in layers):
        raise _nan_error(layers)

    def mask_of(layer: LayerScores) -> Callable[[int], Tensor]:
        return lambda count: _mask(layer, count, None)

    try:
        return curves.error_curves(
            unwrap(model),
            data,
            [curves.Prunable(targets[layer.name], layer.fewest, layer.most, mask_of(layer)) for layer in layers],
        )
    except select.NanScoresError as error:
        raise _nan_error(layers) from error


def check_reachable(targets: Mapping[str, Target], method: Method, masks: Mapping[str, Tensor] | None) -> None:
    """Make the checks of `find_masks` at the method's sparsity, without computing scores.

    Raises:
        TypeError, ValueError: as `prune`.
    """
    _budget(unscored(targets, method, masks), method.sparsity)


def check_data(method: Method, data: Iterable[Batch] | None) -> None:
    """Check that the data and the loss that the criterion and the scope need are there.

    Raises:
        TypeError: data is one batch instead of many.
        ValueError: data or the criterion's loss is missing.
    """
    criterion = method.criterion
    if isinstance(data, Tensor | Mapping) or (data is not None and not isinstance(data, Iterable)):
        raise TypeError(f"data must be an iterable of batches, got {type(data).__name__}; one batch is data=[batch]")
    if criterion.needs == "gradient" and (data is None) != (criterion.loss is None):
        present, missing = ("a loss", "data") if data is None else ("data", "a loss, as Gradient(loss) has")
        raise ValueError(
            f"criterion {criterion.name!r} got {present} without {missing}; give both, or neither to use the gradients "
            "of the last backward pass"
        )
    if method.scope.needs_curves and data is None:
        raise ValueError("scope 'least_error' measures what the outputs lose; give data=batches of model inputs")
    if criterion.needs in ON_INPUTS and data is None:
        raise ValueError(f"criterion {criterion.name!r} needs the layers' inputs; give data=batches of model inputs")


def earlier_masks(masks: Mapping[str, Tensor] | None, targets: Mapping[str, Target]) -> dict[str, Tensor]:
    """Return the masks of the targets, by the targets' names and on their devices.

    Raises:
        TypeError: a mask is not a bool tensor.
        MaskError: a mask has another shape than its parameter, or no mask is for a target.
    """
    masks = Masks(masks or {})
    fitting = {}
    for name, target in targets.items():
        own = [masks[alias].to(target.parameter.device) for alias in target.aliases if alias in masks]
        for mask in own:
            check_shape(name, mask, target.parameter)
        if own:
            fitting[name] = functools.reduce(torch.logical_and, own)
    if masks and not fitting:
        raise MaskError(
            f"none of the given masks ({', '.join(list(masks)[:3])}, ...) is for a parameter that is pruned here "
            f"({', '.join(list(targets)[:3])}, ...)"
        )
    return fitting


def other_masks(masks: Mapping[str, Tensor] | None, targets: Mapping[str, Target]) -> dict[str, Tensor]:
    """Return the masks of parameters that are not targets: they are kept as they are."""
    names = {alias for target in targets.values() for alias in target.aliases}
    return {name: mask for name, mask in (masks or {}).items() if name not in names}


def from_first_rank(masks: Masks) -> Masks:
    """In data-parallel training, return the masks of the first process in every process."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return masks
    broadcast = {}
    for name, mask in masks.items():
        as_bytes = mask.to(torch.uint8)
        distributed.broadcast(as_bytes, src=0)
        broadcast[name] = as_bytes != 0
    return Masks(broadcast)


def unscored(targets: Mapping[str, Target], method: Method, masks: Mapping[str, Tensor] | None) -> list[LayerScores]:
    """Return the layers of the targets, whose scores are computed when they are read; errors as `find_masks`."""
    for name, target in targets.items():
        method.pattern.check(name, target.parameter.shape)
    earlier = earlier_masks(masks, targets)
    for name, mask in earlier.items():
        _check_room(method.pattern, name, mask)
    return [
        LayerScores(
            name,
            target.parameter,
            method.criterion,
            method.pattern,
            Stats(name),
            earlier.get(name),
            method.scope.min_kept,
        )
        for name, target in targets.items()
    ]


def _check_room(pattern: Pattern, name: str, mask: Tensor) -> None:
    """Raise MaskError if a mask leaves too few weights in some group for the pattern to hold."""
    if missing := num_missing(pattern, mask):
        raise MaskError(
            f"pattern {pattern.name} needs {missing:,} of the weights of {name!r} that the given masks have pruned, "
            "so too few are left in some groups; pruned weights stay pruned, so give masks that leave enough, or "
            f"exclude it, as in exclude=[{name!r}]"
        )


def _budget(layers: Sequence[LayerScores], sparsity: float) -> int:
    """Return how many units to remove, after checking that this is possible."""
    total = sum(layer.count for layer in layers)
    fewest, most = sum(layer.fewest for layer in layers), sum(layer.most for layer in layers)
    budget = round(sparsity * total)
    if budget == 0 and sparsity > 0:
        raise ValueError(
            f"sparsity {sparsity:g} of {total:,} units rounds to none, so nothing would be pruned; the least sparsity "
            f"that removes one is {1 / total:.3g}"
        )
    if budget < fewest:
        raise ValueError(
            f"sparsity {sparsity:g} is below the {fewest / total:.6g} of the given masks; pruned "
            "weights stay pruned, so give a higher sparsity or no masks"
        )
    if budget > most:
        min_kept = layers[0].min_kept
        raise ValueError(
            f"sparsity {sparsity:g} can't be reached: it removes {budget:,} of {total:,} units, but only {most:,} may "
            f"be removed, since every layer keeps at least min_kept={min_kept}; give a lower sparsity, or a scope with "
            "a smaller min_kept (0 lets a layer be emptied), such as Global(min_kept=0)"
        )
    return budget


def gather(
    model: nn.Module,
    targets: Mapping[str, Target],
    criterion: Criterion,
    data: Iterable[Batch] | None,
) -> dict[str, Stats]:
    """Return the statistics of each target that the criterion needs; arguments and errors as `find_masks`."""
    gradients: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    curvatures: dict[str, Tensor] = {}
    if criterion.needs == "gradient" and (data is None or criterion.loss is None):
        gradients = stats.stored_gradients(targets)
    elif criterion.needs == "gradient" and data is not None and criterion.loss is not None:
        gradients = stats.gradients(model, targets, data, criterion.loss)
    elif criterion.needs == "input_norm" and data is not None:
        norms = stats.input_norms(model, targets, data)
    elif criterion.needs == "curvature" and data is not None:
        curvatures = stats.curvatures(model, targets, data)
    return {name: Stats(name, gradients.get(name), norms.get(name), curvatures.get(name)) for name in targets}


def _mask(layer: LayerScores, remove: int, near: select.Threshold | None) -> Tensor:
    keep = select.pick(layer, remove, near).logical_not_()
    layer.release()
    mask = layer.pattern.expand(keep, layer.shape)
    return mask if layer.mask is None else mask & layer.mask


def _nan_error(layers: Sequence[LayerScores]) -> ValueError:
    """Build the error that names the first layer with NaN weights, or if there is none, with NaN scores."""
    for layer in layers:
        if count := layer.num_nan_weights():
            return ValueError(
                f"{layer.name!r} holds {count:,} NaN weights, which can't be ranked; nothing was pruned (did training "
                "diverge? load an earlier checkpoint, or exclude the layer)"
            )
    name = next(layer.name for layer in layers if layer.has_nan_scores())
    return ValueError(
        f"{name!r} gets NaN scores from criterion {layers[0].criterion.name!r}, which can't be ranked; nothing was "
        "pruned (are the data, the loss and the gradients finite?)"
    )
