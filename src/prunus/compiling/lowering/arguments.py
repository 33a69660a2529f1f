"""What the arguments of operations hold: activations, constants as numbers, sizes as pairs."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from prunus.compiling.lowering.reader import Activation, Call, moved
from prunus.compiling.net import Numbers, View


def listed(call: Call) -> list[Any]:
    """Return all arguments, those in lists one by one."""
    return [
        item for value in call.arguments.values() for item in (value if isinstance(value, (list, tuple)) else [value])
    ]


def activation_of(call: Call, name: str) -> Activation:
    """Return an argument that must be an activation.

    Raises:
        CompileError: it is a constant.
    """
    argument = call[name]
    if not isinstance(argument, Activation):
        raise call.refuse(f"its {name} is a constant, while another argument depends on the inputs")
    return argument


def shape_of(argument: Any) -> torch.Size:
    """Return the shape of an activation (for the samples it was traced with), a tensor or a number."""
    if isinstance(argument, Activation):
        return argument.index.shape
    return argument.shape if isinstance(argument, Tensor) else torch.Size([])


def expanded(activation: Activation, shape: torch.Size) -> Activation:
    """Return an activation broadcast to a shape."""
    return moved(activation, activation.index.expand(shape))


def with_height(view: View) -> View:
    """Return a view of (channels, length) as (channels, 1, length)."""
    return View(view.value, view.index[:, None]) if view.index.ndim == 2 else view


def pair(sizes: Any, dims: int, fill: int = 1) -> tuple[int, int]:
    """Return sizes along height and width, given as one number or one for each of `dims`; `fill` for no height."""
    numbers = [sizes] * dims if isinstance(sizes, int) else [int(size) for size in sizes]
    numbers = numbers * dims if len(numbers) == 1 else numbers
    return (fill, numbers[0]) if dims == 1 else (numbers[0], numbers[1])


def numbers_of(tensor: Tensor) -> Numbers:
    """Return a constant tensor as numbers of their own: the model may be trained on."""
    return tensor.detach().to("cpu", torch.float64, copy=True).numpy()


def bias_of(bias: Any, count: int) -> Numbers:
    """Return a bias as numbers: zeros where there is none."""
    return numpy.zeros(count) if bias is None else numbers_of(bias)


def ones_of(factors: Any, count: int) -> Numbers:
    """Return factors as numbers: ones where there are none."""
    return numpy.ones(count) if factors is None else numbers_of(factors)


def same_for_all_samples(constant: Tensor) -> bool:
    """Tell whether a constant whose first dimension is the batch holds the same numbers for every sample."""
    first = constant[:1]
    return bool(((constant == first) | (constant.isnan() & first.isnan())).all())
