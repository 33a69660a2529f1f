"""Copies a graph operation by operation, each fitted to what is kept, and checks every shape."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from prunus.graph.calls import written_arguments
from prunus.graph.coupling import Value
from prunus.graph.coupling.calls import Call
from prunus.graph.kept import Kept
from prunus.graph.operations import Family
from prunus.graph.rewriting import aligning, aligning_products, shapes, writing  # noqa: F401  # enter their checks
from prunus.graph.rewriting.extents import Extents
from prunus.graph.rewriting.fitting import Candidate, Scaled, candidates, fitted_sizes
from prunus.graph.rewriting.moving import MOVES, Gather, Move
from prunus.graph.rewriting.references import chain, factor, holders_and_users


class Assembly:
    """The graph of what is kept while it is made.

    Args:
        kept: what stays.
        new_biases: operation of the original -> a bias that it had not, cut already.
    """

    def __init__(self, kept: Kept, new_biases: Mapping[str, Tensor]) -> None:
        self.kept = kept
        self.values = kept.coupling.values
        self.extents = Extents(kept)
        self.graph = fx.Graph()
        self.names: dict[str, str] = {}
        self.origin: dict[fx.Node, fx.Node] = {}
        self.moved: set[fx.Node] = set()
        self.renumbered: set[fx.Node] = set()
        self.contents: dict[str, Tensor] = {}
        self.added: dict[str, Tensor] = {}
        self._new_biases = new_biases
        self._new: dict[fx.Node, fx.Node] = {}
        self._gathers: dict[fx.Node, tuple[fx.Node, Gather]] = {}
        # What is written once all users are known: sizes, and indices.
        self._scaled: dict[fx.Node, list[tuple[fx.Node, Scaled]]] = {}
        self._indices: dict[fx.Node, list[tuple[fx.Node, str, Tensor]]] = {}

    def run(self) -> None:
        """Copy and fit every operation.

        Raises:
            RewriteError: one can't be computed on what is kept.
        """
        graph = self.kept.coupling.graph
        for node in graph.nodes:
            if node.op == "get_attr" and not node.users:
                continue
            new = self.graph.node_copy(node, self._new.__getitem__)
            self._map(node, new)
            if node.op == "placeholder" and node.name in graph.tensors:
                self.names[new.name] = graph.tensors[node.name]
            if isinstance(node.target, torch._ops.OpOverload) and self.values.get(node) is not None:
                self._fit(node, new)
            if node.name in self._new_biases:
                self._add_bias(node, new, self._new_biases[node.name])
        self._write_sizes()
        self._write_indices()
        writing.keep_writes(graph.nodes, self._gathers, self)
        shapes.check(self)

    def _map(self, node: fx.Node, new: fx.Node) -> None:
        self._new[node] = new
        self.origin[new] = node

    def new(self, node: fx.Node) -> fx.Node:
        """Return what stands for a node of the original."""
        return self._new[node]

    def _fit(self, node: fx.Node, new: fx.Node) -> None:
        call = Call.of(node, self.values)
        value: Any = self.values[node]
        outputs = value if isinstance(value, list) else [value]
        if call.family is Family.FILL and isinstance(value, Value):
            sizes = list(written_arguments(node)["size"])
            self._write(new, {"size": fitted_sizes(sizes, list(value.shape), self.extents.shape(value))}, node)
        elif call.is_touched and call.family in MOVES:
            self._move(node, new)
        else:
            self._write(new, aligning.literals(call, outputs, self.extents), node)

    def _move(self, node: fx.Node, new: fx.Node) -> None:
        move = Move(node, self.values, self.extents)
        if move.is_whole():
            return
        for candidate in candidates(move):
            if move.is_proven(candidate.target, candidate.numbers):
                self._accept(candidate, node, new)
                return
        source = move.nodes[id(move.carriers[0])]
        gather = move.gather()
        self._gathers[node] = source, gather
        self._replace(node, new, self._new[source], gather)

    def _accept(self, candidate: Candidate, node: fx.Node, new: fx.Node) -> None:
        if "split_sizes" in candidate.changes:  # pieces, whatever they were cut into by
            sizes, dim = candidate.changes["split_sizes"], candidate.changes["dim"]
            new.target, new.args, new.kwargs = candidate.target, (new.args[0], sizes, dim), {}
            return
        self._write(new, candidate.changes, node)

    def _write(self, new: fx.Node, changes: Mapping[str, Any], node: fx.Node) -> None:
        """Write arguments by name; sizes that hang on the batch and indices wait until all users are known."""
        target: Any = new.target
        names = [parameter.name for parameter in target._schema.arguments]
        before = written_arguments(node)
        for name, value in changes.items():
            argument: Any = before.get(name)
            if name == "indices":
                place = next(place for place, entry in enumerate(value) if isinstance(entry, Tensor))
                self._indices.setdefault(argument[place], []).append((new, f"indices.{place}", value[place]))
                continue
            if isinstance(value, Tensor):
                self._indices.setdefault(argument, []).append((new, name, value))
                continue
            if isinstance(value, list):
                for entry in value:
                    if isinstance(entry, Scaled):
                        self._scaled.setdefault(entry.node, []).append((new, entry))
                value = [
                    self._new[entry.node if isinstance(entry, Scaled) else entry]
                    if isinstance(entry, (Scaled, fx.Node))
                    else entry
                    for entry in value
                ]
            if name in new.kwargs or names.index(name) >= len(new.args):
                new.kwargs = {**new.kwargs, name: value}
            else:
                new.update_arg(names.index(name), value)

    def _replace(self, node: fx.Node, new: fx.Node, source: fx.Node, gather: Gather) -> None:
        """Put a selection of what is needed in the place of an operation."""
        with self.graph.inserting_before(new):
            last = self._selected(source, gather)
        last.meta = dict(node.meta)
        self.graph.erase_node(new)
        del self.origin[new]
        self._map(node, last)
        self.moved.add(last)

    def _selected(self, source: fx.Node, gather: Gather) -> fx.Node:
        aten = torch.ops.aten
        if gather.by_dim is not None:
            for dim, index in gather.by_dim.items():
                source = self.graph.call_function(aten.index_select.default, (source, dim, self.index(index)))
            return source if gather.by_dim else self.graph.call_function(aten.clone.default, (source,))
        assert gather.flat is not None
        lead = [-1] if gather.batched else []
        flat = self.graph.call_function(aten.reshape.default, (source, [*lead, gather.size]))
        dim = len(lead)
        picked = self.graph.call_function(aten.index_select.default, (flat, dim, self.index(gather.flat)))
        return self.graph.call_function(aten.reshape.default, (picked, [*lead, *gather.shape[dim:]]))

    def index(self, index: Tensor) -> fx.Node:
        """Return a placeholder for an index, the same one for the same index."""
        for name, tensor in self.added.items():
            if not isinstance(tensor, nn.Parameter) and torch.equal(tensor, index):
                placeholder: fx.Node = next(node for node in self.graph.nodes if self.names.get(node.name) == name)
                return placeholder
        return self._add("kept_indices", index)

    def _add(self, name: str, tensor: Tensor) -> fx.Node:
        """Add a tensor under this name, or one like it that is free, and return its placeholder."""
        program = self.kept.coupling.graph.program
        taken = {*program.state_dict, *program.constants, *self.added}
        options = (name, *(f"{name}_{place}" for place in range(len(taken) + 1)))
        free = next(option for option in options if option not in taken)
        weights = [tensor.device for tensor in program.state_dict.values() if isinstance(tensor, Tensor)]
        self.added[free] = tensor.to(weights[0]) if weights and not isinstance(tensor, nn.Parameter) else tensor
        first = next(node for node in self.graph.nodes if node.op == "placeholder" and node.name not in self.names)
        with self.graph.inserting_before(first):
            node = self.graph.placeholder(free.replace(".", "_"))
        node.meta["val"] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        self.names[node.name] = free
        return node

    def _add_bias(self, node: fx.Node, new: fx.Node, bias: Tensor) -> None:
        use = next(use for use in self.kept.coupling.uses if use.node is node)
        path, _, attribute = use.weight.name.rpartition(".")
        attribute = "bias" if attribute == "weight" else f"{attribute}_bias"
        placeholder = self._add(f"{path}.{attribute}" if path else attribute, nn.Parameter(bias))
        new.args = (*new.args[:2], placeholder, *new.args[3:])

    def _write_sizes(self) -> None:
        """Write sizes that hang on the batch: in the factor they are computed with where all users agree on it."""
        for size, requests in self._scaled.items():
            ratios = {(scaled.new, scaled.old) for _, scaled in requests}
            number = factor(size)
            ((left, old), *others) = ratios
            users = {self.origin[user] for user, _ in requests}
            if not others and number is not None and users == set(size.users) and number[1] * left % old == 0:
                self._new[size].update_arg(number[0], number[1] * left // old)
                continue
            for user, scaled in dict.fromkeys(requests):
                with self.graph.inserting_before(user):
                    times = self.graph.call_function(operator.mul, (self._new[size], scaled.new))
                    over = self.graph.call_function(operator.floordiv, (times, scaled.old))
                times.meta["val"], over.meta["val"] = scaled.new * scaled.old, scaled.new
                user.replace_input_with(self._new[size], over)

    def _write_indices(self) -> None:
        """Write indices: in the buffer that holds them where it serves nothing else, else in a new one."""
        by_root: dict[fx.Node, list[tuple[fx.Node, str, Tensor]]] = {}
        for argument, requests in self._indices.items():
            by_root.setdefault(chain(argument)[-1], []).extend(requests)
        for root, requests in by_root.items():
            holders, users = holders_and_users(root)
            first = requests[0][2]
            agree = all(torch.equal(first, index) for _, _, index in requests)
            name = self.kept.coupling.graph.tensors.get(root.name)
            if name is not None and agree and users == {self.origin[user] for user, _, _ in requests}:
                self.contents[name] = first.to(self.kept.coupling.graph.tensor(name).device)
                self.renumbered |= {self._new[holder] for holder in holders}
                continue
            for user, place, index in requests:
                self._write_index(user, place, self.index(index))

    def _write_index(self, user: fx.Node, place: str, index: fx.Node) -> None:
        name, _, entry = place.partition(".")
        target: Any = user.target
        position = [parameter.name for parameter in target._schema.arguments].index(name)
        if not entry:
            user.update_arg(position, index)
            return
        listed = list(user.args[position])  # type: ignore[arg-type]
        listed[int(entry)] = index
        user.update_arg(position, listed)
