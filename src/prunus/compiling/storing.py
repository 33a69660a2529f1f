"""A net as named tensors and one JSON text, and back: what a saved program holds. No code is in it.

Views are written as strides where they have some; weights that are mostly zeros as their nonzero values and places.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from prunus.compiling.net import Indices, Net, Numbers, Operation, Pointwise, View, Windows
from prunus.compiling.operations import KINDS
from prunus.compiling.operations.elementwise import Step
from prunus.errors import ProgramError
from prunus.files import content_hash

# Bytes of a number of an array; what names a tensor in a file; what is filled from a shape that the file tells.
_ITEM = 8
_TENSOR_NAMES = {"numbers", "indices", "places", "values"}
_SHAPED = {"strides", "places"}

# Weights of which fewer than this are nonzero are written as values and places.
_SPARSE = 0.5


def encode(net: Net) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a net as plain JSON and the tensors it refers to."""
    writer = _Encoder()
    inputs = [[name, number, list(shape)] for name, (number, shape) in net.inputs.items()]
    operations = [writer.operation(operation) for operation in net.operations]
    outputs = [writer.value(view) for view in net.outputs]
    boxes = [[number, list(box)] for number, box in net.boxes.items()]
    tree = {"inputs": inputs, "operations": operations, "outputs": outputs, "boxes": boxes}
    return tree | ({"integers": dict(net.integers)} if net.integers else {}), writer.tensors


def decode(tree: Any, tensors: Mapping[str, Tensor]) -> Net:
    """Return the net that was encoded; `checking.check` makes sure that it can be computed, `num_bytes` that it fits.

    Raises:
        ProgramError: it is none.
    """
    reader = _Decoder(tensors)
    with as_program_errors():
        inputs = {str(name): (int(number), tuple(map(int, shape))) for name, number, shape in tree["inputs"]}
        operations = tuple(reader.operation(entry) for entry in tree["operations"])
        outputs = tuple(reader.value(entry) for entry in tree["outputs"])
        boxes = {int(number): tuple(map(int, box)) for number, box in tree["boxes"]}
        integers = {str(name): str(kind) for name, kind in tree.get("integers", {}).items()}
    return Net(inputs, operations, outputs, boxes, integers)  # type: ignore[arg-type]


def num_bytes(tree: Any, tensors: Mapping[str, Tensor]) -> int:
    """Return how much memory all arrays take that `decode` makes; it makes none of them itself.

    Raises:
        ProgramError: a shape in it is none.
    """
    with as_program_errors():
        return _ITEM * _num_elements(tree, tensors)


def _num_elements(tree: Any, tensors: Mapping[str, Tensor]) -> int:
    if isinstance(tree, list):
        return sum(_num_elements(entry, tensors) for entry in tree)
    if not isinstance(tree, dict):
        return 0
    count = sum(_num_elements(entry, tensors) for entry in tree.values())
    for name in _TENSOR_NAMES & tree.keys():
        if isinstance(tree[name], (str, int)) and str(tree[name]) in tensors:
            count += _num_counted(tensors[str(tree[name])].shape)
    if not _SHAPED.isdisjoint(tree):
        count += _num_counted(tuple(map(int, tree["shape"])))
    return count


def _num_counted(shape: tuple[int, ...]) -> int:
    """Return the size of an array, a side of 0 taken as 1: each side is counted up to."""
    if any(side < 0 for side in shape):
        raise ProgramError(f"a shape {shape!r:.60} has a negative side")
    return math.prod(max(side, 1) for side in shape)


@contextlib.contextmanager
def as_program_errors() -> Iterator[None]:
    """Say what a tree is not, where reading it fails in whatever way.

    Raises:
        ProgramError: it failed.
    """
    try:
        yield
    except ProgramError:
        raise
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError, RecursionError, MemoryError) as error:
        raise ProgramError(f"it holds no program: {type(error).__name__}: {str(error)[:200]}") from error


def digest(net: Net, *more: object) -> str:
    """Return a text that two nets share only if they are equal, and so is all else that is given."""
    tree, tensors = encode(net)
    text = json.dumps([tree, content_hash(tensors), *map(str, more)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class _Encoder:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def operation(self, operation: Operation) -> dict[str, Any]:
        fields = {field.name: self.value(getattr(operation, field.name)) for field in dataclasses.fields(operation)}
        return {"operation": type(operation).__name__.lower(), **fields}

    def value(self, value: Any) -> Any:
        if isinstance(value, View):
            return {"view": value.value, "index": self._index(value.index)}
        if isinstance(value, numpy.ndarray):
            return self._index(value) if value.dtype == numpy.int64 else self._numbers(value)
        if isinstance(value, Pointwise):
            return {"function": value.function, "constants": _texts(value.constants)}
        if isinstance(value, Step):
            return {"function": value.function, "operands": value.operands, "constants": _texts(value.constants)}
        if isinstance(value, Windows):
            return {"start": value.start, "stop": value.stop, "step": value.step, "divisors": value.divisors}
        if isinstance(value, tuple):
            return [self.value(item) for item in value]
        return value

    def _index(self, index: Indices) -> dict[str, Any]:
        base = int(index.flat[0]) if index.size else 0
        strides = []
        for dim, size in enumerate(index.shape):
            strides.append(int(index.take(1, dim).flat[0]) - base if size > 1 and index.size else 0)
        if index.size and bool((_affine(index.shape, base, strides) == index).all()):
            return {"shape": index.shape, "base": base, "strides": strides}
        return {"indices": self._add(index)}

    def _numbers(self, numbers: Numbers) -> dict[str, Any]:
        flat = numpy.ascontiguousarray(numbers).reshape(-1)
        if flat.size > 1 and numpy.count_nonzero(flat) < _SPARSE * flat.size:
            (places,) = numpy.nonzero(flat)
            return {"shape": numbers.shape, "places": self._add(places), "values": self._add(flat[places])}
        return {"numbers": self._add(numbers)}

    def _add(self, array: numpy.ndarray) -> str:
        name = str(len(self.tensors))
        exact = array.dtype == numpy.float64 and bool((array.astype(numpy.float32) == array).all())
        small = array.dtype == numpy.int64 and (not array.size or int(abs(array).max()) < 2**31)
        narrow = numpy.float32 if exact else numpy.int32 if small else array.dtype
        self.tensors[name] = torch.from_numpy(numpy.array(array, dtype=narrow, order="C"))
        return name


class _Decoder:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def operation(self, tree: Mapping[str, Any]) -> Operation:
        kind = KINDS[tree["operation"]]
        fields = {field.name: self.value(tree[field.name]) for field in dataclasses.fields(kind)}
        return kind(**fields)

    def value(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return tuple(self.value(item) for item in tree)
        if not isinstance(tree, dict):
            return tree
        if "view" in tree:
            return View(int(tree["view"]), self.value(tree["index"]))
        if "operands" in tree:
            operands = tuple(map(int, tree["operands"]))
            return Step(str(tree["function"]), operands, tuple(map(float, tree["constants"])))
        if "constants" in tree:
            return Pointwise(str(tree["function"]), tuple(map(float, tree["constants"])))
        if "divisors" in tree:
            start, stop, divisors = (tuple(map(int, tree[name])) for name in ("start", "stop", "divisors"))
            return Windows(start, stop, int(tree["step"]), divisors)
        if "strides" in tree:
            return _affine(tuple(map(int, tree["shape"])), int(tree["base"]), list(map(int, tree["strides"])))
        if "places" in tree:
            return self._sparse(tree)
        name = tree["numbers"] if "numbers" in tree else tree["indices"]
        return self._array(name, numpy.float64 if "numbers" in tree else numpy.int64)

    def _sparse(self, tree: Mapping[str, Any]) -> Numbers:
        shape = tuple(map(int, tree["shape"]))
        flat = numpy.zeros(math.prod(shape))
        places = self._array(tree["places"], numpy.int64)
        flat[places] = self._array(tree["values"], numpy.float64)
        return flat.reshape(shape)

    def _array(self, name: Any, dtype: Any) -> Any:
        tensor = self.tensors[str(name)]
        if tensor.is_floating_point() != (dtype is numpy.float64):
            raise ProgramError(f"tensor {name!r:.20} is of {tensor.dtype}")
        return tensor.numpy().astype(dtype)


def _texts(numbers: tuple[float, ...]) -> list[str]:
    """Return numbers as text that holds all of their digits, and infinities, which JSON doesn't."""
    return [repr(number) for number in numbers]


def _affine(shape: tuple[int, ...], base: int, strides: list[int]) -> Indices:
    index = numpy.full(shape, base, dtype=numpy.int64)
    for dim, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        if stride:
            view = [1] * len(shape)
            view[dim] = size
            index += (numpy.arange(size, dtype=numpy.int64) * stride).reshape(view)
    return index
