"""The interface of torch.nn.utils.prune, with a global pruning that does not concatenate the weights.

Old code runs with only its import changed: the classes are the same objects, so isinstance holds across both
modules, and each handles models that the other pruned. Only `global_unstructured` with `L1Unstructured` is
implemented here. It differs from PyTorch's in these points only:

- it is faster and needs a fraction of the memory;
- among scores equal to the threshold it prunes those of earlier parameters first, and within a parameter the first,
  as a stable sort would; PyTorch prunes as many, but does not define which;
- `parameters` may be a generator, need not be contiguous and may be on different devices, where PyTorch raises;
- a parameter that is sparse, quantized, not initialised, or without values raises ValueError before any is pruned;
- the hook that it adds keeps its copy of the mask as bools.

Scores that can't be ordered here (NaN, or not of a floating dtype) are passed on to PyTorch's function.

>>> import torch
>>> import prunus.torch_prune as prune
>>> net = torch.nn.Sequential(torch.nn.Linear(10, 4), torch.nn.Linear(4, 1))
>>> prune.global_unstructured([(net[0], "weight"), (net[1], "weight")], prune.L1Unstructured, amount=0.25)
>>> sum(int((layer.weight == 0).sum()) for layer in net)
11
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as _theirs
from torch.nn.utils.prune import (
    BasePruningMethod,
    CustomFromMask,
    Identity,
    L1Unstructured,
    LnStructured,
    PruningContainer,
    RandomStructured,
    RandomUnstructured,
    custom_from_mask,
    identity,
    is_pruned,
    l1_unstructured,
    ln_structured,
    random_structured,
    random_unstructured,
    remove,
)

from prunus.pruning import select
from prunus.supported import check_module, check_values

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]


def __getattr__(name: str) -> Any:
    """Return any other name of torch.nn.utils.prune, such as private functions that old code uses."""
    return getattr(_theirs, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_theirs)})


def global_unstructured(
    parameters: Iterable[tuple[nn.Module, str]],
    pruning_method: Any,
    importance_scores: dict[tuple[nn.Module, str], Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Prune the parameters together: the smallest scores over all of them are pruned.

    Each module gets a buffer ``<name>_mask``, its parameter moves to ``<name>_orig``, and ``<name>`` becomes their
    product, recomputed before each forward pass. Weights pruned before stay pruned and do not count.

    Args:
        parameters: pairs of a module and the name of one of its parameters.
        pruning_method: `L1Unstructured`, which prunes the smallest absolute values; or any other class with
            ``PRUNING_TYPE = "unstructured"``, which PyTorch's function runs.
        importance_scores: pair -> scores of the parameter's shape, whose absolute values are compared instead of the
            parameter's.
        kwargs: for the method: ``amount``, a fraction in [0, 1] of the weights not pruned yet, or their number.

    Raises:
        TypeError: an argument is of the wrong kind, or the method is not unstructured.
        ValueError: the amount is out of range, or a parameter is not a dense tensor with values.
    """
    masks = None
    if isinstance(parameters, Iterable):
        parameters = [(module, name) for module, name in parameters]
        if pruning_method is L1Unstructured and isinstance(importance_scores, dict | None):
            masks = _without_smallest(parameters, importance_scores or {}, L1Unstructured(**kwargs).amount)
    if masks is None:
        _theirs.global_unstructured(parameters, pruning_method, importance_scores, **kwargs)
        return
    for (module, name), mask in zip(parameters, masks, strict=True):
        custom_from_mask(module, name, mask=mask)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class _Importance(select.Scores):
    """Absolute values; infinity for weights that an earlier mask pruned, so that they are not among the smallest."""

    values: Tensor
    mask: Tensor | None

    @property
    def count(self) -> int:
        return self.values.numel()

    @property
    def num_left(self) -> int:
        return self.count if self.mask is None else int((self.mask == 1).sum())

    def chunks(self) -> Iterator[Tensor]:
        pieces = select.WholeScores(self.values).chunks()
        if self.mask is None:
            return map(torch.abs, pieces)
        return map(_score, pieces, select.WholeScores(self.mask).chunks())

    def sample(self, stride: int) -> Tensor:
        values = self.values.flatten()[::stride]
        return values.abs() if self.mask is None else _score(values, self.mask.flatten()[::stride])


def _score(values: Tensor, mask: Tensor) -> Tensor:
    return values.abs().masked_fill_(mask.to(values.device) != 1, math.inf)


def _without_smallest(
    pairs: Sequence[tuple[nn.Module, str]], scores: Mapping[tuple[nn.Module, str], Tensor], amount: float
) -> list[Tensor] | None:
    """Return a mask per parameter that prunes the smallest scores of all; None if PyTorch's function has to do it."""
    for module, name in pairs:
        check_module(module)
        tensor = getattr(module, name)
        if not {name, f"{name}_orig"} & module._parameters.keys() or not isinstance(tensor, Tensor):
            raise TypeError(f"{name!r} of a {type(module).__name__} is not one of its own parameters")
        check_values(f"{type(module).__name__}.{name}", tensor)
    tensors = [getattr(module, name).detach() for module, name in pairs]
    sources = [
        _Importance(scores.get((module, name), tensor).detach(), getattr(module, f"{name}_mask", None))
        for (module, name), tensor in zip(pairs, tensors, strict=True)
    ]
    ordered = (source.values.is_floating_point() and source.values.element_size() > 1 for source in sources)
    if not all(ordered) or not sources:
        return None
    if [source.count for source in sources] != [tensor.numel() for tensor in tensors]:
        return None
    num_left = sum(source.num_left for source in sources)
    k = _theirs._compute_nparams_toprune(amount, num_left)  # type: ignore[no-untyped-call]
    _theirs._validate_pruning_amount(k, num_left)
    try:
        counts, near = select.count_smallest(sources, k)
    except select.NanScoresError:
        return None
    if near.value == math.inf:  # infinite scores could not be distinguished from weights pruned before
        return None
    masks = []
    for source, count, tensor in zip(sources, counts, tensors, strict=True):
        pruned = select.pick(source, count, near).view(tensor.shape).to(tensor.device)
        masks.append(pruned.logical_not_() if source.mask is None else source.mask.masked_fill(pruned, 0))
    return masks
