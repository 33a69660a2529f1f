"""Torch-Pruning, used as its README says: what `channels.py` and `channels_accuracy.py` hold prunus against.

pip install torch-pruning==1.6.1
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_PRODUCTS = ("Addmm", "Mm", "Bmm", "Convolution", "AddBmm", "Baddbmm", "EmbeddingBackward")


def tensors_of(output: Any) -> list[Tensor]:
    """Return all tensors of an output, in order, whatever holds them."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if hasattr(output, "values") else output
    return [tensor for value in values if value is not None for tensor in tensors_of(value)]


def output_layers(model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> list[nn.Module]:
    """Return the modules whose weights make the model's outputs: the last products before them in autograd's graph.

    Their output channels are the model's own, so pruning them would change its interface.
    """
    weights = {id(weight) for output in tensors_of(model(*args, **kwargs)) for weight in _last_weights(output.grad_fn)}
    return [
        module
        for module in model.modules()
        if any(id(parameter) in weights for parameter in module.parameters(recurse=False))
    ]


def _last_weights(node: Any) -> Iterator[Tensor]:
    """Walk back from a node, up to the first products on each way; yield the matrices that they multiply by."""
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        following = [next_node for next_node, _ in node.next_functions]
        if any(name in node.name() for name in _PRODUCTS):
            yield from _leaves(following)
        else:
            waiting += following


def _leaves(nodes: list[Any]) -> Iterator[Tensor]:
    for node in nodes:
        if node is not None and node.name().startswith(("TBackward", "TransposeBackward")):
            node = node.next_functions[0][0]
        if hasattr(node, "variable") and node.variable.dim() >= 2:
            yield node.variable


def make_pruner(model: nn.Module, example_inputs: Any, ignored: list[nn.Module], ratio: float, **settings: Any) -> Any:
    """Return Torch-Pruning's pruner, ready for `step()`; its README's quick start, without rounding to 8 channels.

    Args:
        model: pruned in place by `step()`.
        example_inputs: a tensor, a tuple of them, or a dict by name.
        ignored: modules whose output channels stay.
        ratio: of each group's channels, to remove.
        settings: more of BasePruner's own: importance (by default MagnitudeImportance), global_pruning,
            iterative_steps.
    """
    import torch_pruning as tp

    settings.setdefault("importance", tp.importance.MagnitudeImportance(p=2))
    # Its default arguments are dicts that it writes into, so that one model's layers would be met in the next.
    fresh: dict[str, Any] = {"in_channel_groups": {}, "out_channel_groups": {}, "num_heads": {}}
    return tp.pruner.BasePruner(model, example_inputs, pruning_ratio=ratio, ignored_layers=ignored, **fresh | settings)


_PROJECTIONS = {"qkv", "query", "key", "value", "q_proj", "k_proj", "v_proj", "wq", "wk", "wv"}
_KEYS_AND_VALUES = {"k_proj", "v_proj", "wk", "wv"}
_HEAD_SIZES = ("head_dim", "attention_head_size")
_ALL_HEADS_SIZES = ("all_head_size", "embed_dim")


def attention_heads(model: nn.Module) -> dict[nn.Module, int]:
    """Return for each layer that makes queries, keys or values how many heads its outputs are seen as."""
    heads: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            heads[module] = module.num_heads
        for name, child in module.named_children():
            if name in _PROJECTIONS and isinstance(child, nn.Linear):
                heads[child] = _number_of_heads(module, name)
    return heads


def _number_of_heads(attention: Any, name: str) -> int:
    config = getattr(attention, "config", None)
    if name in _KEYS_AND_VALUES:
        for owner, attribute in ((attention, "num_kv_heads"), (config, "num_key_value_heads")):
            if hasattr(owner, attribute):
                return int(getattr(owner, attribute))
    for owner, attribute in (
        (attention, "num_heads"),
        (attention, "num_attention_heads"),
        (config, "num_attention_heads"),
    ):
        if hasattr(owner, attribute):
            return int(getattr(owner, attribute))
    raise ValueError(f"{type(attention).__name__} doesn't say how many heads it has")


def tell_head_sizes(model: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Set what attention modules keep of their heads' sizes to what their layers have now."""
    for module in model.modules():
        for name, child in module.named_children():
            if child in heads and isinstance(child, nn.Linear):
                total = child.out_features // (3 if name == "qkv" else 1)
                new = dict.fromkeys(_HEAD_SIZES, total // heads[child])
                if name not in _KEYS_AND_VALUES:
                    new |= dict.fromkeys(_ALL_HEADS_SIZES, total)
                for attribute, value in new.items():
                    if hasattr(module, attribute):
                        setattr(module, attribute, value)


def masked_as(original: nn.Module, smaller: nn.Module) -> nn.Module | None:
    """Return a copy of the original with zeros in place of all that the smaller model lacks.

    What was kept is found by value, so the original's numbers must all differ (random float64 does). None if a
    parameter of the smaller model isn't a part of the original's one of its name.
    """
    masked = copy.deepcopy(original)
    parameters = dict(smaller.named_parameters(remove_duplicate=False))
    ties = {name: id(parameter) for name, parameter in parameters.items()}
    with torch.no_grad():
        done: dict[int, int] = {}
        for name, parameter in masked.named_parameters(remove_duplicate=False):
            if done.setdefault(id(parameter), ties.get(name, 0)) != ties.get(name):
                return None  # tied in the original, no longer in the smaller model
            kept = kept_indices(parameter, parameters[name]) if name in parameters else None
            if kept is None:
                return None
            _keep_only(parameter, kept)
    return masked


def _keep_only(parameter: Tensor, kept: list[Tensor]) -> None:
    for dim, indices in enumerate(kept):
        gone = torch.ones(parameter.shape[dim], dtype=torch.bool)
        gone[indices] = False
        parameter.index_fill_(dim, gone.nonzero().flatten(), 0)


def kept_indices(original: Tensor, smaller: Tensor) -> list[Tensor] | None:
    """Return for each dimension the indices of the original that make the smaller tensor; None if there are none.

    >>> kept_indices(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[4.0]]))
    [tensor([1]), tensor([1])]
    """
    if original.dim() != smaller.dim() or smaller.numel() == 0:
        return None
    values, order = original.detach().flatten().sort()
    kept = []
    for dim in range(original.dim()):
        line = smaller.detach()[tuple(slice(None) if at == dim else 0 for at in range(smaller.dim()))]
        places = torch.searchsorted(values, line).clamp(max=len(values) - 1)
        kept.append(torch.stack(torch.unravel_index(order[places], original.shape))[dim])
    found = original
    for dim, indices in enumerate(kept):
        found = found.index_select(dim, indices)
    return kept if torch.equal(found, smaller) else None
