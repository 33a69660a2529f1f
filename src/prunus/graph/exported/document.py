"""A graph as a document: plain JSON values, without tensors, which anybody may have written.

    version      1
    why          why the model's own class was not kept
    arguments    [name, structure] of each argument
    positional   how many of them, from the first, may be given by position
    inputs       {"dtype", "shape"} or {"value"} of each leaf of the arguments; a text in a shape is a free size; where
                 others than the batch are free, also {"example"}, sizes that the model takes
    tensors      name -> {"kind", "dtype", "shape"}, or {"same": name} where it is tied to an earlier one
    nodes        [operation, arguments, arguments by name] of each call; its result's number counts on from the inputs
    output       the structure of what comes out
    leaves       its leaves

A structure is "*" for a leaf, or one of {"tuple": [...]}, {"list": [...]}, {"dict": [[key, structure], ...]}.
Nothing in a document is run, evaluated, or looked up by name outside `prunus.graph.exported.operations`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from prunus.graph.exported import arguments, limits, operations
from prunus.graph.exported.arguments import DTYPES, DocumentError
from prunus.graph.exported.source import FLAG, split
from prunus.graph.exported.structure import PLAIN, Input, Structure

if TYPE_CHECKING:
    from prunus.graph.exported.module import ExportedModule

VERSION = 1
LEAF = "*"
PARAMETER, FROZEN, BUFFER, CONSTANT = "parameter", "frozen", "buffer", "constant"
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
        "version": VERSION,
        "why": module.why,
        "arguments": [[name, _structure_to_json(found)] for name, found in signature.arguments.items()],
        "positional": signature.num_positional,
        "inputs": [writer.input(leaf) for leaf in signature.inputs],
        "tensors": _tensors_to_json(module),
        "nodes": writer.nodes,
        "output": _structure_to_json(signature.output),
        "leaves": writer.leaves,
    }


class _Writer:
    def __init__(self, module: ExportedModule) -> None:
        self._graph, self._own = module.graph, module._like.device
        self._references: dict[fx.Node, Any] = {}
        self.nodes: list[list[Any]] = []
        self.leaves: list[Any] = []

    def write(self) -> None:
        number = 0
        for node in self._graph.nodes:
            if node.op == "get_attr":
                path = str(node.target)
                modules, last = split(path)
                self._references[node] = {"training": ".".join(modules)} if last == FLAG else {"tensor": path}
                continue
            if node.op == "output":
                self.leaves = self._encode(list(node.args[0]))
                return
            if node.op == "call_function":
                name = _operation_name(node)
                _check_constants(name, node)
                self.nodes.append([name, self._encode(list(node.args)), self._encode_each(node.kwargs)])
            self._references[node] = {"node": number}
            number += 1

    def input(self, leaf: Input) -> dict[str, Any]:
        if leaf.dtype is None:
            return {"value": self._encode(leaf.value)}
        found = {"dtype": dtype_name(leaf.dtype), "shape": list(leaf.shape)}
        free = any(isinstance(size, str) for size in leaf.shape[1:])
        return found | {"example": list(leaf.example)} if free and leaf.example else found

    def _encode(self, value: Any) -> Any:
        return arguments.encode(value, self._references.__getitem__, self._own)

    def _encode_each(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._encode(value) for name, value in values.items()}


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


def _tensors_to_json(module: ExportedModule) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names: dict[int, str] = {}
    for prefix, holder in module.named_modules():
        for last, tensor in {**holder._parameters, **holder._buffers}.items():
            assert tensor is not None
            name = f"{prefix}.{last}" if prefix else last
            if id(tensor) in names:
                found[name] = {"same": names[id(tensor)]}
                continue
            names[id(tensor)] = name
            if last in holder._parameters:
                kind = PARAMETER if tensor.requires_grad else FROZEN
            else:
                kind = CONSTANT if last in holder._non_persistent_buffers_set else BUFFER
            found[name] = {"kind": kind, "dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape)}
    return found


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
