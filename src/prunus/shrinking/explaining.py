"""Why a layer's channels stay or go: what pruning and shrinking know of a model, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.errors import ChannelError
from prunus.graph import ExampleInputs, trace
from prunus.graph.coupling import Coupling, couple
from prunus.graph.kept import Kept
from prunus.pruning import patterns, scopes
from prunus.pruning.channels import ChannelFamilies
from prunus.pruning.channels.families import Family, families
from prunus.pruning.masks import Masks
from prunus.pruning.patterns import Channels
from prunus.pruning.scopes import Scope, Spreading
from prunus.pruning.targets import Selector
from prunus.shrinking import removable
from prunus.supported import check_module, unwrap
from prunus.tables import Table

__all__ = ["Explanation", "LayerExplanation", "explain"]

HEADERS = ("layer", "unit", "rows", "all", "gone", "stay", "why")

# Of coupled layers so many are named in a table; a residual stream may have hundreds.
_NAMED = 3

_NO_LAYER = "it comes from no layer, such as the model's input"
_NOT_INCLUDED = "it is not included"
_EXCLUDED = "it is excluded"


@dataclass(frozen=True)
class LayerExplanation:
    """The channels that a layer makes, or takes from no layer.

    Attributes:
        name: of the layer: its weight's, without ``.weight``.
        unit: what goes as a whole: "channel", "head", "group", or "unit" of a recurrent layer.
        rows: how many rows of the layer's weight one of them is.
        count: how many there are.
        gone: how many of them go when the model is shrunk.
        reason: why they have to stay; empty where they may go.
        coupled: the layers that lose the same ones with it.
        why: all of it in words.
    """

    name: str
    unit: str
    rows: int
    count: int
    gone: int
    reason: str
    coupled: tuple[str, ...]
    why: str

    @property
    def stay(self) -> int:
        """How many stay."""
        return self.count - self.gone


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; as text it is a table.

    Attributes:
        layers: in the order in which the model has them; one whose channels stay for several reasons has several.
        num_parameters: of the model, biases and norms included.
        num_gone: how many of these go when the model is shrunk.
    """

    layers: tuple[LayerExplanation, ...]
    num_parameters: int
    num_gone: int

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield the table's rows under `HEADERS`."""
        for layer in self.layers:
            numbers = (layer.rows, layer.count, layer.gone, layer.stay)
            yield layer.name, layer.unit, *(f"{number:,}" for number in numbers), layer.why

    def total(self) -> str:
        """Return how many weights go, as a sentence."""
        gone, all_ = self.num_gone, self.num_parameters
        share = f" ({gone / all_:.1%})" if gone else ""
        return f"Of {all_:,} parameters {gone:,}{share} go when the model is shrunk, and {all_ - gone:,} stay."

    def __str__(self) -> str:
        if not self.layers:
            return f"No layer of this model has channels.\n{self.total()}"
        rows = tuple(self.rows())
        return f"{Table(HEADERS, rows, words=(1, 6)).text(len(rows))}\n\n{self.total()}"


def explain(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    masks: Mapping[str, Tensor] | None = None,
    include: Sequence[Selector] = (),
    exclude: Sequence[Selector] = (),
    pattern: str | Channels = "channel",
    scope: str | Spreading | Scope = "global",
) -> Explanation:
    """Say of each layer how many channels, heads or groups can go, how many do, and why the others stay.

    What goes is what `shrink` removes: of the model's own zeros, or of those that the masks make. The rest of the
    arguments are those that `prune` is called with: what they protect is told too. The model is left as it was.

    Args:
        model: any module that torch.export can trace.
        example_inputs: a tensor, a tuple of tensors, or argument names with tensors; the batch comes first.
        masks: what is pruned; None takes the zeros that the model has.
        include: as `prune`.
        exclude: as `prune`.
        pattern: as `prune`: ``"channel"``, or with options, such as ``Channels(round_to=8)``.
        scope: as `prune`: it says how many channels each layer keeps at least, such as ``Global(min_kept=8)``.

    Raises:
        TypeError, ValueError: an argument is wrong, or a selector matches nothing.
        GraphError: the graph can't be read; the message names the operation, the module and the line.
        MaskError: the masks are not of this model.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> _ = model[2].weight.data[:, 3:].zero_()
    >>> print(explain(model, torch.zeros(1, 4)))
    layer       unit     rows  all  gone  stay  why
    input of 0  channel     1    4     0     4  protected: it comes from no layer, such as the model's input
    0           channel     1    8     5     3  free
    2           channel     1    2     0     2  protected: it is an output of the model
    <BLANKLINE>
    Of 58 parameters 35 (60.3%) go when the model is shrunk, and 23 stay.
    """
    check_module(model)
    channels, min_kept = patterns.resolve(pattern), scopes.resolve(scope).min_kept
    if not isinstance(channels, Channels):
        raise ValueError(f"explain tells of pattern 'channel', got {channels.name!r}")
    masked = unwrap(model)
    if masks is not None:
        masked = copy_model(masked)
        Masks(masks).apply(masked)
    view = _View.of(masked, example_inputs, include, exclude, channels, min_kept)
    kept, _ = removable(view.coupling)
    total, gone = _parameters(masked, _kept_by_shrink(view.coupling, kept))
    return Explanation(tuple(_layers(view, kept)), total, gone)


@dataclass(frozen=True, eq=False)
class _View:
    """What `prune` would see of a model when it is called with some arguments."""

    coupling: Coupling
    families: list[Family]
    targets: frozenset[str]
    chosen: bool
    round_to: int
    min_kept: int

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example_inputs: ExampleInputs,
        include: Sequence[Selector],
        exclude: Sequence[Selector],
        pattern: Channels,
        min_kept: int,
    ) -> _View:
        chosen = bool(include)
        try:
            read = ChannelFamilies(
                model, example_inputs, include=include, exclude=exclude, pattern=pattern, min_kept=min_kept
            )
        except ValueError as error:
            nothing_to_prune = isinstance(error, ChannelError) or not list(model.parameters())
            if include or exclude or not nothing_to_prune:
                raise
            coupling = couple(trace(model, example_inputs))
            protected = [replace(family, reason=family.reason or _NOT_INCLUDED) for family in families(coupling)]
            return cls(coupling, protected, frozenset(), chosen, pattern.round_to, max(1, min_kept))
        return cls(read.coupling, read.families, frozenset(read.targets), chosen, read.round_to, read.min_kept)


def _layers(view: _View, kept: Kept) -> Iterator[LayerExplanation]:
    """Yield what there is to say of each layer, in the model's order."""
    place = {axis[0]: index for index, axis in reversed(list(enumerate(view.coupling.axes)))}
    by_maker = [(family, maker) for family in view.families for maker in family.makers]
    without_maker = [(family, None) for family in view.families if not family.makers]
    groups: dict[tuple[object, ...], list[tuple[Family, str | None]]] = {}
    order = sorted([*without_maker, *by_maker], key=lambda pair: (place[pair[1] or pair[0].name], pair[1] is not None))
    for family, maker in order:
        rows = _rows(view.coupling, family, maker)
        key = (maker or family.name, maker is None, rows, family.reason)
        groups.setdefault(key, []).append((family, maker))
    for group in groups.values():
        yield _layer(view, kept, [family for family, _ in group], group[0][1])


def _layer(view: _View, kept: Kept, members: list[Family], maker: str | None) -> LayerExplanation:
    """Explain families that one layer makes and that stay for the same reason; None stands for no layer."""
    classes = torch.cat([family.classes for family in members])
    count, gone = len(classes), int(kept.gone[classes].sum())
    others = dict.fromkeys(_layer_name(name) for family in members for name in family.makers if name != maker)
    coupled = tuple(others)
    first = members[0]
    reason = _plain(view, first, maker)
    state = f"protected: {reason}" if reason else _freedom(view, count, count - gone)
    name = _layer_name(maker) if maker else f"input of {_layer_name(first.name)}"
    return LayerExplanation(
        name,
        _unit(view.coupling, first, maker),
        _rows(view.coupling, first, maker),
        count,
        gone,
        reason,
        coupled,
        f"{state}; coupled with {_listed(coupled)}" if coupled else state,
    )


def _plain(view: _View, family: Family, maker: str | None) -> str:
    """Return why channels have to stay, in words that need no knowledge of how a graph is read."""
    if not family.reason:
        return ""
    if maker is None:
        return _NO_LAYER
    if family.reason == _EXCLUDED and maker in view.targets:
        return "it is coupled with what is excluded"
    if family.reason == _NOT_INCLUDED and not view.chosen:
        return "it is pruned only when it is included"
    return family.reason


def _freedom(view: _View, count: int, stay: int) -> str:
    """Say how far channels that may go can go."""
    if count == 1:
        return "the only one of its layer"
    if stay == 1:
        return "the last of its layer"
    if count <= view.min_kept:
        return f"stays whole: each layer keeps at least {view.min_kept}"
    if stay == view.min_kept:
        return f"down to the {view.min_kept} that each layer keeps"
    if count < view.round_to:
        return f"stays whole: fewer than the multiple of {view.round_to} that has to stay"
    return f"free, rounded to a multiple of {view.round_to}" if view.round_to > 1 else "free"


def _unit(coupling: Coupling, family: Family, maker: str | None) -> str:
    """Return what the channels are called that go together."""
    modules = dict(coupling.graph.model.named_modules())
    layers = [modules.get(name.rpartition(".")[0]) for name in (maker or family.name, *family.makers, *family.takers)]
    if isinstance(layers[0], nn.RNNBase | nn.RNNCellBase) and maker is not None:
        return "unit"
    if family.width == 1:
        return "channel"
    for product in coupling.products:
        if bool(torch.isin(family.classes, coupling.classes(product.labels)).any()):
            return "head"
    grouped = any(isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1 for layer in layers)
    return "group" if grouped else "channel"


def _rows(coupling: Coupling, family: Family, maker: str | None) -> int:
    """Return how many rows of a layer's weight one of its units is; of a weight's two axes the outputs are no fewer."""
    own = torch.zeros(coupling.num_classes, dtype=torch.bool)
    own[family.classes] = True
    axes = [axis for axis in coupling.axes if axis[0] == (maker or family.name)]
    rows = max(int(own[coupling.axis_classes(axis)].sum()) for axis in axes)
    return max(1, rows // len(family.classes))


def _kept_by_shrink(coupling: Coupling, kept: Kept) -> Kept:
    """Return what `shrink` keeps: of grouped convolutions it may take less than the same channels of each group."""
    if all(use.groups == 1 for use in coupling.uses):
        return kept
    return removable(couple(coupling.graph, "counted"))[0]


def _parameters(model: nn.Module, kept: Kept) -> tuple[int, int]:
    """Return how many parameters a model has, and how many of them go."""
    total = sum(parameter.numel() for parameter in model.parameters())
    gone = 0
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in kept.indices or name in kept.columns:
            stays = [kept.size(name, dim) for dim in range(parameter.ndim)]
            gone += parameter.numel() - math.prod(stays)
    return total, gone


def _layer_name(parameter: str) -> str:
    return parameter.removesuffix(".weight")


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
