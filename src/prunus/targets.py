"""Which parameters of a model are pruned: the sensible ones, or those the user names."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn
from torch.nn.parameter import UninitializedParameter

from prunus.registry import unknown_name

Selector: TypeAlias = str | type[nn.Module]

# What holds weights that multiply activations. Embeddings are look-up tables, norms and biases are few and
# matter much: those are pruned only when named.
PRUNABLE: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)


@dataclass(frozen=True)
class Target:
    """A parameter to prune, with the modules that hold it (several, where weights are tied)."""

    name: str
    parameter: nn.Parameter
    module: nn.Module
    attribute: str
    modules: tuple[nn.Module, ...]
    aliases: tuple[str, ...]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module from inside DistributedDataParallel or torch.compile's wrapper."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def resolve(model: nn.Module, include: Sequence[Selector] = (), exclude: Sequence[Selector] = ()) -> dict[str, Target]:
    """Return the parameters to prune, by name, in the model's order; a tied weight appears once.

    A selector is a parameter's name (``"fc.bias"``), a module's name (``"conv1"``), a pattern over either
    (``"encoder.*"``), or a module's class (``nn.Linear``, or its name ``"Linear"``). A module stands for its
    weights of two or more dimensions; a bias or a norm is only taken where its own name is matched.

    Args:
        model: the model; it is not changed.
        include: prune only what matches one of these; empty means every weight of a Linear, convolution,
            attention or recurrent layer.
        exclude: leave out what matches one of these.

    Raises:
        TypeError: `model` is not a Module, or a selector is neither a string nor a Module class.
        ValueError: a selector matches nothing, nothing is left to prune, or a parameter can't be pruned.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    everything = _parameters(unwrap(model))
    chosen = {name for name, target in everything.items() if _by_default(target)}
    if include := _listed(include, "include"):
        chosen = set().union(*(_matches(everything, selector, "include") for selector in include))
    for selector in _listed(exclude, "exclude"):
        chosen -= _matches(everything, selector, "exclude")
    targets = {name: target for name, target in everything.items() if name in chosen}
    if not targets:
        raise ValueError(
            "nothing to prune: no parameter is left after include and exclude; by default prunus takes the "
            "weights of Linear, convolution, attention and recurrent layers, and this model "
            f"({type(unwrap(model)).__name__}) has the parameters {', '.join(list(everything)[:8]) or 'none'}"
        )
    for target in targets.values():
        _check(target)
    return targets


def _listed(selectors: Sequence[Selector], kind: str) -> tuple[Selector, ...]:
    listed = (selectors,) if isinstance(selectors, (str, type)) else tuple(selectors)
    for selector in listed:
        if not isinstance(selector, str) and not (isinstance(selector, type) and issubclass(selector, nn.Module)):
            raise TypeError(f"{kind} takes names, patterns and Module classes, got {selector!r}")
    return listed


def _parameters(model: nn.Module) -> dict[str, Target]:
    holders: dict[int, list[tuple[str, nn.Module, str]]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            holders.setdefault(id(parameter), []).append((name, module, attribute))
            parameters[id(parameter)] = parameter
    targets = {}
    for key, found in holders.items():
        name, module, attribute = found[0]
        modules = tuple(dict.fromkeys(holder for _, holder, _ in found))
        targets[name] = Target(name, parameters[key], module, attribute, modules, tuple(n for n, _, _ in found))
    return targets


def _by_default(target: Target) -> bool:
    return isinstance(target.module, PRUNABLE) and _stands_for(target)


def _matches(everything: dict[str, Target], selector: Selector, kind: str) -> set[str]:
    found = {name for name, target in everything.items() if _match(target, selector)}
    if not found:
        label = selector if isinstance(selector, str) else selector.__name__
        modules = (alias.rpartition(".")[0] for target in everything.values() for alias in target.aliases)
        classes = (type(module).__name__ for target in everything.values() for module in target.modules)
        known = {*everything, *filter(None, modules), *classes}
        raise unknown_name(f"layer in {kind}", label, known)
    return found


def _match(target: Target, selector: Selector) -> bool:
    if isinstance(selector, type):
        return _stands_for(target) and any(isinstance(module, selector) for module in target.modules)
    if any(fnmatch.fnmatchcase(alias, selector) and _named(target, alias, selector) for alias in target.aliases):
        return True
    modules = {parent for alias in target.aliases for parent in _parents(alias)}
    classes = {type(module).__name__ for module in target.modules}
    matched = selector in classes or any(fnmatch.fnmatchcase(module, selector) for module in modules)
    return matched and _stands_for(target)


def _named(target: Target, alias: str, selector: str) -> bool:
    """A pattern names a bias or a norm only through its last part: ``"*.bias"`` does, ``"layer1*"`` does not."""
    if alias == selector or _stands_for(target):
        return True
    last = selector.rpartition(".")[2]
    return last.strip("*?") != "" and fnmatch.fnmatchcase(target.attribute, last)


def _stands_for(target: Target) -> bool:
    """Tell whether naming its module means this parameter: a matrix or more, no bias and no norm."""
    if "bias" in target.attribute or isinstance(target.module, nn.LayerNorm | nn.RMSNorm):
        return False
    return isinstance(target.parameter, UninitializedParameter) or target.parameter.dim() >= 2


def _parents(name: str) -> Iterable[str]:
    parent = name.rpartition(".")[0]
    while parent:
        yield parent
        parent = parent.rpartition(".")[0]


def _check(target: Target) -> None:
    parameter, name = target.parameter, target.name
    if isinstance(parameter, UninitializedParameter):
        raise ValueError(f"{name!r} is not initialised yet; run the model once on an example input first")
    if parameter.is_meta:
        raise ValueError(f"{name!r} is on the meta device and holds no values; load its weights first")
    if not parameter.is_floating_point() or parameter.element_size() < 2:
        raise ValueError(f"{name!r} has dtype {parameter.dtype}; expected float16, bfloat16, float32 or float64")
    if target.attribute.endswith("_orig") and hasattr(target.module, f"{target.attribute[:-5]}_mask"):
        raise ValueError(
            f"{name!r} belongs to torch.nn.utils.prune, which keeps a mask inside the model; take its masks with "
            "masks = prunus.Masks.from_torch(model), make the model plain with torch.nn.utils.prune.remove, "
            "and pass masks=masks"
        )
