"""Which channels may change places without changing the model, and what moves with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.errors import GraphError
from prunus.forward import tensors_by_name
from prunus.graph.coupling import Coupling
from prunus.proving.verification import check_numbers, difference, normal, outputs, random_like, tolerance, widened
from prunus.pruning.channels.families import Family

# Parameter or buffer -> dimensions -> order: index i of these dimensions, taken as one, gets what was at order[i].
Orders: TypeAlias = dict[str, dict[tuple[int, ...], Tensor]]


def orders(coupling: Coupling, source: Tensor) -> Orders | None:
    """Return how parameters and buffers are reordered if classes change places.

    A class that lies at several indices of an axis, such as a channel of a flattened map, moves as a whole.

    Args:
        coupling: the model's.
        source: the class that takes the place of each class, int64 per class: a permutation.

    Returns:
        The orders; None if classes that change places lie at different numbers of indices.
    """
    found: Orders = {}
    for (name, dims), (first, size) in coupling.axes.items():
        order = index_order(coupling.class_of[first : first + size], source)
        if order is None:
            return None
        _enter(found, name, dims, order)
    for name, bound in coupling.bindings.items():
        shape = coupling.graph.tensor(name).shape
        flat = torch.arange(shape.numel())
        for ids, labels in bound:
            beside = labels >= 0
            order = index_order(coupling.class_of[labels[beside]], source)
            if order is None:
                return None
            flat[ids[beside]] = ids[beside][order]
        _enter(found, name, tuple(range(len(shape))), flat)
    return found


def _enter(found: Orders, name: str, dims: tuple[int, ...], order: Tensor) -> None:
    if not torch.equal(order, torch.arange(len(order))):
        found.setdefault(name, {})[dims] = order


def index_order(classes: Tensor, source: Tensor) -> Tensor | None:
    """Return where the content of each index comes from: the n-th index of a class takes the n-th of its source."""
    sorted_, counts = classes.argsort(stable=True), torch.bincount(classes, minlength=len(source))
    starts, wanted = counts.cumsum(0) - counts, source[classes]
    if not torch.equal(counts[wanted], counts[classes]):
        return None
    place = torch.empty_like(classes)
    place[sorted_] = torch.arange(len(classes)) - starts[classes[sorted_]]
    return sorted_[starts[wanted] + place]


def reordered(tensor: Tensor, own: Mapping[tuple[int, ...], Tensor]) -> Tensor:
    """Return a tensor with the orders of one parameter applied, as a copy."""
    for dims, order in own.items():
        front = tuple(range(len(dims)))
        moved = tensor.movedim(dims, front)
        taken = moved.flatten(0, len(dims) - 1) if dims else moved.reshape(1)
        tensor = taken.index_select(0, order.to(tensor.device)).reshape(moved.shape).movedim(front, dims)
    return tensor.clone(memory_format=torch.contiguous_format)


@torch.no_grad()
def reorder(model: nn.Module, found: Orders) -> None:
    """Reorder the parameters and buffers of a model in place."""
    tensors = tensors_by_name(model)
    for name, own in found.items():
        tensors[name].copy_(reordered(tensors[name], own))


def free_families(coupling: Coupling, candidates: Sequence[Family]) -> list[Family]:
    """Return the families whose channels may change places in any way.

    A copy with random weights is run in double precision before and after: the model's own weights may hide a
    difference, as zeros do. A swap and a rotation generate all permutations of a family. Where the outputs stay even
    though only a part of what belongs together was moved, they tell nothing, and the channels keep their places.

    Raises:
        GraphError: the outputs are NaN alone, so that nothing can be compared.
    """
    trial = _Trial(coupling)
    certain = [family for family in candidates if not family.reason]
    if not (certain and trial.keeps(certain)):
        certain = [family for family in certain if trial.keeps([family])]
    others = [family for family in candidates if family.reason and trial.keeps([family])]
    return [family for family in candidates if family in certain or family in others]


class _Trial:
    """A copy of a model with random weights, and its outputs."""

    def __init__(self, coupling: Coupling) -> None:
        self._coupling, graph = coupling, coupling.graph
        self._tensors = set(tensors_by_name(graph.model))
        self._args, self._kwargs = random_like(graph.args, graph.kwargs)
        self._model = _with_random_weights(graph.model)
        try:
            self._expected = self._run_wide()
        except (RuntimeError, TypeError):  # a forward that makes tensors of a type of its own
            self._args, self._kwargs = random_like(graph.args, graph.kwargs)
            self._model = _with_random_weights(graph.model)
            self._expected = outputs(self._model, self._args, self._kwargs)
        check_numbers(self._expected, GraphError)

    def _run_wide(self) -> list[Tensor]:
        self._model = self._model.double()
        self._args = tuple(widened(value) if value.is_floating_point() else value for value in self._args)
        self._kwargs = {
            name: widened(value) if value.is_floating_point() else value for name, value in self._kwargs.items()
        }
        return outputs(self._model, self._args, self._kwargs)

    def keeps(self, families: Sequence[Family]) -> bool:
        """Tell whether the channels of families may change places: the outputs stay, and do not if only some move."""
        for source in _generators(families, self._coupling.num_classes):
            found = orders(self._coupling, source)
            if found is None or not found.keys() <= self._tensors or not self._same(found):
                return False
            if self._same({name: found[name] for name in list(found)[:1]}):
                return False  # these outputs don't tell; nor do they where channels are read, and made by no parameter
        return True

    def _same(self, found: Orders) -> bool:
        tensors = tensors_by_name(self._model)
        before = {name: tensors[name].detach().clone() for name in found}
        reorder(self._model, found)
        actual = outputs(self._model, self._args, self._kwargs)
        with torch.no_grad():
            for name, value in before.items():
                tensors[name].copy_(value)
        return difference(self._expected, actual) <= tolerance(self._expected)


def _generators(families: Sequence[Family], num_classes: int) -> Iterator[Tensor]:
    """Yield classes that change places: two of each family, all by one, and any, for each family differently."""
    generator = torch.Generator().manual_seed(0)
    for kind in ("swap", "rotation", "any"):
        source = torch.arange(num_classes)
        for family in families:
            classes = family.classes
            swapped = torch.cat([classes[:2].flip(0), classes[2:]])
            any_ = classes[torch.randperm(len(classes), generator=generator)]
            source[classes] = {"swap": swapped, "rotation": classes.roll(1), "any": any_}[kind]
        yield source


@torch.no_grad()
def _with_random_weights(model: nn.Module) -> nn.Module:
    """Return a copy whose weights keep numbers near one: nothing is zero, or equal by accident."""
    copy, generator = copy_model(model), torch.Generator().manual_seed(0)
    statistics = {name: value for name, value in copy.named_buffers() if "running_" in name}
    for name, value in (*copy.named_parameters(), *statistics.items()):
        if not value.is_floating_point():
            continue
        drawn = normal(value.shape, generator, value)
        if value.dim() >= 2:
            value.copy_(drawn / math.sqrt(max(1, value.numel() // len(value))))
        elif "bias" in name or name.endswith("running_mean"):
            value.copy_(0.3 * drawn)
        else:
            value.copy_(0.5 + drawn.abs())
    return copy
