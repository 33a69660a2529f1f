"""Arguments for any operation, made of its schema: some sensible, some not; see `hostile_operations`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from _sensible_arguments import SENSIBLE
from prunus.graph.exported.arguments import DTYPES

_EXTREME = (2**31 - 1, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**40, -(2**40), 2**32, 1000, -1000)
_FLOATS = (0.0, 1.0, -1.0, 0.5, 2.0, float("nan"), float("inf"), float("-inf"), 1e308, 1e-310, -3.7)
_NUMBER_TYPES = ("float32",) * 10 + ("float64",) * 3 + ("int64",) * 5 + ("int32",) * 3
_NUMBER_TYPES += (
    "uint8",
    "int8",
    "int16",
    "bool",
    "float16",
    "bfloat16",
    "complex64",
    "uint16",
    "uint64",
    "float8_e5m2",
)
_TEXTS = {
    "reduce": ("sum", "prod", "mean", "amax", "amin", "add", "multiply"),
    "padding": ("same", "valid"),
    "approximate": ("none", "tanh"),
    "ord": ("fro", "nuc"),
    "interpolation": ("linear", "lower", "higher", "midpoint", "nearest"),
    "equation": (
        "ij,jk->ik",
        "bij,bjk->bik",
        "ii->i",
        "i...,i...->...",
        "ij->ji",
        "ij,ij",
        "...ij,...jk",
        "a,b,c->abc",
    ),
    "indexing": ("ij", "xy"),
    "mode": ("constant", "reflect", "replicate", "circular"),
    "padding_side": ("left", "right"),
    "pad_mode": ("constant", "reflect", "replicate", "circular"),
    "norm": ("forward", "backward", "ortho"),
    "rounding_mode": ("trunc", "floor"),
    "side": ("left", "right"),
}
_INDICES = ("index", "indices", "batch_sizes", "repeats", "sorter", "tensor_indices_or_sections", "lengths")


class Arguments:
    """Draws the arguments of one call; the same seed gives the same."""

    def __init__(self, seed: str) -> None:
        self._draw = random.Random(seed)
        self._numbers = torch.Generator().manual_seed(self._draw.randrange(2**31))
        self._sane = self._draw.choice((0.6, 0.85, 0.95, 1.0))
        rank, equal = self._draw.choice((0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5)), self._draw.randrange(1, 6)
        sizes = [self._draw.choice((0, 1, 2, 2, 3, 3, 4, 5, 8)) for _ in range(rank)]
        self._shape = [equal] * rank if self._draw.random() < 0.4 else sizes
        self._dtype = self._draw.choice(_NUMBER_TYPES)

    def of(self, name: str, operation: torch._ops.OpOverload) -> dict[str, Any]:
        """Return argument name -> value; those with a default may be left out."""
        schema = operation._schema.arguments
        if name in SENSIBLE and self._draw.random() < 0.75:
            return self._spoiled(operation)
        return {
            argument.name: self._value(argument.real_type, argument.name)
            for argument in schema
            if not argument.has_default_value() or self._draw.random() < 0.5
        }

    def _spoiled(self, operation: torch._ops.OpOverload) -> dict[str, Any]:
        """Return sensible arguments of which some were changed."""
        name = str(operation).removeprefix("aten.")
        schema = operation._schema.arguments
        values = dict(zip([argument.name for argument in schema], SENSIBLE[name](self._floats), strict=False))
        for argument in self._draw.sample(schema, min(len(schema), self._draw.choice((0, 1, 1, 1, 2, 2, 3)))):
            before = values.get(argument.name)
            if isinstance(before, Tensor):
                values[argument.name] = self._damaged(before)
            elif isinstance(before, list) and before and self._draw.random() < 0.7:
                values[argument.name] = self._damaged_list(before)
            else:
                values[argument.name] = self._value(argument.real_type, argument.name)
        return values

    def _floats(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._numbers)

    def _damaged_list(self, values: list[Any]) -> list[Any]:
        changed = list(values)
        at = self._draw.randrange(len(changed))
        kind = type(changed[at])
        way = self._draw.randrange(4)
        if way == 0:
            del changed[at]
        elif way == 1:
            changed.append(changed[at])
        elif isinstance(changed[at], Tensor):
            changed[at] = self._damaged(changed[at])
        else:
            changed[at] = self._draw.choice(_FLOATS) if kind is float else self._integer("")
        return changed

    def _damaged(self, tensor: Tensor) -> Tensor:
        """Return a tensor of another shape, dtype, content or arrangement."""
        way = self._draw.randrange(9)
        if way == 0:
            return self._content(list(tensor.shape), self._draw.choice(_NUMBER_TYPES))
        if way == 1:
            return self._content(list(tensor.shape), str(tensor.dtype).removeprefix("torch."), wild=True)
        if way == 2 and tensor.dim():
            return tensor.select(0, 0) if len(tensor) else tensor.flatten()
        if way == 3:
            return tensor.unsqueeze(self._draw.randint(-tensor.dim() - 1, tensor.dim()))
        if way == 4 and tensor.dim():
            return tensor.transpose(0, -1)
        if way == 5 and tensor.dim():
            return tensor.narrow(self._draw.randrange(tensor.dim()), 0, 0)
        if way == 6 and tensor.dim():
            dim = self._draw.randrange(tensor.dim())
            return torch.cat([tensor, tensor, tensor], dim).narrow(dim, 0, self._draw.randint(0, 3 * tensor.shape[dim]))
        if way == 7 and tensor.dim():
            return tensor[..., :1].expand(tensor.shape) if tensor.shape[-1] else tensor
        return self._tensor("")

    def _value(self, kind: Any, name: str) -> Any:
        """Return a value of a schema's type."""
        what = kind.kind()
        if what == "OptionalType":
            return None if self._draw.random() < 0.3 else self._value(kind.getElementType(), name)
        if what == "ListType":
            inner = kind.getElementType()
            length = self._draw.choice((0, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6))
            return [self._value(inner, name) for _ in range(length)]
        makers: dict[str, Callable[[], Any]] = {
            "TensorType": lambda: self._tensor(name),
            "IntType": lambda: self._integer(name),
            "SymIntType": lambda: self._integer(name),
            "FloatType": lambda: self._draw.choice(_FLOATS),
            "NumberType": self._number,
            "BoolType": lambda: self._draw.random() < 0.5,
            "SymBoolType": lambda: self._draw.random() < 0.5,
            "StringType": lambda: self._text(name),
            "DeviceObjType": lambda: torch.device("cpu"),
            "ScalarTypeType": lambda: self._draw.choice(list(DTYPES.values())),
            "LayoutType": lambda: torch.strided,
            "MemoryFormatType": lambda: self._draw.choice(
                (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
            ),
        }
        return makers[what]() if what in makers else None

    def _number(self) -> Any:
        way = self._draw.randrange(3)
        return self._integer("") if way == 0 else self._draw.random() < 0.5 if way == 1 else self._draw.choice(_FLOATS)

    def _integer(self, name: str) -> int:
        if self._draw.random() < self._sane:
            if name.startswith(("dim", "axis", "start_dim", "end_dim")):
                return self._draw.randint(-3, 3)
            if name in ("reduction", "interpolation_mode", "padding_mode", "compute_mode"):
                return self._draw.randrange(3)
            return self._draw.choice((0, 1, 1, 1, 2, 2, 3, 4, -1))
        return self._draw.choice((*_EXTREME, -1, -2, 0, 3, 5, 7, 17, 100, -100))

    def _text(self, name: str) -> str:
        choices = _TEXTS.get(name, ("none",))
        return self._draw.choice(choices) if self._draw.random() < 0.9 else self._draw.choice(("", "x", "sum", "a->,b"))

    def _tensor(self, name: str) -> Tensor:
        shape, dtype = list(self._shape), self._dtype
        way = self._draw.random()
        if way < 0.1:
            shape = [size if self._draw.random() < 0.6 else 1 for size in shape]
        elif way < 0.2:
            shape = shape[self._draw.randrange(len(shape) + 1) :]
        elif way < 0.35:
            shape = [self._draw.choice((0, 1, 2, 3, 4, 7)) for _ in range(self._draw.randrange(6))]
        if name in _INDICES and self._draw.random() < 0.85:
            dtype = "int64"
        elif name in ("condition", "mask"):
            dtype = "bool"
        elif self._draw.random() < 0.08:
            dtype = self._draw.choice(_NUMBER_TYPES)
        tensor = self._content(shape, dtype, wild=self._draw.random() < 0.4)
        return self._damaged(tensor) if self._draw.random() < 0.1 else tensor

    def _content(self, shape: list[int], dtype_name: str, *, wild: bool = False) -> Tensor:
        dtype = DTYPES[dtype_name]
        if dtype.is_floating_point or dtype.is_complex:
            tensor = torch.randn(shape, generator=self._numbers)
            odd = torch.tensor(_FLOATS)[torch.randint(len(_FLOATS), shape, generator=self._numbers)]
            chosen = torch.rand(shape, generator=self._numbers) < 0.3
            return (torch.where(chosen, odd, tensor) if wild else tensor).to(dtype)
        if dtype is torch.bool:
            return torch.rand(shape, generator=self._numbers) < 0.5
        limits = torch.iinfo(dtype)
        plain = torch.randint(-1 if limits.min and wild else 0, 4, shape, generator=self._numbers)
        if not wild:
            return plain.to(dtype)
        odd = torch.tensor([-1] * 4 + [limits.min] * 4 + [min(limits.max, 2**63 - 1), 0, 7, -7, 2**33, -(2**33)])
        chosen = torch.rand(shape, generator=self._numbers) < 0.4
        return torch.where(chosen, odd[torch.randint(len(odd), shape, generator=self._numbers)], plain).to(dtype)
