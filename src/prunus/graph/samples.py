"""Samples in batches and example inputs as users give them: without labels, so many of them, in the forward's order."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from prunus.graph import Call, ExampleInputs, call_arguments


def inputs_of(batch: Any) -> Any:
    """Return the inputs of a batch: the first of several entries, as of `(inputs, labels)`, or the batch itself."""
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def call_of_size(example_inputs: ExampleInputs, size: int) -> Call:
    """Return example inputs as arguments of the forward: so many samples, going round where there are fewer.

    Raises:
        TypeError, ValueError: as `call_arguments`.
    """
    args, kwargs = call_arguments(example_inputs, size)
    return tuple(value[:size] for value in args), {name: value[:size] for name, value in kwargs.items()}


def of_size(example_inputs: ExampleInputs, size: int) -> ExampleInputs:
    """Return so many samples of example inputs, in the same form; going round where there are fewer.

    >>> import torch
    >>> of_size(torch.tensor([[1], [2]]), 3).flatten().tolist()
    [1, 2, 1]

    Raises:
        TypeError, ValueError: as `call_arguments`.
    """
    args, kwargs = call_of_size(example_inputs, size)
    if isinstance(example_inputs, Tensor):
        return args[0]
    return kwargs if isinstance(example_inputs, Mapping) else args


def in_order(model: nn.Module, inputs: ExampleInputs, source: str = "example_inputs") -> tuple[Tensor, ...]:
    """Return inputs in the order of the forward's arguments.

    Args:
        model: whose forward it is.
        inputs: as `prunus.graph.trace` takes them.
        source: where they are from, for the message.

    Raises:
        ValueError: they are not its first arguments, so they can't be given by position.
    """
    if isinstance(inputs, Mapping):
        first = list(inspect.signature(model.forward).parameters)[: len(inputs)]
        if {*first} != {*inputs}:
            raise ValueError(
                f"a model is measured on its first arguments, {', '.join(first)}; {source} names {', '.join(inputs)}"
            )
        return tuple(inputs[name] for name in first)
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
