"""Reads a graph in order, with a rule for each operation on activations."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from prunus.compiling.lowering.unknown import refuse_unknown
from prunus.compiling.net import INTEGER_TYPES, Box, Net, Operation, View, box_of, in_order, whole
from prunus.errors import CompileError
from prunus.graph import Graph, module_path, where
from prunus.graph.calls import CalledOperation, arguments_by_name, has_tensor, hint
from prunus.graph.operations import OPERATIONS, Family


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor that depends on the inputs: where each of its elements lies in a value.

    Attributes:
        value: number of the value.
        index: int64, of the tensor's shape for the samples the graph was traced with; those of each sample count on
            from those of the one before.
    """

    value: int
    index: Tensor


class Call(CalledOperation):
    """A call with Activations and tensors in the place of nodes."""

    def refuse(self, why: str) -> CompileError:
        """Return the error that this operation can't be compiled."""
        return CompileError(f"{self.name} at {where(self.node)}: {why}")


Rule: TypeAlias = Callable[["Reader", Call], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter the decorated rule for operations of these names in the table of operations.

    Raises:
        AssertionError: a name has a rule already, or no row.
    """

    def enter(function: Rule) -> Rule:
        for name in names:
            assert name in OPERATIONS, f"{name} has no row"
            assert name not in RULES, f"{name} has two rules"
            RULES[name] = function
        return function

    return enter


@dataclass
class Reader:
    """What is known after reading a graph up to some operation.

    It is read with as many samples as it was traced with: at least two where the batch is free, so that an operation
    that mixes samples is seen.
    """

    graph: Graph
    operations: list[Operation] = field(default_factory=list)
    boxes: dict[int, Box] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    done: set[fx.Node] = field(default_factory=set)

    @property
    def samples(self) -> int:
        """How many samples the graph was traced with."""
        first: Tensor = next(iter([*self.graph.args, *self.graph.kwargs.values()]))
        return len(first)

    @property
    def known(self) -> Collection[str]:
        """The names of operations that it can read."""
        return RULES

    def read(self) -> Net:
        """Read every operation.

        Raises:
            CompileError: one can't be lowered; all that are unknown are named before any work.
        """
        refuse_unknown(self.graph, self.known)
        arguments = iter([*self.graph.args, *self.graph.kwargs.items()])
        inputs: dict[str, tuple[int, tuple[int, ...]]] = {}
        integers: dict[str, str] = {}
        outputs: list[View] = []
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name in self.graph.tensors:
                self.values[node] = self.graph.tensor(self.graph.tensors[node.name]).detach().cpu()
            elif node.op == "placeholder":
                entry = next(arguments)
                name, tensor = entry if isinstance(entry, tuple) else (node.name, entry)
                inputs[name] = self._input(node, name, tensor)
                if not tensor.is_floating_point():
                    integers[name] = _kind_of(name, tensor)
            elif node.op == "call_function":
                self.values[node] = self._operation(node)
            elif node.op == "output":
                leaves = pytree.tree_leaves(node.args[0])
                outputs = [self._output(leaf) for leaf in leaves]
            self._forget(node)
        return Net(inputs, tuple(self.operations), tuple(outputs), self.boxes, integers)

    def _forget(self, node: fx.Node) -> None:
        """Let go of what no later operation reads: the indices of large activations take much memory."""
        self.done.add(node)
        for source in (node, *node.all_input_nodes):
            if self.done.issuperset(source.users):
                self.values.pop(source, None)

    def view(self, call: Call, activation: Activation) -> View:
        """Return an activation as a view of one sample.

        Raises:
            CompileError: its first dimension is not the batch, or it mixes samples.
        """
        first = self._one_sample(activation)
        if first is None:
            raise call.refuse(
                "here the batch is not its input's first dimension, as within PyTorch's attention, or samples are "
                "mixed; compile the part of the model without it, or use prunus.export to ONNX"
            )
        return first

    def size(self, activation: Activation) -> int:
        """Return how many elements the value of an activation has."""
        return int(numpy.prod(self.boxes[activation.value]))

    def is_input(self, value: int) -> bool:
        """Tell whether a value is an input of the model."""
        return all(operation.output != value for operation in self.operations)

    def make(self, operation: Operation, index: numpy.ndarray[Any, Any] | None = None) -> Activation:
        """Add an operation and return what it makes: its whole box, or that in some arrangement, as for one sample."""
        self.operations.append(operation)
        self.boxes[operation.output] = operation.box
        return self.activation(
            whole(operation.output, operation.box) if index is None else View(operation.output, index)
        )

    def shaped(self, operation: Operation, shape: tuple[int, ...]) -> Activation:
        """Add an operation and return what it makes, the box's elements in order in another shape (of one sample)."""
        return self.make(operation, whole(operation.output, operation.box).index.reshape(shape))

    def next_value(self) -> int:
        """Return the number of the value that is made next."""
        return len(self.boxes)

    def title(self, call: Call) -> str:
        """Return what an operation is called: the module it is in, or its own name."""
        return module_path(call.node).partition("@")[0] or call.node.name

    def activation(self, view: View) -> Activation:
        """Return a view of one sample as an activation of all of them."""
        size = int(numpy.prod(self.boxes[view.value]))
        samples = numpy.stack([view.index + sample * size for sample in range(self.samples)])
        return Activation(view.value, torch.from_numpy(samples))

    def _input(self, node: fx.Node, name: str, tensor: Tensor) -> tuple[int, tuple[int, ...]]:
        shape = tuple(tensor.shape[1:])
        if 0 in shape:
            raise CompileError(f"a sample of the input {name!r} has the shape {shape}, so there is nothing to compute")
        number, box = self.next_value(), box_of(shape)
        self.boxes[number] = box
        self.values[node] = self.activation(View(number, whole(number, box).index.reshape(shape)))
        return number, shape

    def _output(self, leaf: Any) -> View:
        value = self.values[leaf] if isinstance(leaf, fx.Node) else leaf
        view = self._one_sample(value) if isinstance(value, Activation) else None
        if view is not None and _is_integer(leaf):
            raise CompileError("an output of the model is of whole numbers, but a program computes in floating point")
        if view is None:
            raise CompileError(
                "an output of the model does not depend on its inputs, or has no batch as its first dimension; return "
                "only what is computed sample by sample"
            )
        return view

    def _one_sample(self, activation: Activation) -> View | None:
        """Return an activation as a view of one sample; None where its first dimension is not the batch."""
        index, size = activation.index, self.size(activation)
        if index.ndim == 0 or len(index) != self.samples:
            return None
        first = index[0]
        starts = torch.arange(self.samples).mul(size).reshape(-1, *(1 for _ in first.shape))
        if not torch.equal(first + starts, index):
            return None
        if first.numel() and not 0 <= int(first.min()) <= int(first.max()) < size:
            return None
        first = first.contiguous()
        ordered = in_order(first.numel())
        if numpy.array_equal(first.reshape(-1).numpy(), ordered):
            return View(activation.value, ordered.reshape(first.shape))
        return View(activation.value, first.numpy())

    def _operation(self, node: fx.Node) -> Any:
        if getattr(node.target, "__name__", "") == "getitem":
            pieces: Any = self.values.get(node.args[0])  # type: ignore[arg-type]
            place: Any = node.args[1]
            return pieces[place] if isinstance(pieces, (list, tuple)) else hint(node.meta.get("val"))
        if not isinstance(node.target, torch._ops.OpOverload) or not has_tensor(node.meta.get("val")):
            return hint(node.meta.get("val"))
        call = Call(node, fx.node.map_aggregate(arguments_by_name(node), self._known))
        if not any(isinstance(argument, Activation) for argument in pytree.tree_leaves(call.arguments)):
            if node.target._schema.is_mutable and call.name != "detach" and self._is_state(_root(node)):
                raise call.refuse("it changes a parameter or a buffer, and a program keeps nothing between calls")
            return _computed(call)
        if _is_integer(node) and not (OPERATIONS[call.name].family in _HANDING_ON or call.name in _JOINING):
            raise call.refuse("it computes with whole numbers, but a program computes in floating point")
        try:
            result = RULES[call.name](self, call)
        except CompileError:
            raise
        except Exception as error:  # arguments that the rule didn't expect
            raise call.refuse(f"prunus.compile can't read it ({type(error).__name__}: {str(error)[:200]})") from error
        if node.target._schema.is_mutable:
            self._overwrite(call, result)
        return result

    def _is_state(self, node: fx.Node) -> bool:
        """Tell whether a tensor is a parameter or a buffer, no constant of the code."""
        name, model = self.graph.tensors.get(node.name), self.graph.model
        return any(name == other for other, _ in (*model.named_parameters(), *model.named_buffers()))

    def _known(self, argument: Any) -> Any:
        return self.values[argument] if isinstance(argument, fx.Node) else argument

    def _overwrite(self, call: Call, result: Activation) -> None:
        """After an in-place operation, later uses read its result.

        Raises:
            CompileError: a view of it made before is read later.
        """
        target = call.node.args[0]
        assert isinstance(target, fx.Node)
        before = self.values[target]
        if not isinstance(before, Activation):
            raise call.refuse("it writes over a constant; write what it computes to a new tensor")
        self.values[target] = result
        for node, value in self.values.items():
            other = isinstance(value, Activation) and value.value == before.value and node is not target
            if other and any(user not in self.done and user is not call.node for user in node.users):
                raise call.refuse("it writes over a tensor that is read under another name later")


# What gives whole numbers on as they are.
_HANDING_ON = (Family.MOVE, Family.PARTS, Family.SAME)
_JOINING = ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack")


def _is_integer(node: Any) -> bool:
    """Tell whether a node makes whole numbers, in the first tensor if there are several."""
    leaves = pytree.tree_leaves(node.meta.get("val")) if isinstance(node, fx.Node) else []
    first = next((leaf for leaf in leaves if isinstance(leaf, Tensor)), None)
    return first is not None and not (first.is_floating_point() or first.is_complex())


def _kind_of(name: str, tensor: Tensor) -> str:
    """Return what a program calls the type of an input of whole numbers.

    Raises:
        CompileError: it takes none of them.
    """
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in INTEGER_TYPES:
        kinds = ", ".join(INTEGER_TYPES)
        raise CompileError(f"input {name!r} is of {tensor.dtype}; a program takes floating point, or {kinds}")
    return kind


def _root(node: fx.Node) -> fx.Node:
    """Return the tensor that an operation writes to, through views of it."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _computed(call: Call) -> Any:
    """Compute an operation on constants; what it writes to, later uses read."""
    target: Any = call.node.target
    names = [parameter.name for parameter in target._schema.arguments if not parameter.kwarg_only]
    arguments = fx.node.map_aggregate(dict(call.arguments), _on_cpu)
    assert isinstance(arguments, dict)
    with torch.no_grad():
        return target(*[arguments[name] for name in names], **{k: v for k, v in arguments.items() if k not in names})


def swapped(call: Call, of: Activation, index: Tensor) -> dict[str, Any]:
    """Return a call's arguments with indices in the place of an activation; others only lend their shape."""

    def swap(argument: Any) -> Any:
        if isinstance(argument, Activation):
            return index if argument is of else argument.index
        return argument

    arguments = fx.node.map_aggregate(dict(call.arguments), swap)
    assert isinstance(arguments, dict)
    return dict(arguments)


def moved(activation: Activation, index: Tensor) -> Activation:
    """Return the same value in another arrangement."""
    return replace(activation, index=index)


def _on_cpu(argument: Any) -> Any:
    return torch.device("cpu") if isinstance(argument, torch.device) else argument
