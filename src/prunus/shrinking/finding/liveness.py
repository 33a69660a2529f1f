"""Which channels can matter: backwards from the outputs, a channel matters if what is not zero carries it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from prunus.graph.calls import results_of
from prunus.graph.coupling import Use, Value
from prunus.graph.coupling.values import compact
from prunus.graph.operations import Family
from prunus.shrinking.finding.constants import foldable
from prunus.shrinking.finding.content import fit
from prunus.shrinking.finding.contents import Reading
from prunus.shrinking.finding.operation import Operation, node_shape
from prunus.shrinking.finding.weights import consumed, num_outputs

NeedRule: TypeAlias = "Callable[[Sweep, Operation, Tensor], None]"

# Which elements of its arguments an operation needs.
NEED_RULES: dict[Family, NeedRule] = {}


def need_rule(*families: Family) -> Callable[[NeedRule], NeedRule]:
    """Enter the decorated rule for the operations of some families."""

    def enter(function: NeedRule) -> NeedRule:
        for family in families:
            NEED_RULES[family] = function
        return function

    return enter


class Sweep:
    """Which elements of a graph's tensors matter, found backwards from the outputs.

    An element matters if an output may change with it, zero weights and factors of zero taken for what they are. A
    class of channels matters, and has to stay, if any weight takes one of its elements on to what matters and can't
    have it as a constant in its bias. So elements of classes that do not matter are cut off, and what only they need
    does not matter either.

    Attributes:
        reading: what the tensors hold.
        alive: the classes that matter, bool per class; it grows.
        outputs: use -> which of its outputs matter, bool.
    """

    def __init__(self, reading: Reading, alive: Tensor) -> None:
        self.reading = reading
        self.alive = alive
        self.outputs: dict[int, Tensor] = {}
        self._matters: dict[tuple[fx.Node, int], Tensor] = {}
        self._foldable = {id(use): foldable(reading, use) for use in reading.coupling.uses if use.inputs is not None}
        self._classes: dict[fx.Node, list[Tensor | None]] = {}

    def run(self) -> None:
        """Go through the graph until no further class turns out to matter."""
        nodes = list(reversed(self.reading.coupling.graph.nodes))
        while True:
            before = int(self.alive.sum())
            self._matters.clear()
            self.outputs.clear()
            for node in nodes:
                self._visit(node)
            if int(self.alive.sum()) == before:
                return

    def _visit(self, node: fx.Node) -> None:
        if node.op in ("placeholder", "get_attr"):
            return
        operation = self.reading.operations[node]
        value = node.meta.get("val")
        if operation is None and getattr(node.target, "__name__", "") == "getitem":
            piece = self.matters(node, 0)
            if piece is not None:
                self.push(node.args[0], piece, node.args[1])  # type: ignore[arg-type]
            return
        holds_tensors = isinstance(value, (torch.Tensor, list, tuple))
        if operation is None or not holds_tensors or node in self.reading.tangled:
            if operation is None or operation.family is not Family.SIZE:
                self.push_all(node)
            return
        rule = NEED_RULES.get(operation.family)
        pieces = len(value) if isinstance(value, (list, tuple)) else 1
        matters = [self.matters(node, piece) for piece in range(pieces)]
        if all(mask is None for mask in matters):
            return
        if rule is None:
            self.push_all(node)
        else:
            rule(self, operation, matters if isinstance(value, (list, tuple)) else matters[0])  # type: ignore[arg-type]

    def matters(self, node: fx.Node, piece: int) -> Tensor | None:
        """Return which elements of an output matter, without those of classes that do not; None where none does.

        Bool that broadcasts to the output's shape; `piece` tells which one of several outputs.
        """
        matters = self._matters.get((node, piece))
        if matters is None:
            return None
        classes = self.classes(node)[piece]
        if classes is not None:
            matters = matters & ((classes < 0) | self.alive[classes.clamp(min=0)])
        return matters if bool(matters.any()) else None

    def classes(self, node: fx.Node) -> list[Tensor | None]:
        """Return the class of each element of each output of a node, in small; None where there are no channels."""
        if node not in self._classes:
            values = self.reading.coupling.values.get(node)
            own = [self._small(value) for value in (values if isinstance(values, list) else [values])]
            self._classes[node] = own + [None] * (len(results_of(node)) - len(own))
        return self._classes[node]

    def _small(self, value: Any) -> Tensor | None:
        if not isinstance(value, Value) or not value.labelled:
            return None
        return compact(self.reading.coupling.classes(value.labels))

    def push(self, node: fx.Node, matters: Tensor, piece: int = 0) -> None:
        """Note that elements of a node matter, bool that broadcasts to its shape."""
        before = self._matters.get((node, piece))
        self._matters[node, piece] = matters if before is None else before | matters

    def push_all(self, node: fx.Node) -> None:
        """Note that all of a node's arguments matter, through weights that are not zero or no weight at all."""
        for argument in node.all_input_nodes:
            for piece, tensor in enumerate(results_of(argument)):
                if isinstance(tensor, Tensor):
                    self.push(argument, torch.ones([1] * tensor.ndim, dtype=torch.bool), piece)
            for classes in self.classes(argument):
                if classes is not None:
                    self.leak(classes)
        for use in self.reading.uses.get(node, ()):
            carries = self.reading.carries(use)
            self.consume(use, torch.ones(num_outputs(use, carries), dtype=torch.bool))

    def leak(self, classes: Tensor) -> None:
        """Have classes stay that are consumed by something that is no weight."""
        inside = classes[classes >= 0]
        self.alive[inside[self.reading.coupling.leaky[inside]]] = True

    def consume(self, use: Use, outputs: Tensor) -> Tensor:
        """Return which inputs of a weight reach outputs that matter; the classes of those that it can't fold stay."""
        self.outputs[id(use)] = outputs | self.outputs.get(id(use), torch.zeros_like(outputs))
        reached = consumed(use, self.reading.carries(use), outputs)
        self.keep(use, reached)
        return reached

    def keep(self, use: Use, reached: Tensor) -> None:
        """Have the classes of a weight's inputs stay, but for those whose constant its bias takes up."""
        if use.inputs is not None:
            classes = self.reading.coupling.class_of[use.inputs]
            self.alive[classes[reached & ~self._foldable[id(use)]]] = True

    def fitted(self, node: fx.Node, matters: Tensor) -> None:
        """Push what matters of a result to one of the tensors that were broadcast to it."""
        self.push(node, fit(matters, node_shape(node)))


def needed(reading: Reading, staying: Tensor) -> Sweep:
    """Find which classes have to stay, and which elements matter.

    Recurrent units that feed nothing but each other do not matter.

    Args:
        reading: what the tensors hold.
        staying: classes that stay in any case, bool per class.
    """
    sweep = Sweep(reading, staying | ~reading.coupling.removable)
    sweep.run()
    return sweep
