"""The dense model and the pruned one, run side by side through their one graph, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from prunus.graph import Graph
from prunus.graph.aliases import tangled, written_to
from prunus.graph.operations import Family, find

# The results of operations for one batch.
Values: TypeAlias = dict[fx.Node, Any]


class Lockstep:
    """Runs both models on all batches, one operation after the other.

    So a layer can be refitted to what the layers before it really give, and no operation is run twice. Held in memory
    are the results that are still to be read: those of a few operations, for all samples.

    Args:
        graph: of the dense model.
        dense: the dense model's parameters and buffers by name.
        pruned: the pruned model's, which may be changed between two operations.
        batches: the inputs of each batch, in the graph's order.

    Attributes:
        values: per batch, the results of the dense model and of the pruned one.
        done: the operations that have been run.
    """

    def __init__(
        self, graph: Graph, dense: Mapping[str, Tensor], pruned: Mapping[str, Tensor], batches: Sequence[list[Tensor]]
    ) -> None:
        self.graph, self.dense, self.pruned = graph, dense, pruned
        self.done: set[fx.Node] = set()
        self._in_order = bool(tangled(graph.program.graph))
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        inputs = [node for node in placeholders if node.name not in graph.tensors]
        self.done.update(placeholders)
        # each model has inputs of its own, since a forward may write into them
        self.values: list[tuple[Values, Values]] = [
            (_cloned(inputs, batch), _cloned(inputs, batch)) for batch in batches
        ]

    def run(self, before: Callable[[fx.Node], None]) -> None:
        """Run all operations; `before` is called with each before it is run."""
        for node in self.graph.nodes:
            self.reach(node, before)

    def reach(self, node: fx.Node, before: Callable[[fx.Node], None]) -> None:
        """Run an operation, and first whatever it reads."""
        pending = [node]
        while pending:
            last = pending[-1]
            missing = [source for source in last.all_input_nodes if source not in self.done]
            if last in self.done or last.op == "output":
                pending.pop()
            elif missing:
                pending.extend(missing)
            else:
                pending.pop()
                before(last)
                if last not in self.done:  # `before` may have run it
                    self._run(last)

    def may_reach(self, node: fx.Node, without: fx.Node) -> bool:
        """Tell whether an operation can be run now, without another that has not been."""
        if node in self.done:
            return True
        if self._in_order:
            return False
        pending, seen = [node], set()
        while pending:
            source = pending.pop()
            if source is without:
                return False
            if source not in self.done and source not in seen:
                seen.add(source)
                pending += source.all_input_nodes
        return True

    def read(self, batch: int, node: fx.Node) -> tuple[Any, Any]:
        """Return the result of an operation for a batch: of the dense model and of the pruned one."""
        dense, pruned = self.values[batch]
        return self._read(node, dense, self.dense), self._read(node, pruned, self.pruned)

    def _read(self, node: fx.Node, values: Values, tensors: Mapping[str, Tensor]) -> Any:
        name = self.graph.tensors.get(node.name) if node.op == "placeholder" else None
        if name is None:
            return values[node]
        return tensors[name] if name in tensors else self.graph.tensor(name)

    @torch.no_grad()
    def _run(self, node: fx.Node) -> None:
        checks = node.op == "call_function" and find(node.target).family is Family.CHECK
        for dense, pruned in self.values if not checks else ():
            dense[node] = self._call(node, dense, self.dense)
            pruned[node] = self._call(node, pruned, self.pruned)
        self.done.add(node)
        for source in node.all_input_nodes:
            if source.op != "placeholder" and all(user in self.done for user in source.users):
                for values in self.values:
                    for own in values:
                        own.pop(source, None)

    def _call(self, node: fx.Node, values: Values, tensors: Mapping[str, Tensor]) -> Any:
        own: tuple[tuple[Any, ...], dict[str, Any]] = fx.map_arg(
            (node.args, node.kwargs), lambda source: self._read(source, values, tensors)
        )
        args, kwargs = own
        if str(node.target) in ("aten.view.default", "aten._unsafe_view.default"):
            return args[0].reshape(args[1])
        written = written_to(node)
        if written and not self._in_order:  # what is written over may be read again by what is run later
            args = tuple(
                value.clone() if source in written else value for value, source in zip(args, node.args, strict=True)
            )
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _cloned(inputs: Sequence[fx.Node], batch: Sequence[Tensor]) -> Values:
    return {node: value.clone() for node, value in zip(inputs, batch, strict=True)}
