"""What every tensor of a graph holds whatever the inputs are, operation by operation from the inputs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, fx

from prunus.graph import Graph
from prunus.graph.aliases import tangled
from prunus.graph.calls import results_of, shape_of
from prunus.graph.coupling import Coupling, Use
from prunus.graph.operations import Family
from prunus.shrinking.finding.content import Content, content, fixed, unknown
from prunus.shrinking.finding.operation import Operation, node_shape, operation_of, rank_of
from prunus.shrinking.finding.weights import nonzero

# None: nothing is known; of an operation with several outputs a list.
Contents: TypeAlias = "Content | list[Content | None] | None"
ContentRule: TypeAlias = "Callable[[Reading, Operation], Contents]"

CONTENT_RULES: dict[Family, ContentRule] = {}

# These draw random numbers only where they drop out, which their rules look at.
_DROPPING_OUT = (Family.SAME, Family.ATTENTION, Family.RECURRENT)

# Constants are computed from constants up to this many elements.
_MOST_COMPUTED = 1 << 24


def content_rule(*families: Family) -> Callable[[ContentRule], ContentRule]:
    """Enter the decorated rule for the operations of some families."""

    def enter(function: ContentRule) -> ContentRule:
        for family in families:
            CONTENT_RULES[family] = function
        return function

    return enter


class Reading:
    """What is known of the tensors of a graph.

    A tensor's elements are constants, or they vary. `0 * x` is taken for 0 whatever `x` is: where `x` is NaN or
    infinite it would be NaN, as it would with a weight of zero.

    Attributes:
        coupling: what goes together, and the graph.
        of: node -> its content.
        operations: node -> the operation it is, None where it is none of ATen's.
        constants: use -> what each of its inputs holds, double; NaN where it varies or differs from place to place.
        distributions: the nodes whose last dimension sums to one, as a softmax's does.
        tangled: the nodes of which nothing can be said, as they are written over and read again.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.of: dict[fx.Node, Contents] = {}
        self.constants: dict[int, Tensor] = {}
        self.distributions: set[fx.Node] = set()
        self.tangled = tangled(coupling.graph.program.graph)
        self.uses: dict[fx.Node, list[Use]] = {}
        self.operations = {node: operation_of(node) for node in coupling.graph.nodes}
        self._from_inputs = _from_inputs(coupling.graph)
        self._carries: dict[int, Tensor] = {}
        self._nonzero: dict[fx.Node, Tensor] = {}
        for use in coupling.uses:
            self.uses.setdefault(use.node, []).append(use)
        with torch.no_grad():
            for node in coupling.graph.nodes:
                self.of[node] = None if node in self.tangled else self._read(node)

    def single(self, node: fx.Node) -> Content | None:
        """Return the content of a node with one output."""
        value = self.of.get(node)
        return value if isinstance(value, Content) else None

    def content(self, node: fx.Node) -> Content:
        """Return the content of a node; one that varies throughout where nothing is known."""
        value = self.single(node)
        return unknown(rank_of(node), node.meta["val"].dtype) if value is None else value

    def is_constant(self, node: fx.Node) -> bool:
        """Tell whether no element of a node depends on the inputs."""
        value = self.single(node)
        return value is not None and value.is_fixed

    def carries(self, use: Use) -> Tensor:
        """Return which entries of a used weight are not zero, as `nonzero`."""
        if id(use) not in self._carries:
            self._carries[id(use)] = nonzero(self.coupling, use)
        return self._carries[id(use)]

    def may_count(self, node: fx.Node) -> Tensor:
        """Return which elements of a node are not always 0."""
        if node not in self._nonzero:
            self._nonzero[node] = self.content(node).may_count
        return self._nonzero[node]

    def _read(self, node: fx.Node) -> Contents:
        if node.op == "placeholder":
            return self._placeholder(node)
        operation = self.operations[node]
        if operation is None:
            return self._piece(node)
        may_be_random = operation.is_random and operation.family not in _DROPPING_OUT
        if may_be_random or not isinstance(node.meta.get("val"), (Tensor, list, tuple)):
            return None
        if operation.family is Family.FILL:
            return filled(operation)
        if node not in self._from_inputs and not operation.is_random:
            return self._computed(operation)
        rule = CONTENT_RULES.get(operation.family)
        try:
            return None if rule is None else rule(self, operation)
        except (RuntimeError, TypeError, NotImplementedError):  # it does not run on what stands for its tensors
            return None

    def _piece(self, node: fx.Node) -> Content | None:
        """Return the content of one of an operation's outputs."""
        if getattr(node.target, "__name__", "") != "getitem":
            return None
        source, place = node.args
        assert isinstance(source, fx.Node)
        pieces = self.of.get(source)
        return pieces[int(place)] if isinstance(pieces, list) else None  # type: ignore[arg-type]

    def _placeholder(self, node: fx.Node) -> Content | None:
        graph = self.coupling.graph
        name = graph.tensors.get(node.name)
        if name is None or name in graph.program.graph_signature.buffers_to_mutate.values():
            return None
        tensor = graph.tensor(name)
        return None if tensor.is_meta else fixed(tensor)

    def _computed(self, operation: Operation) -> Contents:
        """Compute what depends on parameters and buffers only, by values and by sizes."""
        sizes = [shape_of(result).numel() for result in results_of(operation.node)]
        if sum(sizes) > _MOST_COMPUTED or not all(self.is_constant(argument) for argument in operation.tensors):
            return None
        tensors = {
            argument: self.content(argument).numbers.expand(node_shape(argument)) for argument in operation.tensors
        }
        try:
            result = operation.compute(tensors)
        except (RuntimeError, TypeError, NotImplementedError):
            return None
        if isinstance(result, Tensor):
            return fixed(result)
        return [fixed(item) if isinstance(item, Tensor) else None for item in result]


def _from_inputs(graph: Graph) -> set[fx.Node]:
    """Return the nodes that hang on the model's inputs, by values or by sizes."""
    result: set[fx.Node] = set()
    for node in graph.nodes:
        is_input = node.op == "placeholder" and node.name not in graph.tensors
        if is_input or any(argument in result for argument in node.all_input_nodes):
            result.add(node)
    return result


def filled(operation: Operation) -> Content | None:
    """Return the content of a tensor of one number; None where that is not known."""
    number = operation.fills
    if number is None:
        return None
    shape = [1] * operation.num_dims
    numbers = torch.full(shape, number, dtype=operation.node.meta["val"].dtype)
    return content(torch.zeros(shape, dtype=torch.bool), numbers)
