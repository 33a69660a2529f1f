"""`prunus.save` and `prunus.load`: write a model to a `.prunus` file, and read it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from prunus.files import whole_file
from prunus.packing import codebook, container, describe, dtypes, layout
from prunus.packing.coder import Decoder, Encoder
from prunus.packing.errors import DamagedError
from prunus.packing.layout import Entry
from prunus.packing.tensors import EarlierTensors, read_tensor, write_tensor
from prunus.packing.values import Patterns
from prunus.supported import check_module, unwrap
from prunus.tables import Table, count, shape

if TYPE_CHECKING:
    from prunus.graph import ExampleInputs


@dataclass(frozen=True)
class TensorFacts:
    """How one tensor is stored in a file.

    Attributes:
        name, shape, dtype: those of the tensor; a tied tensor has its first name.
        coding: how the positions of nonzeros and the values are coded, in words.
        bytes: its approximate size in the file, since all tensors share one stream of bits.
        nonzero: the number of entries with a set bit, including -0.0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    coding: str
    bytes: float
    nonzero: int


@dataclass(frozen=True)
class PackFacts:
    """The file that `save` wrote.

    Attributes:
        kind: "graph" if the file holds the model's graph, "weights" if it holds weights only.
        bytes: the size of the file.
        header_bytes: the size of the part before the tensors.
        tensors: each tensor, in order.
        batch: the only batch size that the loaded model accepts, since the model's code pins it; None if it accepts
            any, or the model was not traced by `save`.
    """

    kind: str
    bytes: int
    header_bytes: int
    tensors: tuple[TensorFacts, ...]
    batch: int | None = None

    def __str__(self) -> str:
        rows = tuple(
            (
                tensor.name,
                shape(tensor.shape),
                tensor.dtype,
                count(tensor.nonzero),
                f"{tensor.bytes:,.0f}",
                tensor.coding,
            )
            for tensor in self.tensors
        )
        batch = f"; it takes batches of {self.batch} only" if self.batch else ""
        caption = f"{self.bytes:,} bytes, {self.header_bytes:,} of them before the tensors; kind: {self.kind}{batch}."
        return str(Table(("tensor", "shape", "dtype", "nonzero", "bytes", "coding"), rows, caption, words=(2, 5)))


def save(
    model: nn.Module,
    path: Path | str,
    example_inputs: ExampleInputs | None = None,
    *,
    codebook_bits: int | None = None,
    weights_only: bool = False,
) -> PackFacts:
    """Write a model as a `.prunus` file, whole or not at all: small, checked, and free of code.

    The file holds the traced graph of the model, so `load` does not need its class. Every bit of every tensor is kept,
    unless `codebook_bits` is given. The model is not changed. The loaded model accepts any batch size, unless the
    model's code pins it: then it accepts only that of the example; a UserWarning, `PackFacts.batch` and the loaded
    model's `why` say so. It accepts other image sizes and lengths if the model does and its graph computes the same for
    them; otherwise only those of the example.

    Args:
        model: any module, on any device; also one wrapped by data-parallel training, torch.compile or Fabric.
        path: the file to write.
        example_inputs: a tensor, a tuple of tensors, or a mapping from argument names to tensors, the batch first, to
            trace the model with; not needed for a model from `load`, nor with `weights_only`.
        codebook_bits: 1 to 8: the nonzero weights of each tensor of two or more dimensions share at most ``2 ** bits``
            values, chosen by k-means; biases and norms stay exact. The outputs of the loaded model then differ
            slightly.
        weights_only: leave out the graph; the file can only be loaded into a model.

    Raises:
        ValueError: there are no example inputs to trace the model with; `codebook_bits` is out of range.
        GraphError: the model can't be traced.
        TypeError: the model is not a Module, or its state dict does not only hold dense tensors of numbers.
        MissingExtraError: the package constriction is not installed.
    """
    if isinstance(path, nn.Module):
        raise TypeError("the model comes first: prunus.save(model, path)")
    check_module(model)
    if codebook_bits is not None:
        codebook.check_bits(codebook_bits, "codebook_bits")
    encoder = Encoder()  # first, since it raises if the extra is missing
    described = describe.describe(unwrap(model), example_inputs, weights_only=weights_only)
    tensors = described.tensors if codebook_bits is None else codebook.snap(described.tensors, codebook_bits)
    written = _write(encoder, described.entries, tensors)
    text = container.header_text(described.header)
    data = container.join(text, written.stream, container.content_checksum(text, written.checked))
    with whole_file(path) as temporary:
        temporary.write_bytes(data)
    if described.batch is not None:
        warnings.warn(
            f"the forward of {type(unwrap(model)).__name__} pins the batch: the model in {str(path)!r} takes batches "
            f"of {described.batch} sample(s) only, as the example inputs had",
            stacklevel=2,
        )
    header_bytes = len(data) - len(written.stream)
    return PackFacts(described.kind, len(data), header_bytes, tuple(written.facts), described.batch)


def load(
    path: Path | str,
    model: nn.Module | None = None,
    *,
    device: torch.device | str = "cpu",
    max_bytes: int | None = None,
) -> nn.Module:
    """Read a model from a `.prunus` file.

    Args:
        path: a file that `save` wrote.
        model: the model to load the weights into; None makes a model from the file's graph, in eval mode, without the
            class that it had.
        device: the device of a model made from the file; a model that is passed stays on its own.
        max_bytes: the limit for the memory of the tensors; None: 16 MiB or 2,000 times the file, whichever is more, so
            that a small file can't fill the memory.

    Returns:
        The model that was passed, or the one made from the file.

    Raises:
        FileNotFoundError: there is no such file.
        PackError: it is not a `.prunus` file, was damaged, is of another version, needs more memory than allowed, or
            holds weights only and no model was passed.
        ValueError: names, shapes or dtypes do not fit the model, which was not changed.
        MissingExtraError: the package constriction is not installed.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    content = container.read(path)
    if model is None:
        return container.named(path, lambda: describe.make(content.header, _read(content, max_bytes)).to(device))
    tensors = _state(path, content, max_bytes)
    inner = unwrap(model)
    _check_fit(path, inner.state_dict(keep_vars=True), tensors)
    inner.load_state_dict(tensors, strict=False)
    return model


def read_tensors(path: Path | str, *, max_bytes: int | None = None) -> dict[str, Tensor]:
    """Return the state dict in a `.prunus` file, on the CPU; a tied tensor has all its names.

    Raises:
        FileNotFoundError, PackError, MissingExtraError: as `load`.
    """
    return _state(path, container.read(path), max_bytes)


def _state(path: Path | str, content: container.Content, max_bytes: int | None) -> dict[str, Tensor]:
    return container.named(path, lambda: describe.state_of(content.header, _read(content, max_bytes)))


class _Written(NamedTuple):
    stream: bytes
    facts: list[TensorFacts]
    checked: list[tuple[str, bytes]]


def _write(encoder: Encoder, entries: list[Entry], tensors: Mapping[str, Tensor]) -> _Written:
    earlier = EarlierTensors.none()
    facts, checked = [], []
    for entry in entries:
        bits = dtypes.patterns(tensors[entry.name])
        digest = _digest(bits)
        before = encoder.num_bits
        coding = write_tensor(encoder, bits, entry.form, digest, earlier)
        size = (encoder.num_bits - before) / 8
        nonzero = int(torch.count_nonzero(tensors[entry.name])) if entry.dtype.is_complex else _nonzero(bits)
        facts.append(TensorFacts(entry.name, entry.shape, layout.type_name(entry.dtype), coding, size, nonzero))
        checked.append((entry.text, digest))
    return _Written(encoder.finish(), facts, checked)


def _read(content: container.Content, max_bytes: int | None) -> dict[str, Tensor]:
    """Decode the tensors of a file, by all their names, and verify their checksum."""
    entries, places = layout.from_header(content.header)
    layout.check_size(entries, content.size, max_bytes)
    decoder, earlier = Decoder(content.stream), EarlierTensors.none()
    read: list[Patterns] = []
    for entry in entries:
        read.append(read_tensor(decoder, entry.form, earlier, read))
    checked = [(entry.text, _digest(bits)) for entry, bits in zip(entries, read, strict=True)]
    if container.content_checksum(content.header_text, checked) != content.checksum:
        raise DamagedError("its decoded content is not what was written")
    tensors = [dtypes.tensor_of(bits, entry.dtype, entry.shape) for entry, bits in zip(entries, read, strict=True)]
    return {name: tensors[place] for name, place in places.items()}


def _nonzero(bits: Patterns) -> int:
    return int(np.count_nonzero(bits))


def _digest(bits: Patterns) -> bytes:
    little = bits.astype(f"<u{bits.itemsize}", copy=False)
    return hashlib.sha256(little.view(np.uint8).data).digest()


def _check_fit(path: Path | str, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors fit the expected ones: names, shapes and dtypes."""
    problems = list(_problems(expected, tensors))
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{str(path)!r} does not fit the model: {'; '.join(problems[:3])}{more}")


def _problems(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    loaded = {id(expected[name]) for name in tensors if name in expected}
    for name, tensor in expected.items():
        if name not in tensors and id(tensor) not in loaded:
            yield f"it lacks {name!r}"
    for name, tensor in tensors.items():
        if name not in expected:
            yield f"it has {name!r}, which the model lacks"
        elif tensor.shape != expected[name].shape:
            yield f"{name!r} has shape {list(tensor.shape)} in the file, {list(expected[name].shape)} in the model"
        elif tensor.dtype != expected[name].dtype:
            dtype, own = tensor.dtype, expected[name].dtype
            yield f"{name!r} is {dtype} in the file, {own} in the model; convert the model first: model.to({dtype})"
