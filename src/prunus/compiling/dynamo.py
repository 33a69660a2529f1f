"""The backend of ``torch.compile(model, backend="prunus")``: graphs without gradients become programs.

PyTorch finds it by the entry point ``torch_dynamo_backends`` of this package. What a program can't compute stays in
PyTorch, as with ``prunus.compile(..., fallback=True)``. A graph runs as it is where nothing of it can become a program,
where it needs gradients, and where it writes to an input, a parameter or a buffer.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import SymInt, Tensor, fx, nn
from torch.utils import _pytree as pytree

from prunus.compiling.building import compile
from prunus.compiling.mixed_program import MixedProgram
from prunus.compiling.program import Program

_log = logging.getLogger("prunus")

Run: TypeAlias = Callable[..., Any]
# An input that is a size: which other input has it, and along which dimension; or the size itself.
Size: TypeAlias = tuple[int, int] | int


def backend(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Run:
    """Return what computes a graph of dynamo's: it is compiled when it is first called with inputs of some shape.

    A program holds its weights. It is compiled anew for other parameters, where an operation of PyTorch wrote to them,
    and after a training step; writes through ``weight.data`` or numpy without one are not noticed: call
    ``torch.compiler.reset()`` after these.

    Args:
        module: the graph; parameters and buffers are among its inputs.
        example_inputs: of the graph.
    """
    nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
    sizes = _sizes(nodes)
    if sizes is None:
        return module
    weights = [
        place
        for place, (node, value) in enumerate(zip(nodes, example_inputs, strict=True))
        if isinstance(value, Tensor) and _is_weight(node, value)
    ]
    return _Graph(module, weights, sizes)


@dataclass
class _Entry:
    """What was compiled for some weights and shapes.

    Attributes:
        program: None where the graph runs as it is.
        weights: those that it holds.
        digest: of their contents.
        steps: how often graphs had run with gradients when the weights were last looked at.
    """

    program: Program | MixedProgram | None
    weights: tuple[Tensor, ...]
    digest: bytes
    steps: int


class _Graph:
    """A graph of dynamo's, and the programs made of it for the shapes and the weights that came up."""

    _steps = 0  # how often any graph has run with gradients: optimizers may write to weights without a trace

    def __init__(self, module: fx.GraphModule, weights: Sequence[int], sizes: Mapping[int, Size]) -> None:
        self._module, self._weights, self._sizes = module, weights, sizes
        self._entries: dict[Any, _Entry] = {}
        self._writes = False

    def __call__(self, *arguments: Any) -> Any:
        """Compute the graph's outputs."""
        if torch.is_grad_enabled() and any(getattr(value, "requires_grad", False) for value in arguments):
            _Graph._steps += 1
            return self._module(*arguments)
        inputs = [
            value for place, value in enumerate(arguments) if place not in self._weights and place not in self._sizes
        ]
        if self._writes or not inputs or not all(map(_is_usual, inputs)):
            return self._module(*arguments)
        entry = self._entry(tuple(arguments[place] for place in self._weights), inputs, arguments)
        return self._module(*arguments) if entry.program is None else entry.program(*inputs)

    def _entry(self, weights: tuple[Tensor, ...], inputs: list[Tensor], arguments: tuple[Any, ...]) -> _Entry:
        """Return what was compiled for such inputs and these weights as they are now."""
        places = tuple(weight.data_ptr() for weight in weights)
        versions = tuple(weight._version for weight in weights)
        shapes = tuple((value.shape[1:], value.dtype) for value in inputs)
        for batch in (None, len(inputs[0])):
            entry = self._entries.get((places, versions, shapes, batch))
            if entry is not None and self._is_present(entry):
                return entry
        self._entries = {key: entry for key, entry in self._entries.items() if key[0] != places or key[1] == versions}
        program = self._program(weights, inputs, arguments)
        batch = None if program is None else program.fixed_batch
        entry = _Entry(program, weights, _digest(weights), self._steps)
        self._entries[places, versions, shapes, batch] = entry
        return entry

    def _is_present(self, entry: _Entry) -> bool:
        """Tell whether the weights are those that were compiled, which training may have changed."""
        if entry.steps != self._steps and _digest(entry.weights) != entry.digest:
            return False
        entry.steps = self._steps
        return True

    def _program(
        self, weights: tuple[Tensor, ...], inputs: list[Tensor], arguments: tuple[Any, ...]
    ) -> Program | MixedProgram | None:
        copies = [value.clone() if isinstance(value, Tensor) else value for value in arguments]
        outputs = pytree.tree_leaves(self._module(*copies))
        pairs = [(one, other) for one, other in zip(copies, arguments, strict=True) if isinstance(one, Tensor)]
        if any(one._version or _digest([one]) != _digest([other]) for one, other in pairs):
            self._writes = True
            return None
        bound = _Bound(self._module, dict(zip(self._weights, weights, strict=True)), self._sizes).eval()
        try:
            program = compile(bound, tuple(inputs), fallback=True)
            results = pytree.tree_leaves(program(*inputs))
            same = [_kind(one) == _kind(other) for one, other in zip(outputs, results, strict=True)]
        except Exception as error:  # whatever a graph does that can't be compiled, PyTorch can run it
            _log.warning("torch.compile: a graph stays in PyTorch: %s", error)
            return None
        return program if all(same) else None


def _digest(tensors: Sequence[Tensor]) -> bytes:
    """Return a digest of the contents of tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _kind(value: Any) -> object:
    return (value.dtype, value.shape) if isinstance(value, Tensor) else value


class _Bound(nn.Module):
    """A graph that holds its weights, and reads sizes off its other inputs."""

    def __init__(self, module: fx.GraphModule, weights: Mapping[int, Tensor], sizes: Mapping[int, Size]) -> None:
        super().__init__()
        self.module = module
        for place, weight in weights.items():
            self.register_buffer(f"weight{place}", weight.detach())
        self._weights, self._sizes = list(weights), sizes

    def forward(self, *inputs: Tensor) -> Any:
        """Compute the graph's outputs."""
        arguments: dict[int, Any] = {place: getattr(self, f"weight{place}") for place in self._weights}
        count = len(inputs) + len(arguments) + len(self._sizes)
        places = [place for place in range(count) if place not in arguments and place not in self._sizes]
        arguments |= dict(zip(places, inputs, strict=True))
        for place, size in self._sizes.items():
            arguments[place] = size if isinstance(size, int) else arguments[size[0]].shape[size[1]]
        return self.module(*(arguments[place] for place in range(count)))


def _is_weight(node: fx.Node, value: Tensor) -> bool:
    """Tell whether an input is a parameter or a buffer of the model."""
    return isinstance(value, nn.Parameter) or "_dynamo_static_input_type" in node.meta.get("tensor_dict", {})


def _is_usual(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] > 0 and value.device.type == "cpu"


def _sizes(nodes: Sequence[fx.Node]) -> dict[int, Size] | None:
    """Return where each input that is a size can be read; None where one is no dimension of another input."""
    examples = [node.meta.get("example_value") for node in nodes]
    dimensions = {
        str(size): (place, dim)
        for place, tensor in enumerate(examples)
        if isinstance(tensor, Tensor)
        for dim, size in enumerate(tensor.shape)
    }
    sizes: dict[int, Size] = {}
    for place, example in enumerate(examples):
        if isinstance(example, SymInt):
            if str(example) not in dimensions:
                return None
            sizes[place] = dimensions[str(example)]
        elif isinstance(example, int):
            sizes[place] = example
    return sizes
