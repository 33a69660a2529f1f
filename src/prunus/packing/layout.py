"""What tensors a file holds: names, types and shapes, as its header tells them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunus.errors import PackError
from prunus.packing.dtypes import KINDS, NAMES
from prunus.packing.errors import DamagedError
from prunus.packing.tensors import Form

# Without `max_bytes`, the tensors may take so many bytes, or so many times the file. With one float32 in a thousand
# left a file is about 1/700 of the tensors; only models that are almost empty, or repeat themselves, pack further.
_ALWAYS = 1 << 24
_TIMES = 2000
_MOST_DIMENSIONS = 64
_MOST_ELEMENTS = 1 << 62


class Entry(NamedTuple):
    """One tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Entry:
        """Return the entry of a tensor."""
        return cls(name, tensor.dtype, tuple(tensor.shape))

    @property
    def form(self) -> Form:
        """The same as the coder needs it."""
        size = math.prod(self.shape) * (2 if self.dtype.is_complex else 1)
        rows = self.shape[0] if len(self.shape) > 1 and size else 1
        return Form(KINDS[self.dtype], size, rows)

    @property
    def told(self) -> str:
        """The entry as one text, which goes into the checksum."""
        return f"{self.name} {type_name(self.dtype)} {list(self.shape)}"


def type_name(dtype: torch.dtype) -> str:
    """Return the name of a number type, as headers spell it.

    >>> type_name(torch.float32)
    'float32'
    """
    return str(dtype).removeprefix("torch.")


def to_header(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return entries as JSON values: the most frequent type once, and each tensor as a list of name and shape."""
    if not entries:
        return {"dtype": "float32", "tensors": []}
    usual = Counter(entry.dtype for entry in entries).most_common(1)[0][0]
    listed = [
        [entry.name, *([] if entry.dtype == usual else [type_name(entry.dtype)]), *entry.shape] for entry in entries
    ]
    return {"dtype": type_name(usual), "tensors": listed}


def from_header(header: Mapping[str, Any]) -> list[Entry]:
    """Read what `to_header` gave.

    Raises:
        DamagedError: it is anything else.
    """
    usual = dtype_of(header.get("dtype"))
    listed = header.get("tensors")
    if not isinstance(listed, list):
        raise DamagedError("its header does not list the tensors")
    entries = [_entry(item, usual) for item in listed]
    if len({entry.name for entry in entries}) < len(entries):
        raise DamagedError("two of its tensors have one name")
    return entries


def _entry(item: object, usual: torch.dtype) -> Entry:
    if not isinstance(item, list) or not item or not isinstance(item[0], str):
        raise DamagedError(f"its header lists {item!r:.60} as a tensor")
    name, *shape = item
    dtype = usual
    if shape and isinstance(shape[0], str):
        dtype = dtype_of(shape.pop(0))
    if len(shape) > _MOST_DIMENSIONS or not all(_is_count(length) for length in shape):
        raise DamagedError(f"the shape of {name!r:.60} is {shape!r:.60}")
    if math.prod(max(length, 1) for length in shape) > _MOST_ELEMENTS:
        raise DamagedError(f"{name!r:.60} of shape {shape!r:.60} is larger than any tensor can be")
    return Entry(name, dtype, tuple(shape))


def dtype_of(name: object) -> torch.dtype:
    """Return the number type of a name."""
    if not isinstance(name, str) or name not in NAMES:
        raise DamagedError(f"its header names the number type {name!r:.60}, which is not known here")
    return NAMES[name]


def _is_count(length: object) -> bool:
    return isinstance(length, int) and not isinstance(length, bool) and 0 <= length <= _MOST_ELEMENTS


def check_size(entries: Iterable[Entry], file_size: int, max_bytes: int | None) -> None:
    """Raise PackError if the tensors take more memory than the file may ask for."""
    total = sum(entry.form.num_bytes for entry in entries)
    limit = max(_ALWAYS, _TIMES * file_size) if max_bytes is None else max_bytes
    if total > limit:
        raise PackError(
            f"its tensors take {total:,} bytes, over the limit of {limit:,} for a file of {file_size:,} bytes; if you "
            f"trust it, give max_bytes={total}"
        )
