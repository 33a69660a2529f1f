"""The channels of a model: classes that go together, in families of those that lie along the same axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunus.graph.coupling import Axis, Coupling, Use


@dataclass(frozen=True, eq=False)
class Family:
    """Channels along the same axes of the same parameters, such as the outputs of one layer.

    Attributes:
        name: the first parameter that produces them.
        classes: one for each channel, head or group; int64.
        makers: the parameters whose outputs they are.
        takers: the parameters whose inputs they are.
        width: the number of indices of a class in the first maker: 1 for a channel, the head size for a head.
        reason: why they have to stay; empty if they may be removed.
    """

    name: str
    classes: Tensor
    makers: tuple[str, ...]
    takers: tuple[str, ...]
    width: int
    reason: str = ""


def families(coupling: Coupling) -> list[Family]:
    """Return all channels of a model, in the order of the parameters that produce them.

    Classes without an axis of a parameter are left out.
    """
    makers, takers = _axes_by_role(coupling)
    signature = _signatures(coupling)
    names, family_of = torch.unique(signature, return_inverse=True)
    members: list[list[Tensor]] = [[] for _ in names]
    order = torch.argsort(family_of, stable=True)
    order = order[signature[order] != 0]
    groups, counts = torch.unique_consecutive(family_of[order], return_counts=True)
    for group, classes in zip(groups.tolist(), torch.split(order, counts.tolist()), strict=True):
        members[group].append(classes)
    axes_of = _axes_of_signature(coupling, signature)
    ordered: list[Family] = []
    for group in groups.tolist():
        (classes,) = members[group]
        axes = axes_of[int(names[group])]
        making = [axis for axis in axes if axis in makers]
        first = (making or axes)[0]
        own = torch.zeros(coupling.num_classes, dtype=torch.bool)
        own[classes] = True
        width = int(own[coupling.axis_classes(first)].sum()) // len(classes)
        whole = Family(
            first[0],
            classes,
            tuple(dict.fromkeys(axis[0] for axis in making)),
            tuple(dict.fromkeys(axis[0] for axis in axes if axis in takers)),
            max(width, 1),
        )
        ordered.extend(_by_reason(coupling, whole))
    place = {axis[0]: index for index, axis in enumerate(coupling.axes)}
    return sorted(ordered, key=lambda family: place[family.name])


def _by_reason(coupling: Coupling, family: Family) -> list[Family]:
    """Split a family by the reasons why its channels have to stay."""
    reasons = coupling.reason[family.classes]
    return [
        replace(
            family,
            classes=family.classes[reasons == reason],
            reason=coupling.reasons[reason] if reason >= 0 else "",
        )
        for reason in torch.unique(reasons).tolist()
    ]


def protected(family: Family, targets: set[str], excluded: set[str]) -> Family:
    """Return the family; if the user excluded or did not include it, with that as its reason."""
    if family.reason:
        return family
    makers = set(family.makers)
    reason = "it is excluded" if makers & excluded else "" if makers & targets else "it is not included"
    return replace(family, reason=reason)


def _axes_by_role(coupling: Coupling) -> tuple[set[Axis], set[Axis]]:
    """Return the axes that produce channels, and those that consume them."""
    roles: tuple[set[Axis], set[Axis]] = (set(), set())
    uses: dict[str, list[Use]] = {}
    for use in coupling.uses:
        uses.setdefault(use.weight.name, []).append(use)
    for axis, (first, size) in coupling.axes.items():
        for use in uses.get(axis[0], ()):
            for atoms, role in zip((use.outputs, use.inputs), roles, strict=True):
                if atoms is not None and bool(((atoms >= first) & (atoms < first + size)).any()):
                    role.add(axis)
        if axis[0] not in uses:
            roles[0].add(axis)  # an embedding, or a weight of many dimensions
    return roles


def _signatures(coupling: Coupling) -> Tensor:
    """Return a number per class that identifies its set of axes; 0 if it has none."""
    generator = torch.Generator().manual_seed(0)
    signature = torch.zeros(coupling.num_classes, dtype=torch.int64)
    for axis in coupling.axes:
        mark = torch.randint(1, 2**62, (1,), generator=generator)
        signature[torch.unique(coupling.axis_classes(axis))] += mark
    return signature


def _axes_of_signature(coupling: Coupling, signature: Tensor) -> dict[int, list[Axis]]:
    axes: dict[int, list[Axis]] = {}
    for axis in coupling.axes:
        for mark in torch.unique(signature[coupling.axis_classes(axis)]).tolist():
            axes.setdefault(mark, []).append(axis)
    return axes


class Cost:
    """The cost of a model in parameters or multiply-adds, as a function of which channels are removed.

    Args:
        coupling: the coupled channels of the model.
        budget: ``"parameters"``: the elements of the parameters in `names`; ``"macs"``: the multiply-adds of a sample.
        names: the parameters that count.
    """

    def __init__(self, coupling: Coupling, budget: str, names: Sequence[str]) -> None:
        self._coupling = coupling
        self._axes: dict[str, list[tuple[int, Tensor]]] = {}
        for axis, (_, size) in coupling.axes.items():
            self._axes.setdefault(axis[0], []).append((size, coupling.axis_classes(axis)))
        self._weights = {name: float(coupling.graph.tensor(name).numel()) for name in names}
        self._products: list[tuple[float, Tensor]] = []
        if budget == "macs":
            self._weights = dict.fromkeys((use.weight.name for use in coupling.uses), 0.0)
            for use in coupling.uses:
                self._weights[use.weight.name] += use.macs
            for product in coupling.products:
                self._products.append((product.macs, torch.unique(coupling.classes(product.labels))))
        self.total = self.left(torch.zeros(coupling.num_classes, dtype=torch.bool))

    def left(self, gone: Tensor) -> float:
        """Return the cost without the classes in `gone`, bool per class."""
        stays = ~gone
        cost = 0.0
        for name, weight in self._weights.items():
            for size, classes in self._axes.get(name, ()):
                weight *= int(stays[classes].sum()) / size
            cost += weight
        for weight, classes in self._products:
            channels = classes[classes >= 0]
            cost += weight * (float(stays[channels].float().mean()) if len(channels) else 1.0)
        return cost

    def removed(self, gone: Tensor) -> float:
        """Return the fraction of the cost that is removed with the classes in `gone`."""
        return 1 - self.left(gone) / self.total if self.total else 0.0
