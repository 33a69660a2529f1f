"""torch.nn.utils.prune's own interface, with its global path replaced by one that does not join the weights.

Import it in place of theirs and old code runs: the classes are the very same, so that isinstance holds across
both and models pruned by one are understood by the other. Only `global_unstructured` with `L1Unstructured` is
ours. It differs from theirs in this, and in nothing else:

- it is faster and needs a small part of the memory;
- among scores equal to the threshold it prunes the earliest parameter's first, and within a parameter the first,
  as a stable sort would; theirs leaves open which ones go, and prunes as many;
- `parameters` may be a generator, need not be contiguous and may lie on different devices, where theirs raises;
- a parameter that is sparse, quantized, not initialised, or without values is a ValueError, before any is pruned;
- the hook it leaves behind keeps its copy of the mask as bools.

Whatever has no order of its own (NaN, scores that are not of floating dtype) goes through theirs.

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
    """Hand out what else lives in theirs, such as the private functions that old code reaches for."""
    return getattr(_theirs, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_theirs)})


def global_unstructured(
    parameters: Iterable[tuple[nn.Module, str]],
    pruning_method: Any,
    importance_scores: dict[tuple[nn.Module, str], Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Prune the parameters together: which ones go is decided over all of them at once.

    Each module gets a buffer ``<name>_mask``, its parameter moves to ``<name>_orig``, and ``<name>`` becomes their
    product, renewed before each forward pass. What was pruned before stays pruned and does not count.

    Args:
        parameters: pairs of a module and the name of one of its parameters.
        pruning_method: `L1Unstructured`, which prunes the smallest absolute values; or any other class with
            ``PRUNING_TYPE = "unstructured"``, which runs as it would in theirs.
        importance_scores: for a pair, scores of the parameter's shape whose absolute values are compared
            in place of the parameter's own.
        kwargs: for the method: ``amount``, a fraction in [0, 1] of what is not pruned yet, or an int.

    Raises:
        TypeError: an argument is of the wrong kind, or the method is not unstructured.
        ValueError: the amount is out of range, or a parameter is no dense tensor with values.
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
    """Absolute values; infinity for what an earlier mask pruned, so that it is not among the smallest."""

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
    """Return one mask for each parameter that prunes the smallest of all; None where theirs has to decide."""
    for module, name in pairs:
        check_module(module)
        tensor = getattr(module, name)
        if not {name, f"{name}_orig"} & module._parameters.keys() or not isinstance(tensor, Tensor):
            raise TypeError(f"{name!r} of a {type(module).__name__} is no parameter of its own")
        check_values(f"{type(module).__name__}.{name}", tensor)
    tensors = [getattr(module, name).detach() for module, name in pairs]
    sources = [
        _Importance(scores.get((module, name), tensor).detach(), getattr(module, f"{name}_mask", None))
        for (module, name), tensor in zip(pairs, tensors, strict=True)
    ]
    known = (source.values.is_floating_point() and source.values.element_size() > 1 for source in sources)
    if not all(known) or not sources:
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
    if near.value == math.inf:  # infinite scores would not be told from what was pruned before
        return None
    masks = []
    for source, count, tensor in zip(sources, counts, tensors, strict=True):
        pruned = select.pick(source, count, near).view(tensor.shape).to(tensor.device)
        masks.append(pruned.logical_not_() if source.mask is None else source.mask.masked_fill(pruned, 0))
    return masks
