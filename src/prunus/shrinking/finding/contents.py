"""What every tensor of a graph holds whatever the inputs are, operation by operation from the inputs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from prunus.graph import Graph
from prunus.graph.aliases import tangled
from prunus.graph.coupling import Coupling, Use, contraction, movement, recurrent
from prunus.graph.coupling.calls import FACTORIES, shape_of
from prunus.shrinking.finding.content import Content, content, fixed, unknown
from prunus.shrinking.finding.operation import Operation, node_shape, operation_of, rank_of
from prunus.shrinking.finding.weights import nonzero

# None: nothing is known; of an operation with several outputs a list.
Contents: TypeAlias = "Content | list[Content | None] | None"
ContentRule: TypeAlias = "Callable[[Reading, Operation], Contents]"

# By the function that couples the same operations.
CONTENT_RULES: dict[Any, ContentRule] = {}

# These draw random numbers only where they drop out, which their rules look at.
_DROPPING_OUT = (movement.same, contraction.attention, recurrent.recurrent)

# Constants are computed from constants up to this many elements.
_MOST_COMPUTED = 1 << 24


def content_rule(*coupled_by: Any) -> Callable[[ContentRule], ContentRule]:
    """Enter the decorated rule for all operations that these functions couple."""

    def enter(function: ContentRule) -> ContentRule:
        for rule in coupled_by:
            CONTENT_RULES[rule] = function
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
        held: use -> what each of its inputs holds, double; NaN where it varies or differs from place to place.
        distributions: the nodes whose last dimension sums to one, as a softmax's does.
        tangled: the nodes of which nothing can be said, as they are written over and read again.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.of: dict[fx.Node, Contents] = {}
        self.held: dict[int, Tensor] = {}
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
        found = self.of.get(node)
        return found if isinstance(found, Content) else None

    def known(self, node: fx.Node) -> Content:
        """Return the content of a node; one that varies throughout where nothing is known."""
        found = self.single(node)
        return unknown(rank_of(node), node.meta["val"].dtype) if found is None else found

    def is_constant(self, node: fx.Node) -> bool:
        """Tell whether no element of a node depends on the inputs."""
        found = self.single(node)
        return found is not None and found.is_fixed

    def carries(self, use: Use) -> Tensor:
        """Return which entries of a used weight are not zero, as `nonzero`."""
        if id(use) not in self._carries:
            self._carries[id(use)] = nonzero(self.coupling, use)
        return self._carries[id(use)]

    def may_count(self, node: fx.Node) -> Tensor:
        """Return which elements of a node are not always 0."""
        if node not in self._nonzero:
            self._nonzero[node] = self.known(node).may_count
        return self._nonzero[node]

    def _read(self, node: fx.Node) -> Contents:
        if node.op == "placeholder":
            return self._placeholder(node)
        operation = self.operations[node]
        if operation is None:
            return self._piece(node)
        may_be_random = operation.is_random and operation.rule not in _DROPPING_OUT
        if may_be_random or not isinstance(node.meta.get("val"), (Tensor, list, tuple)):
            return None
        if f"aten.{operation.name}" in FACTORIES:
            return _filled(operation)
        if node not in self._from_inputs and not operation.is_random:
            return self._computed(operation)
        rule = CONTENT_RULES.get(operation.rule)
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
        value = operation.node.meta["val"]
        sizes = [shape_of(item).numel() for item in (value if isinstance(value, (list, tuple)) else [value])]
        if sum(sizes) > _MOST_COMPUTED or not all(self.is_constant(argument) for argument in operation.tensors):
            return None
        tensors = {
            argument: self.known(argument).numbers.expand(node_shape(argument)) for argument in operation.tensors
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


def _filled(operation: Operation) -> Content | None:
    """Return the content of zeros, ones and the like."""
    if operation.name in ("zeros", "new_zeros"):
        number: Any = 0
    elif operation.name in ("ones", "new_ones"):
        number = 1
    else:
        number = operation.get("fill_value")
    if not isinstance(number, (int, float)):
        return None
    shape = [1] * operation.num_dims
    numbers = torch.full(shape, number, dtype=operation.node.meta["val"].dtype)
    return content(torch.zeros(shape, dtype=torch.bool), numbers)
