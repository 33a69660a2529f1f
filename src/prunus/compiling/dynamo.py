"""The backend of ``torch.compile(model, backend="prunus")``: graphs without gradients become programs.

PyTorch finds it by the entry point ``torch_dynamo_backends`` of this package. What a program can't compute stays in
PyTorch, as with ``prunus.compile(..., fallback=True)``; a graph of which nothing can become a program, or that needs
gradients, runs as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import SymInt, Tensor, fx, nn

from prunus.compiling.building import compile

_log = logging.getLogger("prunus")

Run: TypeAlias = Callable[..., Any]


def backend(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Run:
    """Return what computes a graph of dynamo's: it is compiled when it is first called with inputs of some shape.

    A program holds its weights: where they are written to later, it is compiled anew.

    Args:
        module: the graph; parameters and buffers are among its inputs.
        example_inputs: of the graph.
    """
    return _Graph(module, example_inputs)


class _Graph:
    """A graph of dynamo's, and the programs made of it for the shapes that came up."""

    def __init__(self, module: fx.GraphModule, example_inputs: Sequence[Any]) -> None:
        nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._module = module
        self._weights = {
            place: value
            for place, (node, value) in enumerate(zip(nodes, example_inputs, strict=True))
            if isinstance(value, Tensor) and _is_weight(node, value)
        }
        self._sizes = _sizes(nodes)
        self._inputs = [place for place in range(len(nodes)) if place not in self._weights and place not in self._sizes]
        self._programs: dict[object, Run] = {}
        self._versions = self._present()
        self._needs_gradients = any(weight.requires_grad for weight in self._weights.values())

    def __call__(self, *arguments: Any) -> Any:
        """Compute the graph's outputs."""
        inputs = [arguments[place] for place in self._inputs]
        differentiable = self._needs_gradients or any(getattr(value, "requires_grad", False) for value in inputs)
        if (differentiable and torch.is_grad_enabled()) or not all(map(_is_usual, inputs)) or not inputs:
            return self._module(*arguments)
        if (versions := self._present()) != self._versions:
            self._versions = versions
            self._programs.clear()
        key = tuple((value.shape[1:], value.dtype) for value in inputs)
        if key not in self._programs:
            self._programs[key] = self._compiled(inputs)
        run = self._programs[key]
        return run(*inputs) if run is not self._module else run(*arguments)

    def _present(self) -> tuple[int, ...]:
        return tuple(weight._version for weight in self._weights.values())

    def _compiled(self, inputs: list[Tensor]) -> Run:
        bound = _Bound(self._module, self._weights, self._sizes).eval()
        try:
            return compile(bound, tuple(inputs), fallback=True)
        except (ValueError, TypeError) as error:
            _log.warning("torch.compile: a graph stays in PyTorch: %s", error)
            return self._module


class _Bound(nn.Module):
    """A graph that holds its weights, and reads sizes off its other inputs."""

    def __init__(
        self, module: fx.GraphModule, weights: dict[int, Tensor], sizes: dict[int, tuple[int, int] | int]
    ) -> None:
        super().__init__()
        self.module = module
        for place, weight in weights.items():
            self.register_buffer(f"weight{place}", weight.detach())
        self._weights, self._sizes = list(weights), sizes

    def forward(self, *inputs: Tensor) -> Any:
        """Compute the graph's outputs."""
        known: dict[int, Any] = {place: getattr(self, f"weight{place}") for place in self._weights}
        others = iter(inputs)
        count = len(inputs) + len(known) + len(self._sizes)
        known |= {place: next(others) for place in range(count) if place not in known and place not in self._sizes}
        for place, size in self._sizes.items():
            known[place] = size if isinstance(size, int) else known[size[0]].shape[size[1]]
        return self.module(*(known[place] for place in range(count)))


def _is_weight(node: fx.Node, value: Tensor) -> bool:
    """Tell whether an input is a parameter or a buffer of the model."""
    return isinstance(value, nn.Parameter) or "_dynamo_static_input_type" in node.meta.get("tensor_dict", {})


def _is_usual(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] > 0 and value.device.type == "cpu"


def _sizes(nodes: Sequence[fx.Node]) -> dict[int, tuple[int, int] | int]:
    """Return for each input that is a size: which input has it, and along which dimension."""
    examples = [node.meta.get("example_value") for node in nodes]
    sizes: dict[int, tuple[int, int] | int] = {}
    for place, example in enumerate(examples):
        if isinstance(example, SymInt):
            sizes[place] = next(
                (other, dim)
                for other, tensor in enumerate(examples)
                if isinstance(tensor, Tensor)
                for dim, size in enumerate(tensor.shape)
                if str(size) == str(example)
            )
        elif isinstance(example, int):
            sizes[place] = example
    return sizes
