"""Sizes that modules hold as attributes: which of them have to change with the model, and which only look alike."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from prunus.graph import module_path
from prunus.graph.coupling import Use, Value
from prunus.graph.kept import Kept

# Module name -> old size -> new size: which numbers a module's attributes may have to change to.
Changes = dict[str, dict[int, int]]
# How a layer's weight is used, and what is kept of the graph that it is used in.
UseKept: TypeAlias = tuple[Use, Kept]

# Names that a layer's attributes have for the size of its input, and for that of its output.
_OF_INPUTS = re.compile(r"in|nx|fan_in|(in|input)_(features|channels|planes|size|dim|dims|width)")
_OF_OUTPUTS = re.compile(
    r"out|nf|fan_out|num_(features|channels|parameters)|(out|output|embed|embedding|hidden)_"
    r"(features|channels|planes|size|dim|dims|width)"
)


@dataclass(frozen=True, order=True)
class Attribute:
    """An attribute of some modules of one class, and the number it may have to become.

    Attributes:
        name: of the attribute.
        old, new: what it is, and what it would be.
        paths: the modules that have it.
    """

    name: str
    old: int
    new: int
    paths: tuple[str, ...]

    def write(self, model: nn.Module) -> None:
        """Set it to its new number, in a copy of the model."""
        for path in self.paths:
            setattr(model.get_submodule(path), self.name, self.new)


def tell_layers(model: nn.Module, original: nn.Module, kept: Kept) -> None:
    """Let the attributes of layers tell the sizes of the tensors that they hold: PyTorch's by class, others by name."""
    uses = {use.weight.name: (use, mode) for mode in (kept.training, kept) if mode for use in mode.coupling.uses}
    changes = _size_changes(kept, ancestors=False)
    originals = dict(original.named_modules())
    for path, module in model.named_modules():
        _tell_layer(path, module, originals[path], uses, changes.get(path, {}))


def candidates(original: nn.Module, kept: Kept, call: Callable[[nn.Module], object]) -> list[Attribute]:
    """Return the attributes that the forward reads and that hold an old size of what it computes.

    Those of the module that computes it come before those of modules around it.

    Args:
        original: the model that is to be shrunk.
        kept: what stays of it.
        call: runs the model's forward.
    """
    read = _attributes_read(original, call) - _told_by_name(original, kept)
    attributes: list[Attribute] = []
    taken: set[tuple[str, str]] = set()
    for ancestors in (False, True):
        changes = _size_changes(kept, ancestors=ancestors)
        groups: dict[tuple[str, str, int, int], list[str]] = {}
        for path, module in original.named_modules():
            for name, number in vars(module).items():
                fits = type(number) is int and not name.startswith("_") and number in changes.get(path, {})
                if fits and (path, name) in read and (path, name) not in taken:
                    taken.add((path, name))
                    key = (type(module).__qualname__, name, number, changes[path][number])
                    groups.setdefault(key, []).append(path)
        attributes += [Attribute(name, old, new, tuple(paths)) for (_, name, old, new), paths in groups.items()]
    return attributes


def _told_by_name(original: nn.Module, kept: Kept) -> set[tuple[str, str]]:
    """Return the attributes of layers that `tell_layers` sets by what their weight has become."""
    owners = {use.weight.name.rpartition(".")[0] for use in kept.coupling.uses}
    return {
        (path, name)
        for path, module in original.named_modules()
        if path in owners
        for name in vars(module)
        if _OF_INPUTS.fullmatch(name) or _OF_OUTPUTS.fullmatch(name)
    }


def _attributes_read(model: nn.Module, call: Callable[[nn.Module], object]) -> set[tuple[str, str]]:
    """Return which whole numbers a call reads off which modules: pairs of module path and attribute.

    Args:
        model: whose modules are watched.
        call: runs it.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    read: set[tuple[str, str]] = set()

    def note(module: nn.Module, name: str, value: object) -> None:
        if type(value) is int and id(module) in paths:
            read.add((paths[id(module)], name))

    with _noting(model, note):
        call(model)
    return read


@contextlib.contextmanager
def noting_mode(model: nn.Module) -> Iterator[set[str]]:
    """Note which code, PyTorch's own left out, asks a module of a model whether it is training, by its Python modules.

    Meanwhile `training` is a property of every module, so that a forward runs as it does without. A class that has such
    a property of its own counts as one that asks.
    """
    modules = list(model.modules())
    known = set(map(id, modules))
    askers = {kind.__module__ for module in modules for kind in type(module).__mro__ if "training" in vars(kind)}

    def read(module: nn.Module) -> bool:
        asker = sys._getframe(1).f_globals.get("__name__", "")
        if id(module) in known and not asker.startswith("torch."):
            askers.add(asker)
        if "training" not in vars(module):
            raise AttributeError("training")
        return bool(vars(module)["training"])

    kind: Any = nn.Module
    kind.training = property(read, lambda module, value: vars(module).__setitem__("training", value))
    try:
        yield askers
    finally:
        del kind.training


@contextlib.contextmanager
def _noting(model: nn.Module, note: Callable[[nn.Module, str, object], None]) -> Iterator[None]:
    """Have each module report what is read off it, by a subclass that takes its class's place meanwhile."""

    def read(module: Any, name: str) -> Any:
        value = kinds_read[type(module)](module, name)
        note(module, name, value)
        return value

    kinds: dict[type, type] = {}
    kinds_read: dict[type, Callable[[Any, str], Any]] = {}
    modules = [(module, type(module)) for module in model.modules()]
    try:
        for module, kind in modules:
            if kind not in kinds:
                kinds[kind] = type(kind.__name__, (kind,), {"__getattribute__": read, "__module__": kind.__module__})
                kinds_read[kinds[kind]] = kind.__getattribute__
            module.__class__ = kinds[kind]
        yield
    finally:
        for module, kind in modules:
            module.__class__ = kind


def _size_changes(kept: Kept, *, ancestors: bool) -> Changes:
    """Return which sizes of activations change in the forward of each module."""
    changes: Changes = {}
    for node, values in kept.coupling.values.items():
        stack = node.meta.get("nn_module_stack") or {}
        paths = [path for path, _ in stack.values()] if ancestors else [module_path(node)]
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, Value) or not value.labelled or node.op != "call_function":
                continue
            for old, new in zip(value.shape, kept.shape(value), strict=True):
                if old != new:
                    for path in paths:
                        changes.setdefault(path, {}).setdefault(old, new)
    return changes


def _tell_layer(
    path: str, module: nn.Module, original: nn.Module, uses: Mapping[str, UseKept], changes: Mapping[int, int]
) -> None:
    before = {name: tensor.shape for name, tensor in _own_tensors(original).items()}
    after = {name: tensor.shape for name, tensor in _own_tensors(module).items()}
    changed = {name for name in before if before[name] != after.get(name)}
    for kinds, tell in _TELLERS:
        if isinstance(module, kinds):
            if changed:
                tell(module, original, uses.get(f"{path}.weight" if path else "weight"))
            elif not before:
                _tell_without_tensors(module, changes)
            return
    for name in sorted(changed):
        if used := uses.get(f"{path}.{name}".lstrip(".")):
            _tell_by_name(module, before[name], after[name], used[0].order)


def _tell_by_name(module: nn.Module, before: tuple[int, ...], after: tuple[int, ...], order: tuple[int, int]) -> None:
    """Set the attributes of a layer of somebody's own whose name says that they hold a size of its weight."""
    for attribute, value in list(vars(module).items()):
        if type(value) is not int:
            continue
        for names, dim in ((_OF_OUTPUTS, order[0]), (_OF_INPUTS, order[1])):
            if names.fullmatch(attribute) and value == before[dim]:
                setattr(module, attribute, after[dim])


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict((*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)))


def _tell_without_tensors(module: Any, changes: Mapping[int, int]) -> None:
    """A norm that has no weights goes by the size of what it normalises."""
    if isinstance(module, nn.GroupNorm):
        per_group = module.num_channels // module.num_groups
        module.num_channels = changes.get(module.num_channels, module.num_channels)
        module.num_groups = module.num_channels // per_group
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = changes.get(module.num_features, module.num_features)


def _conv(module: Any, original: Any, used: UseKept | None) -> None:
    transposed = isinstance(module, _ConvTransposeNd)
    first, second = module.weight.shape[:2]
    if used is None or original.groups == 1:
        module.in_channels, module.out_channels = (first, second) if transposed else (second, first)
        return
    use, kept = used
    ends = use.outputs if transposed else use.inputs
    whole = original.out_channels if transposed else original.in_channels
    left = whole if ends is None else int((~kept.gone[kept.coupling.class_of[ends]]).sum())
    module.groups = left // second
    module.in_channels, module.out_channels = (first, left) if transposed else (left, first)


def _linear(module: Any, original: Any, used: UseKept | None) -> None:
    module.out_features, module.in_features = module.weight.shape


def _embedding(module: Any, original: Any, used: UseKept | None) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _channel_norm(module: Any, original: Any, used: UseKept | None) -> None:
    like = module.weight if module.weight is not None else module.running_mean
    module.num_features = like.shape[0]


def _group_norm(module: Any, original: Any, used: UseKept | None) -> None:
    per_group = original.num_channels // original.num_groups
    module.num_channels = module.weight.shape[0]
    module.num_groups = module.num_channels // per_group


def _recurrent(module: Any, original: Any, used: UseKept | None) -> None:
    module.hidden_size = module.weight_hh_l0.shape[1]
    module.input_size = module.weight_ih_l0.shape[1]


def _prelu(module: Any, original: Any, used: UseKept | None) -> None:
    module.num_parameters = module.weight.shape[0]


_TELLERS: tuple[tuple[Any, Callable[[Any, Any, UseKept | None], None]], ...] = (
    (_ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.Embedding, _embedding),
    (nn.modules.batchnorm._NormBase, _channel_norm),
    (nn.GroupNorm, _group_norm),
    (nn.RNNBase, _recurrent),
    (nn.PReLU, _prelu),
)
