"""A module that runs an exported graph: what is left of a model where its own class can't be kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from prunus.graph.exported import program as programs
from prunus.graph.exported.parts import Parts
from prunus.graph.exported.source import function, split
from prunus.graph.exported.structure import Signature


class ExportedModule(nn.Module):
    """A plain module that runs an exported graph.

    Parameters and buffers have the names they had in the model, and tied ones stay tied: its state dict is the
    model's. It trains, moves, converts, copies and exports as any module does:

    - `train` and `eval` switch what PyTorch's own layers switch: dropout, the statistics of norms, the dropout of
      recurrent layers. Each submodule has a flag of its own, so a norm can be frozen with ``.eval()``. What a
      forward decides by `self.training` in Python stays as in eval mode, where the graph was traced: attention by
      `scaled_dot_product_attention` drops nothing, and a batch norm without a fixed momentum keeps its statistics.
    - `to`, `double`, `half` and `cuda` take along the dtype and the device that are written in the graph: tensors
      that the forward makes are made as the parameters are.

    Sizes are those of the inputs the graph was traced with, but for those that were left free, such as the batch. A
    call with other inputs raises a ValueError that names the input.

    Attributes:
        why: why the model's own class was not kept.
        graph: what runs; after editing it, call `recompile`.
    """

    def __init__(self, parts: Parts, why: str = "") -> None:
        super().__init__()
        self.why = why
        self._signature = parts.signature
        self._graph = parts.graph
        for name, tensor in parts.tensors.items():
            modules, last = split(name)
            holder = self._holder(modules)
            if isinstance(tensor, nn.Parameter):
                holder._parameters[last] = tensor
                continue
            holder._buffers[last] = tensor
            if name in parts.not_saved:
                holder._non_persistent_buffers_set.add(last)
        for name in parts.modules:
            self._holder(name.split(".") if name else [])
        # An empty tensor with the dtype and on the device that are written in the graph.
        self._like = _like(parts)
        # Each module has a forward of its own, since signatures differ; a copy of the module gets it bound to the copy.
        self.forward = MethodType(_forward(parts.signature), self)
        self.eval()
        self.recompile()

    @classmethod
    def from_program(cls, program: torch.export.ExportedProgram, why: str = "") -> Self:
        """Make a module of an exported program.

        Args:
            program: what `torch.export.export` returned for a model in eval mode, in training IR: not decomposed.
            why: why the model's own class is not kept.

        Returns:
            A module in eval mode which holds the program's own parameters and buffers, not copies.

        Raises:
            ValueError: the program holds what a flat graph can't: control flow, objects, or another mutation than that
                of its buffers.
        """
        return cls(programs.parts(program), why)

    @classmethod
    def from_document(cls, document: Any, tensors: Mapping[str, Tensor]) -> Self:
        """Make a module of a document that `to_document` made, or that somebody forged.

        Args:
            document: plain JSON values; everything about it is checked, nothing in it is run.
            tensors: what `tensors` returned, in its order, all on one device; they are not copied.

        Raises:
            DocumentError: the document is damaged or forged, or the tensors don't fit it.
        """
        from prunus.graph.exported import reading

        parts, why = reading.read(document, tensors)
        return cls(parts, why)

    def to_document(self) -> dict[str, Any]:
        """Return everything but the tensors, as plain JSON values; `tensors` has those.

        Raises:
            DocumentError: the graph holds an operation or a value that a document can't.
        """
        from prunus.graph.exported import document as documents

        return documents.write(self)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, in the order of the state dict: parameters, buffers and constants.

        Tied ones are one object under several names.
        """
        return {
            f"{prefix}.{last}" if prefix else last: tensor
            for prefix, holder in self.named_modules()
            for last, tensor in {**holder._parameters, **holder._buffers}.items()
            if tensor is not None
        }

    @property
    def graph(self) -> fx.Graph:
        """The graph that runs: placeholders, references (``get_attr``) to tensors and training flags, and calls."""
        return self._graph

    @property
    def signature(self) -> Signature:
        """How the module is called, and what it gives back."""
        return self._signature

    def recompile(self) -> None:
        """Let the graph as it is now be what runs."""
        self._run = function(self._graph, self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        before, after = self._like, fn(self._like)
        if (before.dtype, before.device) != (after.dtype, after.device):
            self._like = after
            _rewrite(self._graph, before, after)
            self.recompile()
        return self

    def _holder(self, modules: list[str]) -> nn.Module:
        holder: nn.Module = self
        for part in modules:
            holder = holder._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
        return holder

    def __repr__(self) -> str:
        return f"{type(self).__name__}(why={self.why!r}, {len(self._graph.nodes)} nodes)"


def _forward(signature: Signature) -> FunctionType:
    def forward(self: ExportedModule, *args: Any, **kwargs: Any) -> Any:
        leaves = signature.bind(args, kwargs)
        return signature.output.build(iter(self._run(self, leaves)))

    forward.__signature__ = signature.for_inspection()  # type: ignore[attr-defined]
    assert isinstance(forward, FunctionType)
    return forward


def _like(parts: Parts) -> Tensor:
    tensors = list(parts.tensors.values())
    floats = (tensor for tensor in tensors if tensor.is_floating_point())
    dtypes = (leaf.dtype for leaf in parts.signature.inputs if leaf.dtype and leaf.dtype.is_floating_point)
    first = next(floats, None)
    device = tensors[0].device if tensors else torch.device("cpu")
    return torch.empty(0, dtype=next(dtypes, torch.float32) if first is None else first.dtype, device=device)


def _rewrite(graph: fx.Graph, before: Tensor, after: Tensor) -> None:
    """Write another dtype and device wherever those of a tensor are written."""

    def replaced(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return after.dtype if value == before.dtype else value
        if isinstance(value, torch.device):
            same = value.type == before.device.type and value.index in (None, before.device.index)
            return after.device if same else value
        return value

    for node in graph.nodes:
        if node.op == "call_function":
            node.args = fx.node.map_aggregate(node.args, replaced)
            node.kwargs = fx.node.map_aggregate(node.kwargs, replaced)
