"""The list of tensors in a file's header: names, types and shapes.

In the header, "dtype" is the most frequent dtype, and "tensors" is a list in the order of the state dict, of

    "/conv1."                   a prefix of the names that follow
    "bias"                      a vector, as long as the first dimension of the last tensor that has dimensions
    ["weight", 8, 4, 3, 3]      a tensor of this shape
    ["steps", "int64"]          a tensor of another dtype, here without dimensions
    ["weight", "same", 0]       a tied tensor: another name of the first tensor in the file
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunus.errors import PackError
from prunus.packing.dtypes import KINDS, NAMES
from prunus.packing.errors import DamagedError
from prunus.packing.tensors import Form

# Without `max_bytes`, the tensors may have this many bytes, or this many times the file. With one float32 in a thousand
# nonzero, a file is about 1/700 of the tensors; only almost empty or repetitive models are compressed further.
_ALWAYS = 1 << 24
_TIMES = 2000
_MOST_DIMENSIONS = 64
_MOST_ELEMENTS = 1 << 62
_PREFIX, _SAME = "/", "same"
# The limit for all names together: a long prefix of many short names could fill the memory.
_MOST_CHARACTERS = 1 << 24


class Entry(NamedTuple):
    """Name, dtype and shape of one tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Entry:
        """Return the entry of a tensor."""
        return cls(name, tensor.dtype, tuple(tensor.shape))

    @property
    def form(self) -> Form:
        """The properties of the tensor that the coder needs."""
        size = math.prod(self.shape) * (2 if self.dtype.is_complex else 1)
        rows = self.shape[0] if len(self.shape) > 1 and size else 1
        return Form(KINDS[self.dtype], size, rows)

    @property
    def text(self) -> str:
        """The entry as one text, for the checksum of the content."""
        return f"{self.name} {type_name(self.dtype)} {list(self.shape)}"


def type_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype in headers.

    >>> type_name(torch.float32)
    'float32'
    """
    return str(dtype).removeprefix("torch.")


class Listing(NamedTuple):
    """The tensors of a file, and their names in the state dict.

    Attributes:
        entries: the stored tensors, each under its first name.
        places: name -> index of its entry, for all names in the order of the state dict, including those of tied ones.
    """

    entries: list[Entry]
    places: dict[str, int]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Listing:
        """List tensors; those at the same place in memory are one entry."""
        listing, firsts = cls([], {}), dict[tuple[object, ...], int]()
        for name, tensor in tensors.items():
            start = tensor.data_ptr() if tensor.numel() else name  # an empty tensor has no address
            memory = (start, tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
            listing.add(Entry.of(name, tensor), firsts.setdefault(memory, len(listing.entries)))
        return listing

    def add(self, entry: Entry, place: int) -> None:
        """Add a tensor, or another name of the entry at `place`."""
        self.places[entry.name] = place
        if place == len(self.entries):
            self.entries.append(entry)


def to_header(listing: Listing) -> dict[str, Any]:
    """Return a listing as JSON values."""
    dtypes = Counter(entry.dtype for entry in listing.entries)
    usual = dtypes.most_common(1)[0][0] if dtypes else torch.float32
    items: list[Any] = []
    prefix, length, num_listed = "", -1, 0
    for name, place in listing.places.items():
        entry = listing.entries[place]
        last = name.rpartition(".")[2]
        if name.removesuffix(last) != prefix:
            prefix = name.removesuffix(last)
            items.append(_PREFIX + prefix)
        if place < num_listed:
            items.append([last, _SAME, place])
            continue
        num_listed += 1
        is_plain = entry.dtype == usual and entry.shape == (length,) and not last.startswith(_PREFIX)
        types = [] if entry.dtype == usual else [type_name(entry.dtype)]
        items.append(last if is_plain else [last, *types, *entry.shape])
        length = entry.shape[0] if entry.shape else length
    return {"dtype": type_name(usual), "tensors": items}


def from_header(header: Mapping[str, Any]) -> Listing:
    """Return the listing that `to_header` wrote.

    Raises:
        DamagedError: the header is invalid.
    """
    usual, items = dtype_of(header.get("dtype")), header.get("tensors")
    if not isinstance(items, list):
        raise DamagedError("its header does not list the tensors")
    listing = Listing([], {})
    prefix, length, num_characters = "", -1, 0
    for item in items:
        if isinstance(item, str) and item.startswith(_PREFIX):
            prefix = item.removeprefix(_PREFIX)
            continue
        last, *form = [item, length] if isinstance(item, str) else item if isinstance(item, list) and item else [None]
        if not isinstance(last, str):
            raise DamagedError(f"its header lists {item!r:.60} as a tensor")
        num_characters += len(prefix) + len(last)
        if num_characters > _MOST_CHARACTERS:
            raise DamagedError(f"the names of its tensors have more than {_MOST_CHARACTERS:,} characters")
        name = prefix + last
        if name in listing.places:
            raise DamagedError(f"two of its tensors have the name {name!r:.60}")
        if form[:1] == [_SAME]:
            listing.add(*_tied(name, form[1:], listing.entries))
            continue
        entry = _entry(name, form, usual)
        listing.add(entry, len(listing.entries))
        length = entry.shape[0] if entry.shape else length
    return listing


def _tied(name: str, form: list[Any], entries: list[Entry]) -> tuple[Entry, int]:
    if len(form) != 1 or not _is_count(form[0]) or form[0] >= len(entries):
        raise DamagedError(f"{name!r:.60} is tied to {form!r:.60}, which is not an earlier tensor")
    return entries[form[0]]._replace(name=name), form[0]


def _entry(name: str, form: list[Any], usual: torch.dtype) -> Entry:
    dtype, shape = (dtype_of(form[0]), form[1:]) if form and isinstance(form[0], str) else (usual, form)
    if len(shape) > _MOST_DIMENSIONS or not all(_is_count(length) for length in shape):
        raise DamagedError(f"the shape of {name!r:.60} is {shape!r:.60}")
    if math.prod(max(length, 1) for length in shape) > _MOST_ELEMENTS:
        raise DamagedError(f"{name!r:.60} of shape {shape!r:.60} is larger than any tensor can be")
    return Entry(name, dtype, tuple(shape))


def dtype_of(name: object) -> torch.dtype:
    """Return the dtype of a name."""
    if not isinstance(name, str) or name not in NAMES:
        raise DamagedError(f"its header names the number type {name!r:.60}, which is unknown")
    return NAMES[name]


def _is_count(length: object) -> bool:
    return isinstance(length, int) and not isinstance(length, bool) and 0 <= length <= _MOST_ELEMENTS


def check_size(entries: Iterable[Entry], file_size: int, max_bytes: int | None) -> None:
    """Raise PackError if the tensors need more memory than a file of this size may."""
    total = sum(entry.form.num_bytes for entry in entries)
    limit = max(_ALWAYS, _TIMES * file_size) if max_bytes is None else max_bytes
    if total > limit:
        raise PackError(
            f"its tensors need {total:,} bytes, above the limit of {limit:,} for a file of {file_size:,} bytes; if you "
            f"trust it, give max_bytes={total}"
        )
