"""Convert tensors to bit patterns, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prunus.packing.values import Kind, Patterns
from prunus.supported import problem

_FLOATS = {
    "float64": Kind(8, 11, 52),
    "float32": Kind(4, 8, 23),
    "float16": Kind(2, 5, 10),
    "bfloat16": Kind(2, 8, 7),
    "float8_e4m3fn": Kind(1, 4, 3),
    "float8_e4m3fnuz": Kind(1, 4, 3),
    "float8_e5m2": Kind(1, 5, 2),
    "float8_e5m2fnuz": Kind(1, 5, 2),
    "float8_e8m0fnu": Kind(1),
    "complex64": Kind(4, 8, 23),
    "complex128": Kind(8, 11, 52),
}
_WHOLE = {"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8}

# dtype -> the layout of its bits; dtypes that this version of torch lacks are left out.
KINDS: dict[torch.dtype, Kind] = {
    getattr(torch, name): kind
    for name, kind in (_FLOATS | {name: Kind(size) for name, size in _WHOLE.items()}).items()
    if hasattr(torch, name)
}
NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in KINDS}
_CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check(name: str, value: object) -> Tensor:
    """Return a value of a state dict, after checking that it is a tensor that can be stored.

    Raises:
        TypeError: it is not a dense tensor in memory, or its dtype is not supported.
    """
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise TypeError(f"{name!r} of the state dict is of type {kind}; a .prunus file holds tensors only")
    reason = problem(value)
    if reason is not None:
        raise TypeError(f"{name!r} of the state dict {reason}")
    if value.is_meta or value.dtype not in KINDS:
        kind = f"{'meta ' if value.is_meta else ''}{value.layout} tensor of {value.dtype}"
        raise TypeError(f"{name!r} is a {kind}; a .prunus file holds dense tensors in memory, of {', '.join(NAMES)}")
    return value


def patterns(tensor: Tensor) -> Patterns:
    """Return a tensor's bits as unsigned whole numbers, flat; a view if it is contiguous on the CPU.

    A complex number is two of them.
    """
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    size = KINDS[tensor.dtype].size
    bits: Patterns = plain.reshape(-1).view(_CARRIERS[size]).numpy()
    return bits.view(f"u{size}")


def tensor_of(bits: Patterns, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor of these bits; it shares their memory."""
    if not bits.size:
        return torch.empty(shape, dtype=dtype)
    carrier = torch.from_numpy(bits.view(f"i{bits.itemsize}" if bits.itemsize > 1 else np.uint8))
    return carrier.view(dtype).reshape(shape)
