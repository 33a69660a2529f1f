"""Each operation of the smaller graph by itself: of what is kept of its inputs it makes what is kept of its output."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from prunus.forward import devices_of
from prunus.graph import where
from prunus.graph.calls import has_tensor
from prunus.graph.coupling import Value
from prunus.graph.rewriting import Demanded
from prunus.graph.rewriting.extents import Masks, taken
from prunus.graph.tracing import fused_attention_off
from prunus.proving.drawing import Inputs
from prunus.proving.matching import MismatchError
from prunus.proving.verification import difference_where_finite
from prunus.shrinking.finding.constants import Matters

# The largest difference that rounding may make in one operation, relative to its largest output: inputs are equal.
_TOLERANCES = {
    torch.float64: 1e-9,
    torch.complex128: 1e-9,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


def check_operations(demanded: Demanded, matters: Matters, inputs: Inputs) -> None:
    """Run the larger graph, and each changed operation of the smaller one on what is kept of the larger one's values.

    So nothing that comes later, a dead ReLU, an argmax or a clamp, can hide a difference, and none adds up.

    Args:
        demanded: the smaller graph, and what its operations were in the larger one.
        matters: tells which elements of an operation's outputs matter; what others hold is not compared.
        inputs: inputs of the shapes that the graph was traced with.

    Raises:
        MismatchError: an operation makes something else; the message says which one and by how much.
    """
    graph = demanded.kept.coupling.graph
    values = iter(inputs.all)
    tensors = [
        graph.tensor(graph.tensors[node.name]).detach() if node.name in graph.tensors else next(values)
        for node in graph.nodes
        if node.op == "placeholder"
    ]
    cuda = [device for device in devices_of(graph.model) if device.type == "cuda"]
    with torch.no_grad(), fused_attention_off(), torch.random.fork_rng(cuda):
        _Checking(demanded, matters, cuda).run(*(tensor.clone() for tensor in tensors))


class _Checking(fx.Interpreter):
    """Runs the larger graph; before each operation it takes what the smaller graph's is to read."""

    def __init__(self, demanded: Demanded, matters: Matters, cuda: list[torch.device]) -> None:
        super().__init__(demanded.kept.coupling.graph.program.graph_module)
        self.extra_traceback = False
        self._demanded, self._matters, self._cuda = demanded, matters, cuda
        self._numbers: dict[fx.Node, Any] = {}  # sizes in the smaller graph
        self._smaller = {origin: node for node, origin in demanded.origin.items() if node.op == "call_function"}

    def run_node(self, node: fx.Node) -> Any:
        smaller = self._smaller.get(node)
        if smaller is None or node.target is operator.getitem:
            return super().run_node(node)
        if not has_tensor(node.meta.get("val")):
            self._numbers[smaller] = self._run(smaller)
            return super().run_node(node)
        if smaller in self._demanded.renumbered or not self._is_changed(smaller, node):
            return super().run_node(node)
        args, kwargs = fx.map_arg((smaller.args, smaller.kwargs), self._read)
        with torch.random.fork_rng(self._cuda):  # random numbers are drawn alike
            result = super().run_node(node)
        assert callable(smaller.target)
        try:
            output = smaller.target(*args, **kwargs)
        except Exception as error:  # whatever an operation raises for sizes that do not fit
            raise MismatchError(f"{node.target} fails on what is kept: {error}; in {where(node)}") from error
        self._compare(node, result, output)
        return result

    def _is_changed(self, smaller: fx.Node, node: fx.Node) -> bool:
        """Tell whether the smaller graph's operation reads or makes anything else than the larger one's."""
        values = [self._demanded.kept.coupling.values.get(source) for source in (node, *node.all_input_nodes)]
        listed = [value for entry in values for value in (entry if isinstance(entry, list) else [entry])]
        if any(isinstance(value, Value) and self._demanded.extents.is_cut(value) for value in listed):
            return True
        read = [source for source in smaller.all_input_nodes if source.op == "placeholder"]
        names = [self._demanded.names.get(source.name) for source in read]
        return any(name is not None and self._is_replaced(name) for name in names)

    def _is_replaced(self, name: str) -> bool:
        """Tell whether a parameter or buffer is more than what is kept of it."""
        demanded = self._demanded
        return name in demanded.contents or name in demanded.added or name in demanded.kept.columns

    def _run(self, node: fx.Node) -> Any:
        """Run an operation of the smaller graph on what it is to read."""
        assert callable(node.target)
        return node.target(*fx.map_arg(node.args, self._read), **fx.map_arg(node.kwargs, self._read))

    def _read(self, node: fx.Node) -> Any:
        """Return what an operation of the smaller graph reads: what is kept of what the larger one reads there."""
        name = self._demanded.names.get(node.name) if node.op == "placeholder" else None
        if name is not None and self._is_replaced(name):
            return self._demanded.tensors[name].detach().clone()
        origin = self._demanded.origin.get(node)
        if node in self._numbers:
            return self._numbers[node]
        if origin is None or node in self._demanded.renumbered:  # added, or an index that counts what is left
            return self._run(node)
        content = self.env[origin]
        if isinstance(content, Tensor):
            return self._demanded.restricted(node, content).clone()
        return content

    def _compare(self, node: fx.Node, result: Any, output: Any) -> None:
        value = self._demanded.kept.coupling.values.get(node)
        if isinstance(value, list):
            for piece, (one, whole, other) in enumerate(zip(value, result, output, strict=True)):
                self._compare_tensor(node, piece, one, whole, other)
        elif isinstance(value, Value):
            self._compare_tensor(node, 0, value, result, output)

    def _compare_tensor(self, node: fx.Node, piece: int, value: Value, whole: Tensor, output: Tensor) -> None:
        masks = self._demanded.extents.of(value)
        expected = taken(whole, masks)
        if expected.shape != output.shape:
            raise MismatchError(
                f"{node.target} would give the shape {tuple(output.shape)} and must give {tuple(expected.shape)}; in "
                f"{where(node)}"
            )
        matters = self._matters(node, piece)
        if matters is None:
            return
        inside = _fitting(matters, masks)
        if not bool(inside.all()):
            inside = inside.to(output.device)
            expected, output = (torch.where(inside, values, 0) for values in (expected, output))
        apart = difference_where_finite([expected], [output])
        if apart > _TOLERANCES.get(expected.dtype, 0.0):
            raise MismatchError(f"{node.target} would differ by {apart:.1e} of its largest output; in {where(node)}")


def _fitting(matters: Tensor, masks: Masks) -> Tensor:
    """Return what stays of a mask that broadcasts to a tensor, itself to be broadcast to what stays of the tensor."""
    matters = matters.reshape([1] * (len(masks) - matters.ndim) + list(matters.shape))
    return taken(matters, tuple(mask if size > 1 else None for mask, size in zip(masks, matters.shape, strict=True)))
