"""Permuting: channels in an order in which blocks of inputs, or n of m, keep more of the weights. Outputs stay."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Size, Tensor, nn

from prunus.copying import copy_model
from prunus.errors import GraphError
from prunus.graph import ExampleInputs, Graph, trace, trace_training
from prunus.graph.coupling import Coupling, couple
from prunus.permuting.swaps import View, best_order
from prunus.permuting.symmetry import Orders, free_families, index_order, orders, reorder, reordered
from prunus.proving.trials import disagreement, run_trials
from prunus.proving.verification import depends_on_chance
from prunus.pruning import patterns
from prunus.pruning.by_layer import prunable
from prunus.pruning.channels.families import Family, families
from prunus.pruning.method import check_method
from prunus.pruning.patterns import Inputs, NofM, Pattern
from prunus.supported import unwrap
from prunus.tables import Table, percent

__all__ = ["Permutation", "permute"]

Progress = Callable[[str, float], None]

# The sparsity that blocks are ordered for where none is given: about where they begin to pay.
_SPARSITY = 0.8


@dataclass(frozen=True)
class Permutation:
    """What `permute` did.

    Attributes:
        sparsity: what the order was made for.
        before: the share of each layer's magnitude (the sum of its weights' absolute values) that the pattern keeps at
            this sparsity, by the name of its weight: of layers whose inputs may change places.
        after: likewise, with the channels in their new order.
        orders: parameter or buffer -> dimensions -> order: index i of these dimensions, taken as one, got what was at
            order[i]. What is not named stayed as it was.
    """

    sparsity: float
    before: dict[str, float]
    after: dict[str, float]
    orders: Orders

    def reordered(self, name: str, tensor: Tensor) -> Tensor:
        """Return what belongs to a parameter or buffer, such as its mask or its momentum, in the new order, as a copy.

        Args:
            name: of the parameter or buffer.
            tensor: of its shape.
        """
        return reordered(tensor, self.orders.get(name, {}))

    def __str__(self) -> str:
        rows = tuple((name, percent(share), percent(self.after[name])) for name, share in self.before.items())
        caption = f"the share of the magnitude that stays at {percent(self.sparsity)} sparsity in each layer."
        return str(Table(("layer", "before", "after"), rows, caption))


def permute(
    model: nn.Module,
    example_inputs: ExampleInputs,
    pattern: str | Pattern,
    *,
    sparsity: float | None = None,
    minutes: float = 10.0,
    progress: Progress | None = None,
) -> Permutation:
    """Reorder a model's channels, in place, so that a pattern keeps more of its weights; the outputs stay the same.

    Call it before `prune`, with the same pattern. Channels that are coupled change places together: the outputs of all
    layers that are summed, their biases and norms, and the inputs of all layers that read them, over whose weights
    together the order is chosen. Inputs and outputs of the model keep their order, and so do channels whose places
    mean something, as those of a flattened map within a channel; in grouped convolutions whole groups change places,
    or the same channels of each group.

    Which channels may change places is tried on a copy with random weights in double precision, and the reordered
    model's outputs are compared on random inputs of several scales and sizes before the model is changed; all in eval
    mode. Two calls give the same result, unless the time runs out.

    Args:
        model: any module that torch.export can trace; its parameters and buffers are reordered in place.
        example_inputs: a tensor, a tuple of tensors, or argument names with tensors; the batch comes first.
        pattern: ``"inputs-4"``, or any size, or ``"2:4"``, or any n:m.
        sparsity: the fraction that is to be pruned of each layer, in (0, 1); None takes 0.8 for blocks, and for n:m
            what these remove.
        minutes: how long to look for better orders: what is found by then is taken.
        progress: called with what is being done and the share of it that is done.

    Returns:
        The shares of the weights' magnitude that the pattern keeps, before and after, and the orders, which masks and
        an optimizer's state need too.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of range, weights are not finite, or no channel may change places to any effect.
        GraphError: the graph can't be read, training mode reads parameters that eval mode does not, or the outputs
            would differ. The model was not changed.

    Source: swaps of channels as in Pool and Yu, "Channel permutations for N:M sparsity", NeurIPS 2021; here all pairs
    are compared at once, for blocks too, and which channels are free is read from the graph.

    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> model[2].weight.data = torch.tensor([[3.0, 1.0, 3.0, 1.0], [1.0, 3.0, 1.0, 3.0]])
    >>> permute(model, torch.zeros(1, 2), "inputs-2", sparsity=0.5).after
    {'2.weight': 0.75}
    >>> model[2].weight.data
    tensor([[1., 1., 3., 3.],
            [3., 3., 1., 1.]])
    """
    chosen, fraction = _check(pattern, sparsity)
    if isinstance(minutes, bool) or not isinstance(minutes, Real) or not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be a number above 0, got {minutes!r}")
    until = time.monotonic() + 60 * minutes
    inner = unwrap(model)
    names = [name for target in prunable(inner, chosen).values() for name in target.aliases]
    graph = trace(inner, example_inputs)
    _check_training(inner, graph)
    if depends_on_chance(inner, graph.args, graph.kwargs):
        raise GraphError(
            "the model's outputs depend on random numbers in eval mode, so orders of channels can't be compared"
        )
    work = _Work({name: inner.get_parameter(name).detach() for name in names}, couple(graph), chosen, fraction)
    work.arrange(until, progress or (lambda what, share: None))
    result = Permutation(fraction, work.before, work.shares(), work.orders())
    _verify(inner, graph, result.orders)
    reorder(inner, result.orders)
    return result


def _check(pattern: str | Pattern, sparsity: float | None) -> tuple[Inputs | NofM, float]:
    """Return the pattern and the sparsity, after checking them.

    Raises:
        TypeError, ValueError: as `permute`.
    """
    chosen = patterns.resolve(pattern)
    if not isinstance(chosen, Inputs | NofM):
        raise ValueError(f"permute orders channels for blocks of inputs, such as inputs-4, and n:m; got {chosen.name}")
    fraction = (chosen.only_sparsity or _SPARSITY) if sparsity is None else sparsity
    if check_method(fraction, pattern=chosen).sparsity == 0:
        raise ValueError("sparsity must be in (0, 1): with 0 every order keeps all weights, got 0")
    return chosen, float(fraction)


def _check_training(model: nn.Module, graph: Graph) -> None:
    """Raise GraphError where training mode reads parameters that eval mode does not: they would not be reordered."""
    try:
        training = trace_training(model, graph.example_inputs)
    except GraphError:  # such a model is for eval mode only
        return
    more = _read(training) - _read(graph)
    if parameters := sorted(more & dict(model.named_parameters()).keys()):
        raise GraphError(
            f"training mode reads {', '.join(parameters[:3])}, which eval mode does not, so what is not seen can't be "
            "reordered; permute the model without the layers of training mode"
        )


def _read(graph: Graph) -> set[str]:
    """Return the parameters and buffers that a graph reads."""
    return {graph.tensors[node.name] for node in graph.nodes if node.name in graph.tensors and node.users}


def _verify(model: nn.Module, graph: Graph, found: Orders) -> None:
    """Raise GraphError if a reordered copy gives other outputs."""
    copy = copy_model(model)
    reorder(copy, found)
    trials = run_trials(model, graph)
    if apart := disagreement([*trials.example, *trials.resized], copy):
        raise GraphError(f"the channels can't be reordered: {apart}; nothing was changed")


class _Work:
    """The channels of a model that may change places, and where they stand so far."""

    def __init__(self, weights: dict[str, Tensor], coupling: Coupling, pattern: Inputs | NofM, sparsity: float) -> None:
        self._coupling, self._pattern, self._sparsity = coupling, pattern, sparsity
        self._weights = {name: weight for name, weight in weights.items() if self._has_blocks(name, weight.shape)}
        for name, weight in self._weights.items():
            if not bool(weight.isfinite().all()):
                raise ValueError(f"{name!r} holds weights that are not finite, so they can't be ranked")
        useful = [family for family in families(coupling) if any(self._places(family))]
        self._families = free_families(coupling, useful)
        if not self._families:
            raise ValueError(
                f"no channels may change places to any effect on pattern {pattern.name}: its blocks lie along the "
                "model's inputs or outputs, or within one channel"
            )
        self._source = torch.arange(coupling.num_classes)
        moving = {name for family in self._families for name, _ in self._places(family)}
        self._weights = {name: weight for name, weight in self._weights.items() if name in moving}
        self.before = self.shares()

    def arrange(self, until: float, progress: Progress) -> None:
        """Look for a better order of each family, until `until` in `time.monotonic` seconds."""
        for number, family in enumerate(self._families):
            progress(f"ordering the channels of {family.name}", number / len(self._families))
            places = list(self._places(family))
            rows = {name: self._rows(name) for name, _ in places}
            views = [View(rows[name], own.to(rows[name].device)) for name, own in places]
            order = best_order(views, self._pattern, self._sparsity, until).cpu()
            before, source = self._kept(places), self._source
            self._source = source.clone()
            self._source[family.classes] = source[family.classes][order]
            if self._kept(places) <= before:
                self._source = source

    def shares(self) -> dict[str, float]:
        """Return the share of each layer's magnitude that the pattern keeps."""
        return {name: self._kept_of(name) / max(self._total(name), 1e-30) for name in self._weights}

    def orders(self) -> Orders:
        """Return how parameters and buffers are to be reordered."""
        found = orders(self._coupling, self._source)
        assert found is not None  # each family's swap and rotation had one
        return found

    def _has_blocks(self, name: str, shape: Size) -> bool:
        """Tell whether a weight has the pattern's blocks along inputs that the graph tells apart."""
        if (name, (1,)) not in self._coupling.axes:
            return False
        if isinstance(self._pattern, Inputs):
            return self._pattern.dim(shape) == 1
        return shape[1] % self._pattern.m == 0

    def _places(self, family: Family) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights whose blocks hold several channels of a family, and where these stand.

        Where a channel has several inputs, as from a flattened map, each of them is yielded; nothing, where blocks lie
        within channels.
        """
        size = self._pattern.m if isinstance(self._pattern, NofM) else self._pattern.size
        for name in self._weights:
            classes = self._coupling.axis_classes((name, (1,)))
            (places,) = torch.isin(classes, family.classes).nonzero(as_tuple=True)
            if not len(places) or len(places) % len(family.classes):
                continue
            by_class = places[classes[places].argsort(stable=True)].view(len(family.classes), -1)
            blocks = by_class // size
            alone = torch.unique(blocks * len(classes) + classes[by_class])
            if len(alone) == blocks.numel() and len(torch.unique(blocks)) > 1:
                yield from ((name, own) for own in by_class.T.contiguous())

    def _rows(self, name: str) -> Tensor:
        """Return the magnitudes of a weight in their present order, (rows, inputs)."""
        weight = self._weights[name].abs()
        return weight[:, self._order(name)].movedim(1, -1).flatten(0, -2).float()

    def _order(self, name: str) -> Tensor:
        order = index_order(self._coupling.axis_classes((name, (1,))), self._source)
        assert order is not None
        return order.to(self._weights[name].device)

    def _kept(self, places: Sequence[tuple[str, Tensor]]) -> float:
        return sum(self._kept_of(name) for name in dict(places))

    def _kept_of(self, name: str) -> float:
        """Return the magnitude that the pattern keeps of a weight at the sparsity, with its inputs where they stand."""
        magnitudes = self._weights[name][:, self._order(name)].abs().double()
        units = self._pattern.pool(magnitudes)
        kept = torch.zeros_like(units, dtype=torch.bool)
        kept[units.topk(len(units) - round(self._sparsity * len(units))).indices] = True
        return float(magnitudes[self._pattern.expand(kept, magnitudes.shape)].sum())

    def _total(self, name: str) -> float:
        return float(self._weights[name].abs().double().sum())
