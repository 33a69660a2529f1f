"""The smaller model as an instance of its own class: parameters cut, attributes that tell the truth."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from prunus.copying import copy_model
from prunus.coupling import Coupling, Use, Value
from prunus.graph import module_path
from prunus.shrinking.kept import Kept

# Module name -> old size -> new size: which numbers a module's attributes may have to change to.
Changes = dict[str, dict[int, int]]


def rebuild(model: nn.Module, kept: Kept, biases: Mapping[str, Tensor], *, ancestors: bool) -> nn.Module:
    """Return a copy of a model with only what is kept.

    Args:
        model: the model; parts that stay are copied too.
        kept: what stays of each parameter and buffer.
        biases: new biases by name, whole; they are cut like the ones they take the place of.
        ancestors: whether sizes used in a module's forward may also be attributes of the modules around it.
    """
    names = canonical_names(model, kept.coupling)
    memo: dict[int, Any] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if id(tensor) in memo or (own := names.get(id(tensor))) is None:
            continue
        whole = biases.get(name, tensor.detach()).to(tensor.dtype)
        memo[id(tensor)] = _like(tensor, kept.cut(own, whole))
    smaller = copy_model(model, memo)
    _add_biases(smaller, model, kept, biases)
    uses = {use.weight.name: use for use in kept.coupling.uses}
    changes = size_changes(kept, ancestors=ancestors)
    originals = dict(model.named_modules())
    for path, module in smaller.named_modules():
        _tell_truth(path, module, originals[path], uses, kept, changes.get(path, {}))
    return smaller


def canonical_names(model: nn.Module, coupling: Coupling) -> dict[int, str]:
    """Return tensor id -> the name that the graph has for it: of several names of a tied weight it knows one."""
    known = set(coupling.graph.tensors.values())
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    found = {id(tensor): name for name, tensor in reversed(named)}
    return found | {id(tensor): name for name, tensor in named if name in known}


def _like(tensor: Tensor, content: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(content, requires_grad=tensor.requires_grad)
    return content


def _add_biases(smaller: nn.Module, model: nn.Module, kept: Kept, biases: Mapping[str, Tensor]) -> None:
    """Give a bias to layers that had none."""
    known = dict(model.named_parameters(remove_duplicate=False))
    for name, bias in biases.items():
        if name in known:
            continue
        path, _, attribute = name.rpartition(".")
        layer = smaller.get_submodule(path)
        weight = known[f"{path}.weight" if path else "weight"]
        outputs = bias_outputs(kept, f"{path}.weight" if path else "weight")
        content = bias if outputs is None else bias[outputs]
        setattr(layer, attribute, nn.Parameter(content.to(weight.dtype).to(weight.device)))


def bias_outputs(kept: Kept, weight: str) -> Tensor | None:
    """Return which outputs of a weight stay, as indices; None where all do."""
    use = next(use for use in kept.coupling.uses if use.weight.name == weight)
    if use.outputs is None:
        return None
    return (~kept.gone[kept.coupling.class_of[use.outputs]]).nonzero().flatten()


def _tell_truth(
    path: str, module: nn.Module, original: nn.Module, uses: Mapping[str, Use], kept: Kept, changes: Mapping[int, int]
) -> None:
    before = {name: tensor.shape for name, tensor in _own_tensors(original).items()}
    after = {name: tensor.shape for name, tensor in _own_tensors(module).items()}
    changed = {name for name in before if before[name] != after[name]}
    for kinds, tell in _TELLERS:
        if isinstance(module, kinds):
            if changed:
                weight = f"{path}.weight" if path else "weight"
                tell(module, original, uses.get(weight), kept)
            elif not before:
                _tell_without_tensors(module, changes)
            return
    used = next((name for name in changed if f"{path}.{name}".lstrip(".") in uses), None)
    own: dict[bool, dict[int, int]] = {True: {}, False: {}}
    if used is not None:
        order = uses[f"{path}.{used}".lstrip(".")].order
        for of_inputs in (False, True):
            own[of_inputs] = {before[used][order[of_inputs]]: after[used][order[of_inputs]]}
    for attribute, value in vars(module).items():
        if type(value) is int and not attribute.startswith("_"):
            sizes = own[bool(_OF_INPUTS.search(attribute))]
            setattr(module, attribute, sizes[value] if value in sizes else changes.get(value, value))


def _tell_without_tensors(module: Any, changes: Mapping[int, int]) -> None:
    """A norm that has no weights goes by the size of what it normalises."""
    if isinstance(module, nn.GroupNorm):
        per_group = module.num_channels // module.num_groups
        module.num_channels = changes.get(module.num_channels, module.num_channels)
        module.num_groups = module.num_channels // per_group
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = changes.get(module.num_features, module.num_features)


# Attributes that hold the size of a layer's input; others hold that of its output.
_OF_INPUTS = re.compile(r"(^|_)(in|nx|input|fan_in)(_|$)")


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    named = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return dict(named)


def size_changes(kept: Kept, *, ancestors: bool) -> Changes:
    """Return which sizes of activations change in the forward of each module."""
    changes: Changes = {}
    values = kept.coupling.values
    for node, found in values.items():
        stack = node.meta.get("nn_module_stack") or {}
        paths = [path for path, _ in stack.values()] if ancestors else [module_path(node)]
        for value in found if isinstance(found, list) else [found]:
            if not isinstance(value, Value) or not value.labelled or node.op != "call_function":
                continue
            for old, new in zip(value.shape, kept.shape(value), strict=True):
                if old != new:
                    for path in paths:
                        changes.setdefault(path, {}).setdefault(old, new)
    return changes


def _conv(module: Any, original: Any, use: Use | None, kept: Kept) -> None:
    transposed = isinstance(module, _ConvTransposeNd)
    first, second = module.weight.shape[:2]
    if use is None or original.groups == 1:
        module.in_channels, module.out_channels = (first, second) if transposed else (second, first)
        return
    ends = use.outputs if transposed else use.inputs
    whole = original.out_channels if transposed else original.in_channels
    left = whole if ends is None else int((~kept.gone[kept.coupling.class_of[ends]]).sum())
    module.groups = left // second
    module.in_channels, module.out_channels = (first, left) if transposed else (left, first)


def _linear(module: Any, original: Any, use: Use | None, kept: Kept) -> None:
    module.out_features, module.in_features = module.weight.shape


def _embedding(module: Any, original: Any, use: Use | None, kept: Kept) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _channel_norm(module: Any, original: Any, use: Use | None, kept: Kept) -> None:
    like = module.weight if module.weight is not None else module.running_mean
    module.num_features = like.shape[0]


def _group_norm(module: Any, original: Any, use: Use | None, kept: Kept) -> None:
    per_group = original.num_channels // original.num_groups
    module.num_channels = module.weight.shape[0]
    module.num_groups = module.num_channels // per_group


def _recurrent(module: Any, original: Any, use: Use | None, kept: Kept) -> None:
    module.hidden_size = module.weight_hh_l0.shape[1]
    module.input_size = module.weight_ih_l0.shape[1]


def _prelu(module: Any, original: Any, use: Use | None, kept: Kept) -> None:
    module.num_parameters = module.weight.shape[0]


_TELLERS: tuple[tuple[Any, Callable[[Any, Any, Use | None, Kept], None]], ...] = (
    (_ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.Embedding, _embedding),
    (nn.modules.batchnorm._NormBase, _channel_norm),
    (nn.GroupNorm, _group_norm),
    (nn.RNNBase, _recurrent),
    (nn.PReLU, _prelu),
)
