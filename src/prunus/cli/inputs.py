"""Random inputs for a model, made from what the command line says of their types and shapes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from prunus.graph import ExampleInputs

_TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
# NAME=TYPE:SHAPE; without its type an input has the model's own, and without a shape it is one number.
_INPUT = re.compile(r"(?:(?P<name>[^\W\d]\w*)=)?(?:(?P<type>[^\W\d]\w*)(?::|$))?(?P<shape>\d+(?:,\d+)*)?")


def of_shape(shape: Sequence[int], model: nn.Module) -> Tensor:
    """Return one sample of normal numbers, on the model's device and in its dtype."""
    return _random(shape, _like(model), None)


def described(texts: Sequence[str], model: nn.Module) -> ExampleInputs:
    """Return one sample of each input, written as [NAME=][TYPE:]SHAPE.

    Integers are zeros and ones: a table of embeddings, a mask and a class can take both.

    Raises:
        ValueError: one is not written so, a type is unknown, or some have names and others not.
    """
    import torch

    from prunus.registry import unknown_name

    tensors: dict[str, Tensor] = {}
    for place, text in enumerate(texts):
        match = _INPUT.fullmatch(text)
        if match is None or not (match["type"] or match["shape"]):
            raise ValueError(
                "--input takes [NAME=][TYPE:]SHAPE, such as 3,224,224 or int64:128 or mask=bool:128, without the "
                f"batch; got {text!r}"
            )
        if match["type"] is not None and match["type"] not in _TYPES:
            raise unknown_name("type of --input", match["type"], _TYPES)
        dtype = None if match["type"] is None else getattr(torch, match["type"])
        shape = [int(size) for size in (match["shape"] or "").split(",") if size]
        tensors[match["name"] or str(place)] = _random(shape, _like(model), dtype)
    named = [name for name in tensors if not name.isdecimal()]
    if len(tensors) < len(texts) or len(named) not in (0, len(texts)):
        raise ValueError(f"give each --input a name of its own, or none of them a name; got {' '.join(texts)}")
    return tensors if named else tuple(tensors.values())


def checked(model: nn.Module, inputs: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the inputs; whatever else is wrong with them is told by what runs the model.

    Raises:
        ValueError: the model can't run them, but without the first number of the shape, or on integers, it can.
    """
    import torch

    if not _runs(model, inputs):
        sizes = [str(size) for size in shape]
        if len(sizes) > 1 and _runs(model, inputs[0]):
            raise ValueError(
                f"--shape is that of one input, without the batch: the model takes --shape {','.join(sizes[1:])}, not "
                f"{','.join(sizes)}"
            )
        if _runs(model, _random(shape, inputs, torch.int64)):
            raise ValueError(f"the model takes integers: give --input int64:{','.join(sizes)} in the place of --shape")
    return inputs


def _runs(model: nn.Module, inputs: Tensor) -> bool:
    import torch

    from prunus.forward import undisturbed

    with contextlib.suppress(Exception), undisturbed(model), torch.no_grad():
        model(inputs)
        return True
    return False


def _like(model: nn.Module) -> Tensor:
    import torch

    return next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))


def _random(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None) -> Tensor:
    import torch

    dtype = dtype or like.dtype
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(1, *shape, generator=generator).to(like.device, dtype)
    return torch.randint(2, (1, *shape), generator=generator).to(like.device, dtype)
