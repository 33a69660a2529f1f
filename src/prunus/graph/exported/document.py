"""A graph as a document: plain JSON values, without tensors, which anybody may have written.

    why          why the model's own class was not kept
    arguments    [name, structure] of each argument
    positional   how many of them, from the first, may be given by position
    inputs       {"dtype", "shape"} or {"value"} of each leaf of the arguments; a text in a shape is a free size; where
                 others than the batch are free, also {"example"}, sizes that the model takes
    kinds        a letter for each tensor: p for a parameter, f for a frozen one, b for a buffer, c for a constant
    nodes        [operation, its arguments, {those by name}] of each call, as `prunus.graph.exported.arguments` writes
                 them; an operation without an overload's name is the default one
    output       the structure of what comes out
    leaves       its leaves

A structure is "*" for a leaf, or one of {"tuple": [...]}, {"list": [...]}, {"dict": [[key, structure], ...]}.
Names, dtypes and shapes of the tensors lie with the tensors, and a version with the file. Nothing in a document is run,
evaluated, or looked up by name outside `prunus.graph.exported.operations`.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from prunus.graph.exported import arguments, limits, operations
from prunus.graph.exported.arguments import DTYPES, DocumentError
from prunus.graph.exported.source import FLAG, holder_of, split
from prunus.graph.exported.structure import PLAIN, Input, Structure

if TYPE_CHECKING:
    from prunus.graph.exported.module import ExportedModule

LEAF = "*"
PARAMETER, FROZEN, BUFFER, CONSTANT = "pfbc"
DEFAULT = ".default"
ROOT = "."  # stands for the name of the outermost module, which is empty
_NUMBER_NAMES = {function: name for name, function in operations.NUMBERS.items()}


def write(module: ExportedModule) -> dict[str, Any]:
    """Return a module's document.

    Raises:
        DocumentError: it holds an operation, a value or a name that a document can't.
    """
    writer = _Writer(module)
    writer.write()
    signature = module.signature
    return {
        "why": module.why,
        "arguments": [[name, _structure_to_json(structure)] for name, structure in signature.arguments.items()],
        "positional": signature.num_positional,
        "inputs": [writer.input(leaf) for leaf in signature.inputs],
        "kinds": "".join(_kind(module, name, tensor) for name, tensor in module.tensors().items()),
        "nodes": writer.nodes,
        "output": _structure_to_json(signature.output),
        "leaves": writer.leaves,
    }


class _Writer:
    def __init__(self, module: ExportedModule) -> None:
        self._graph, self._own = module.graph, module._like.device
        self._places = {name: place for place, name in enumerate(module.tensors())}
        self._numbers: dict[fx.Node, int] = {}
        self._last_place, self._last_module = -1, ""  # of the tensor that was named last
        self.nodes: list[list[Any]] = []
        self.leaves: list[Any] = []

    def write(self) -> None:
        for node in self._graph.nodes:
            if node.op == "output":
                self.leaves = self._encode(list(node.args[0]))
            if node.op == "call_function":
                name = _operation_name(node)
                _check_constants(name, node)
                call = [name.removesuffix(DEFAULT), *self._encode(list(node.args))]
                kwargs = {key: self._encode(value) for key, value in node.kwargs.items()}
                self.nodes.append([*call, kwargs] if kwargs else call)
            if node.op in ("call_function", "placeholder"):
                self._numbers[node] = len(self._numbers)

    def input(self, leaf: Input) -> dict[str, Any]:
        if leaf.dtype is None:
            return {"value": self._encode(leaf.value)}
        entry = {"dtype": dtype_name(leaf.dtype), "shape": list(leaf.shape)}
        free = any(isinstance(size, str) for size in leaf.shape[1:])
        return entry | {"example": list(leaf.example)} if free and leaf.example else entry

    def _encode(self, value: Any) -> Any:
        return arguments.encode(value, self._reference, self._own)

    def _reference(self, node: fx.Node) -> str:
        if node.op != "get_attr":
            return arguments.NODE + _unless_one(len(self._numbers) - self._numbers[node])
        modules, last = split(str(node.target))
        module = ".".join(modules)
        if last == FLAG:
            return arguments.FLAG_OF + ("" if module == self._last_module else module or ROOT)
        place = self._places[str(node.target)]
        step, self._last_place, self._last_module = place - self._last_place, place, module
        return arguments.TENSOR_NAMED + _unless_one(step)


def _unless_one(count: int) -> str:
    return "" if count == 1 else str(count)


def _check_constants(name: str, node: fx.Node) -> None:
    """Refuse here already what could not be read back."""
    if isinstance(node.target, torch._ops.OpOverload):
        names = [argument.name for argument in node.target._schema.arguments]
        limits.check_constants(name, dict(zip(names, node.args, strict=False)) | node.kwargs)


def _operation_name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = str(target).removeprefix("aten.")
        if target.namespace == "aten" and name in operations.ATEN:
            return name
    elif target is operator.getitem:
        return "getitem"
    elif callable(target) and target in _NUMBER_NAMES:
        return f"number.{_NUMBER_NAMES[target]}"
    raise DocumentError(
        f"operation {target} is none that a document can hold; it holds PyTorch's own operations that compute tensors "
        "from tensors"
    )


def _kind(module: ExportedModule, name: str, tensor: Tensor) -> str:
    dtype_name(tensor.dtype)  # refused where a document could not be read with it
    modules, last = split(name)
    holder = holder_of(module, modules)
    if last in holder._parameters:
        return PARAMETER if tensor.requires_grad else FROZEN
    return CONSTANT if last in holder._non_persistent_buffers_set else BUFFER


def _structure_to_json(structure: Structure) -> Any:
    if structure.kind == "leaf":
        return LEAF
    children = [_structure_to_json(child) for child in structure.children]
    if structure.kind == "dict" or structure.keys:  # a class of one's own becomes a dict with its keys
        return {"dict": [[key, child] for key, child in zip(structure.keys, children, strict=True)]}
    return {structure.kind if structure.kind in PLAIN else "tuple": children}


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype.

    Raises:
        DocumentError: a document can't hold tensors of it.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise DocumentError(f"a document can't hold a tensor of the dtype {name}")
    return name
