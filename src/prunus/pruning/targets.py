"""Which parameters of a model are pruned: the default ones, or those that the user names."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn
from torch.nn.parameter import UninitializedParameter

from prunus.registry import unknown_name
from prunus.supported import check_values, unwrap

Selector: TypeAlias = str | type[nn.Module]

# Modules whose weights multiply activations. Embeddings are look-up tables, and norms and biases are few but
# important: they are pruned only if they are named.
PRUNABLE: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)

# The child module in which torch.nn.utils.parametrize keeps the tensors that it computes a weight from, as in
# "fc.parametrizations.weight.original0".
PARAMETRIZATIONS = "parametrizations"


@dataclass(frozen=True)
class Target:
    """A parameter to prune, and its places in the model: several if it is tied.

    Attributes:
        name: its first name in the model.
        parameter: the parameter itself.
        attribute: its name in its layer, such as ``"weight"``.
        modules: the layers it belongs to.
        ancestors: the modules that contain these layers, without the model itself.
        aliases: all its names, including the first.
    """

    name: str
    parameter: nn.Parameter
    attribute: str
    modules: tuple[nn.Module, ...]
    ancestors: tuple[nn.Module, ...]
    aliases: tuple[str, ...]


def resolve(model: nn.Module, include: Sequence[Selector] = (), exclude: Sequence[Selector] = ()) -> dict[str, Target]:
    """Return the parameters to prune, by name, in the model's order; a tied weight appears once.

    A selector is a parameter's name (``"fc.bias"``), a module's name (``"conv1"``), a pattern over either
    (``"encoder.*"``), or a module's class (``nn.Linear``, or its name ``"Linear"``). Including a module includes its
    weights of two or more dimensions; a bias or a norm is included only by its own name. Excluding a module excludes
    all its parameters. Parameters without elements are skipped.

    Args:
        model: the model; it is not changed.
        include: prune only what matches one of these; empty means every weight of a Linear, convolution,
            attention or recurrent layer. A weight that is also an embedding's is pruned only if it is named.
        exclude: leave out what matches one of these.

    Raises:
        TypeError: `model` is not a module, or a selector is neither a string nor a module class.
        ValueError: a selector matches nothing, nothing is left to prune, or a parameter can't be pruned.
    """
    targets = select(model, include, exclude)
    for target in targets.values():
        _check(target)
    return targets


def select(model: nn.Module, include: Sequence[Selector] = (), exclude: Sequence[Selector] = ()) -> dict[str, Target]:
    """Select parameters as `resolve`, without checking their values: also for models on the meta device.

    Raises:
        TypeError, ValueError: as `resolve`, for wrong selectors.
    """
    everything = _parameters(unwrap(model))
    chosen = {name for name, target in everything.items() if _by_default(target)}
    if include := _listed(include, "include"):
        chosen = set().union(*(_included(everything, selector) for selector in include))
    for selector in _listed(exclude, "exclude"):
        chosen -= matching(everything, selector, "exclude")
    targets = {name: target for name, target in everything.items() if name in chosen}
    if not targets:
        raise ValueError(
            "nothing to prune: no parameter is left after include and exclude; by default prunus takes the "
            "weights of Linear, convolution, attention and recurrent layers, and this model "
            f"({type(unwrap(model)).__name__}) has the parameters {', '.join(list(everything)[:8]) or 'none'}"
        )
    return targets


def is_depthwise(target: Target) -> bool:
    """Return whether a parameter is the weight of depthwise convolutions: several groups of one input."""
    return target.attribute == "weight" and all(
        isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.in_channels > 1
        for module in target.modules
    )


def left_out(
    targets: Mapping[str, Target], names: Iterable[str], selectors: Sequence[Selector], why: str
) -> dict[str, Target]:
    """Return targets without some of them.

    Args:
        targets: by name.
        names: what to leave out.
        selectors: what the user named: each has to match something that is left, if it matches anything.
        why: the reason and what to do, for the error.

    Raises:
        ValueError: nothing is left, or a selector matches only what is left out.
    """
    gone = set(names)
    for selector in (*selectors, "*"):
        own = {name for name, target in targets.items() if selects(selector, target)}
        if own and own <= gone:
            raise ValueError(f"nothing is left to prune of {', '.join(sorted(own))}: {why}")
    return {name: target for name, target in targets.items() if name not in gone}


def matched(model: nn.Module, selectors: Sequence[Selector], kind: str) -> set[str]:
    """Return all names of the parameters that selectors match, biases too.

    Args:
        model: the model.
        selectors: as those of `resolve`.
        kind: the argument that they were given for, which errors name.

    Raises:
        TypeError, ValueError: as `resolve`, for wrong selectors.
    """
    everything = _parameters(unwrap(model))
    names: set[str] = set().union(*(matching(everything, entry, kind) for entry in _listed(selectors, kind)))
    return {alias for name in names for alias in everything[name].aliases}


def named(model: nn.Module, names: Iterable[str]) -> dict[str, Target]:
    """Return the targets of these names with the model's present parameters.

    Raises:
        ValueError: the model no longer has such a parameter, or it can no longer be pruned.
    """
    everything = _parameters(unwrap(model))
    targets = {}
    for name in names:
        if name not in everything:
            raise unknown_name("parameter (the model was changed since it was first read)", name, everything)
        targets[name] = everything[name]
        _check(targets[name])
    return targets


def _listed(selectors: Sequence[Selector], kind: str) -> tuple[Selector, ...]:
    listed = (selectors,) if isinstance(selectors, (str, type)) or not isinstance(selectors, Iterable) else selectors
    for selector in listed:
        if not isinstance(selector, str) and not (isinstance(selector, type) and issubclass(selector, nn.Module)):
            raise TypeError(f"{kind} takes names, patterns and Module classes, got {selector!r}")
    return tuple(listed)


def _parameters(model: nn.Module) -> dict[str, Target]:
    modules = dict(model.named_modules(remove_duplicate=False))
    aliases: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for prefix, module in modules.items():
        for attribute, parameter in module.named_parameters(recurse=False):
            aliases.setdefault(id(parameter), []).append(f"{prefix}.{attribute}" if prefix else attribute)
            parameters[id(parameter)] = parameter
    return {names[0]: _target(parameters[key], names, modules) for key, names in aliases.items()}


def _target(parameter: nn.Parameter, aliases: Sequence[str], modules: Mapping[str, nn.Module]) -> Target:
    layers = [_layer_of(alias) for alias in aliases]
    above = (parent for layer in layers for parent in _parents(layer))
    return Target(
        name=aliases[0],
        parameter=parameter,
        attribute=aliases[0].removeprefix(layers[0]).removeprefix("."),
        modules=tuple(dict.fromkeys(modules[layer] for layer in layers)),
        ancestors=tuple(dict.fromkeys(modules[parent] for parent in above)),
        aliases=tuple(aliases),
    )


def _layer_of(name: str) -> str:
    """Return the name of the layer that a parameter belongs to, also if a parametrization of the layer holds it."""
    parts = name.split(".")
    last = parts.index(PARAMETRIZATIONS) if PARAMETRIZATIONS in parts else -1
    return ".".join(parts[:last])


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def _by_default(target: Target) -> bool:
    return all(isinstance(module, PRUNABLE) for module in target.modules) and _is_weight(target)


def _is_weight(target: Target) -> bool:
    """Return whether including the module includes this parameter: two or more dimensions, no bias, no norm."""
    if "bias" in target.attribute or isinstance(target.modules[0], nn.LayerNorm | nn.RMSNorm):
        return False
    parameter = target.parameter
    return isinstance(parameter, UninitializedParameter) or (parameter.dim() >= 2 and parameter.numel() > 0)


def _included(everything: Mapping[str, Target], selector: Selector) -> set[str]:
    matches = matching(everything, selector, "include")
    included = {name for name in matches if _is_weight(everything[name]) or _named(everything[name], selector)}
    if not included:
        label = selector if isinstance(selector, str) else selector.__name__
        names = [name for name in everything if name in matches]
        raise ValueError(
            f"include {label!r} matches no weight of two or more dimensions; a bias or a norm is pruned only if "
            f"it is named itself, as in include={names[:2]}"
        )
    return included


def matching(everything: Mapping[str, Target], selector: Selector, kind: str) -> set[str]:
    """Return the names of the parameters that a selector matches; `kind` is the argument that holds it.

    Raises:
        ValueError: it matches nothing.
    """
    names = {name for name, target in everything.items() if selects(selector, target)}
    if not names:
        label = selector if isinstance(selector, str) else selector.__name__
        modules = (parent for target in everything.values() for alias in target.aliases for parent in _parents(alias))
        classes = (type(module).__name__ for target in everything.values() for module in target.modules)
        raise unknown_name(f"layer in {kind}", label, {*everything, *modules, *classes})
    return names


def selects(selector: Selector, target: Target) -> bool:
    """Return whether a selector matches the parameter, a module that contains it, or the class of such a module."""
    modules = (*target.modules, *target.ancestors)
    if isinstance(selector, type):
        return any(isinstance(module, selector) for module in modules)
    if any(selector == kind.__name__ for module in modules for kind in type(module).__mro__):
        return True
    names = (name for alias in target.aliases for name in (alias, *_parents(alias)))
    return any(name == selector or fnmatch.fnmatchcase(name, selector) for name in names)


def _named(target: Target, selector: Selector) -> bool:
    """Return whether a selector names the parameter itself: ``"*.bias"`` names a bias, ``"layer1*"`` does not."""
    if isinstance(selector, type):
        return False
    last = selector.rpartition(".")[2]
    by_pattern = last.strip("*?") != "" and fnmatch.fnmatchcase(target.attribute, last)
    return any(alias == selector or (by_pattern and fnmatch.fnmatchcase(alias, selector)) for alias in target.aliases)


def _check(target: Target) -> None:
    """Raise ValueError for a parameter that setting values to zero does not prune."""
    parameter, name = target.parameter, target.name
    check_values(name, parameter)
    if not parameter.is_floating_point() or parameter.element_size() < 2:
        raise ValueError(f"{name!r} has dtype {parameter.dtype}; expected float16, bfloat16, float32 or float64")
    if parameter.numel() == 0:
        raise ValueError(f"{name!r} has shape {tuple(parameter.shape)} and holds no weights; don't include it")
    if target.attribute.endswith("_orig") and hasattr(target.modules[0], f"{target.attribute[:-5]}_mask"):
        raise ValueError(
            f"{name!r} belongs to torch.nn.utils.prune, which keeps a mask inside the model; get its masks with "
            "masks = prunus.Masks.from_torch(model), make the model plain with torch.nn.utils.prune.remove, "
            "and pass masks=masks"
        )
    _check_is_the_weight(target)


def _check_is_the_weight(target: Target) -> None:
    """Raise ValueError for a parameter that a weight is computed from: its zeros need not be zeros of the weight."""
    layer = target.modules[0]
    if plain := made_plain_by(layer, target.name):
        raise ValueError(
            f"{target.name!r} is not a weight: a weight of {type(layer).__name__} is computed from it at each "
            f"forward; make it a plain weight with torch.nn.utils.{plain}, or exclude the layer"
        )


def made_plain_by(layer: nn.Module, parameter: str) -> str:
    """Return the call that replaces a parametrized weight by a plain one; empty if the parameter is a plain weight.

    Args:
        layer: the layer of the parameter, or the parametrization that holds it.
        parameter: its name.
    """
    hooks = layer._forward_pre_hooks.values()
    if parameter.endswith(("_g", "_v")) and any(type(hook).__name__ == "WeightNorm" for hook in hooks):
        return "remove_weight_norm(layer)"
    return "parametrize.remove_parametrizations(layer, 'weight')" if PARAMETRIZATIONS in parameter.split(".") else ""
