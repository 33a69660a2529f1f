"""Regions that switch gradients or autocast, written out: one flat graph that means the same.

torch.export keeps what a model computes under `torch.no_grad()` or `torch.autocast` as a call of a graph of its own.
Here the operations of such a graph are put in its place, and what the region meant is kept:

- What was computed without gradients is detached where it is used with gradients, be that by an operation or as an
  output. So whatever is computed in such a region lets no gradient through, also tensors that are made in it, and what
  is computed under `torch.enable_grad()` within it does.
- Two things can't be said by a flat graph. Nodes are marked that autocast was switched on for, and writes without
  gradients into a tensor that has some; `refuse_unsaid` raises for these where the graph is to be run.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from prunus.graph.calls import has_tensor, written_arguments

GRADIENTS, AUTOCAST = "wrap_with_set_grad_enabled", "wrap_with_autocast"
_UNSAID = "prunus_unsaid"  # the key of a node's meta that says what a flat graph can't
_UNDER_AUTOCAST = "it computes under torch.autocast, which a graph can't hold; switch it on around the model instead"
_OF_A_LIST = torch.ops.aten.view.default._schema.arguments[0].alias_info  # used, not written to
_WRITES = (
    "it changes a tensor in place under torch.no_grad() that gradients flow through, which a graph can't hold; "
    "compute a new tensor instead"
)


def flatten(program: ExportedProgram) -> fx.Graph:
    """Return a program's graph with all regions written out: the same graph where there is none.

    Raises:
        ValueError: there is control flow within a region.
    """
    graph: fx.Graph = program.graph
    if not any(_is_region(node) for node in graph.nodes):
        return graph
    return _Flattener(program).flat()


def flatten_in_place(program: ExportedProgram) -> None:
    """Let a program's graph be the flat one.

    Raises:
        ValueError: there is control flow within a region.
    """
    graph = flatten(program)
    if graph is program.graph:
        return
    program.graph_module.graph = graph
    outputs = next(iter(reversed(graph.nodes))).args[0]
    for spec, result in zip(program.graph_signature.output_specs, outputs, strict=True):
        if isinstance(result, fx.Node) and hasattr(spec.arg, "name"):
            spec.arg.name = result.name


def refuse_unsaid(graph: fx.Graph) -> None:
    """Refuse a flat graph that means less than the one it was made of.

    Raises:
        ValueError: there is autocast in it, or a write into what has gradients.
    """
    for node in graph.nodes:
        if _UNSAID in node.meta:
            raise ValueError(f"the program can't be made a flat graph: operation {node.target}: {node.meta[_UNSAID]}")


def _is_region(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.HigherOrderOperator) and str(node.target) in (GRADIENTS, AUTOCAST)


class _Flattener:
    """Copies a graph call by call.

    Attributes:
        graph: the copy so far.
        without: nodes of it that were computed without gradients.
        detached: node -> what stands for it where there are gradients.
        roots: node -> the node whose memory it uses.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.graph = fx.Graph()
        self.without: set[fx.Node] = set()
        self.detached: dict[fx.Node, fx.Node] = {}
        self.roots: dict[fx.Node, fx.Node] = {}
        self._of_parameters: set[fx.Node] = set()

    def flat(self) -> fx.Graph:
        module = self.program.graph_module
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        copies: dict[fx.Node, Any] = {}
        for node in module.graph.nodes:
            if node.op == "placeholder":
                copies[node] = copy = self.graph.node_copy(node)
                if specs[node.name].kind == InputKind.PARAMETER:
                    self._of_parameters.add(copy)
        outputs = self._add(module, copies, True, False)
        self.graph.output(outputs)
        return self.graph

    def _add(self, module: fx.GraphModule, copies: dict[fx.Node, Any], gradients: bool, autocast: bool) -> Any:
        """Copy the calls of a graph, and return the copies of its outputs."""
        for node in module.graph.nodes:
            if node.op == "output":
                return self._used(node.args[0], copies, gradients)
            if node.op == "placeholder" or (node.op == "get_attr" and _only_regions_use(node)):
                continue
            if _is_region(node):
                copies[node] = self._region(module, node, copies, gradients, autocast)
            elif node.target is operator.getitem and isinstance(copies[node.args[0]], (tuple, list)):
                copies[node] = copies[node.args[0]][node.args[1]]
            elif node.op == "get_attr" and module is not self.program.graph_module:
                raise ValueError(f"a region that switches gradients or autocast holds control flow: {node.target}")
            else:
                copies[node] = self._call(node, copies, gradients, autocast)
        raise AssertionError("a graph ends in its outputs")

    def _region(
        self, module: fx.GraphModule, node: fx.Node, copies: dict[fx.Node, Any], gradients: bool, autocast: bool
    ) -> Any:
        place = next(index for index, arg in enumerate(node.args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
        body = getattr(module, str(node.args[place].target))  # type: ignore[union-attr]
        if str(node.target) == GRADIENTS:
            gradients = bool(node.args[0])
        else:
            autocast = bool(node.args[2])
        inner = [argument for argument in body.graph.nodes if argument.op == "placeholder"]
        inputs = fx.map_arg(node.args[place + 1 :], copies.__getitem__)
        return self._add(body, dict(zip(inner, inputs, strict=True)), gradients, autocast)

    def _call(self, node: fx.Node, copies: dict[fx.Node, Any], gradients: bool, autocast: bool) -> fx.Node:
        args, kwargs = self._used((node.args, node.kwargs), copies, gradients)
        copy = self.graph.create_node(node.op, node.target, args, kwargs, node.name, node.type)
        copy.meta = dict(node.meta)
        if autocast and has_tensor(node.meta.get("val")):
            copy.meta[_UNSAID] = _UNDER_AUTOCAST
        of_a_result = node.target is operator.getitem and copy.args[0] in self.without
        if not self._of_parameters.isdisjoint(copy.all_input_nodes):
            self._of_parameters.add(copy)
        written = self._follow_memory(copy)
        if (not gradients or of_a_result) and has_tensor(node.meta.get("val")):
            self._without_gradients(copy, written)
        return copy

    def _without_gradients(self, copy: fx.Node, written: list[fx.Node]) -> None:
        """Note a result that was computed without gradients."""
        written = [*written, *(self.roots.get(node, node) for node in written)]
        if not self._of_parameters.isdisjoint(written):  # what has gradients keeps them, as if nothing were written
            copy.meta[_UNSAID] = _WRITES
            return
        if any(node not in self.without for node in written):  # or its owner would remember how it was computed
            with self.graph.inserting_before(copy):
                copy.args, copy.kwargs = fx.map_arg(
                    (copy.args, copy.kwargs), lambda node: node if node in written else self._detach(node)
                )
        self.without.add(copy)
        self._of_parameters.discard(copy)

    def _follow_memory(self, copy: fx.Node) -> list[fx.Node]:
        """Note whose memory a result uses, and return the arguments that the operation writes to."""
        written = []
        for alias, value in _aliases(copy):
            self.roots.setdefault(copy, self.roots.get(value, value))
            if alias.is_write:
                written.append(value)
        return written

    def _used(self, value: Any, copies: dict[fx.Node, Any], gradients: bool) -> Any:
        """Return what stands for the nodes in an argument, detached where that is needed."""
        return fx.map_arg(value, lambda node: self._with(copies[node]) if gradients else copies[node])

    def _with(self, copy: Any) -> Any:
        """Return what stands for a node, or for the results of a region, where there are gradients."""
        if isinstance(copy, (tuple, list)):
            return tuple(map(self._with, copy))
        if copy not in self.without:
            return copy
        if copy not in self.detached:
            self.detached[copy] = self._detach(copy)
        return self.detached[copy]

    def _detach(self, node: fx.Node) -> fx.Node:
        if not isinstance(node.meta.get("val"), Tensor):
            return node
        detached = self.graph.create_node("call_function", torch.ops.aten.detach.default, (node,))
        detached.meta = {key: value for key, value in node.meta.items() if key != _UNSAID}
        self.roots[detached] = self.roots.get(node, node)
        return detached


def _only_regions_use(node: fx.Node) -> bool:
    return bool(node.users) and all(_is_region(user) for user in node.users)


def _aliases(node: fx.Node) -> Iterator[tuple[Any, fx.Node]]:
    """Yield the arguments whose memory an operation writes to or its result uses, with what its schema says of it."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        yield _OF_A_LIST, node.args[0]
    if isinstance(node.target, torch._ops.OpOverload):
        arguments = written_arguments(node)
        for argument in node.target._schema.arguments:
            value = arguments.get(argument.name)
            if argument.alias_info is not None and isinstance(value, fx.Node):
                yield argument.alias_info, value
