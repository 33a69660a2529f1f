"""From a document, which anybody may have written, to what makes a module; see `prunus.graph.exported.document`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn

from prunus.files import strict_json
from prunus.graph.exported import arguments, limits, operations
from prunus.graph.exported.arguments import DTYPES, NUMBER, TENSOR, TENSORS, DocumentError
from prunus.graph.exported.document import BUFFER, CONSTANT, DEFAULT, FROZEN, LEAF, PARAMETER, ROOT, dtype_name
from prunus.graph.exported.parts import Parts
from prunus.graph.exported.program import is_argument_name
from prunus.graph.exported.source import FLAG
from prunus.graph.exported.structure import PLAIN, Input, Signature, Structure, all_names

# Far above any model, and low enough that reading a document takes seconds.
_MOST_NODES = 200_000
_MOST_PARTS = 64
_DEEPEST = 16
_LARGEST_EXAMPLE = 2**28
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ \-]{0,200}")
_COUNT = re.compile(r"0|[2-9]|-[1-9]|-?[1-9][0-9]{1,6}")
_FREE_SIZE = re.compile(r"[a-z][a-z0-9_]{0,30}")
_TAKEN = frozenset(dir(nn.Module()))


@dataclass(frozen=True)
class _Document:
    why: str
    arguments: tuple[tuple[str, Any], ...]
    positional: int
    inputs: tuple[dict[str, Any], ...]
    kinds: str
    nodes: tuple[tuple[Any, ...], ...]
    output: Any
    leaves: tuple[Any, ...]


def read(document: Any, tensors: Mapping[str, Tensor]) -> tuple[Parts, str]:
    """Return what a document and its tensors make, and why the model's own class was not kept.

    Raises:
        DocumentError: the document is damaged or forged, or the tensors don't fit it.
    """
    try:
        plain: _Document = strict_json.build(_Document, document)
        return _Reader(plain, tensors).parts(), plain.why
    except DocumentError as error:
        raise DocumentError(f"the graph can't be read: {error}") from None
    except (strict_json.FieldError, RecursionError) as error:
        raise DocumentError(f"the graph can't be read: {error}") from error


class _Reader:
    def __init__(self, document: _Document, tensors: Mapping[str, Tensor]) -> None:
        self._document = document
        self._stored, self._names = tensors, list(tensors)
        self._own = next((t.device for t in tensors.values() if isinstance(t, Tensor)), torch.device("cpu"))
        self._graph = fx.Graph()
        self._kinds: dict[fx.Node, str] = {}
        self._results: list[fx.Node] = []
        self._attributes: dict[tuple[str, str], fx.Node] = {}
        self._tensors: dict[str, Tensor] = {}
        self._not_saved: set[str] = set()
        self._last_place, self._last_module = -1, ""  # of the tensor that was named last
        self._references = {
            arguments.NODE: self._result,
            arguments.TENSOR_NAMED: self._tensor,
            arguments.FLAG_OF: self._flag,
        }

    def parts(self) -> Parts:
        document = self._document
        if len(document.nodes) + len(document.kinds) + len(document.inputs) > _MOST_NODES:
            raise DocumentError(f"it has more than {_MOST_NODES:,} nodes, tensors and inputs")
        self._add_tensors()
        signature = self._signature()
        for leaf in range(len(signature.inputs)):
            kind = NUMBER if signature.inputs[leaf].dtype is None else TENSOR
            self._add(self._graph.create_node("placeholder", f"input_{leaf}"), kind)
        for number, call in enumerate(document.nodes):
            try:
                self._add_call(*_parts_of(call))
            except DocumentError as error:
                raise DocumentError(f"node {number}, {call[:1]!r:.60}: {error}") from None
        leaves = self._decode(list(document.leaves))
        if len(leaves) != signature.output.num_leaves or any(isinstance(leaf, list) for leaf in leaves):
            raise DocumentError(f"the output has {signature.output.num_leaves} leaves, got {len(leaves)}")
        self._graph.output(tuple(leaves))
        modules = frozenset(path for path, kind in self._attributes if kind == FLAG)
        return Parts(self._graph, signature, self._tensors, frozenset(self._not_saved), modules)

    def _add_tensors(self) -> None:
        _check_names(self._names)
        kinds = self._document.kinds
        if len(kinds) != len(self._names):
            raise DocumentError(f"it tells the kinds of {len(kinds)} tensors, got {len(self._names)} tensors")
        read: dict[tuple[int, str], Tensor] = {}
        for (name, tensor), kind in zip(self._stored.items(), kinds, strict=True):
            tied = read.get((id(tensor), kind))
            self._tensors[name] = read[id(tensor), kind] = self._typed(name, tensor, kind) if tied is None else tied
            if kind == CONSTANT:
                self._not_saved.add(name)

    def _typed(self, name: str, tensor: Tensor, kind: str) -> Tensor:
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise DocumentError(f"tensor {name!r} must be a dense tensor, got {type(tensor).__name__}")
        dtype_name(tensor.dtype)
        if tensor.device != self._own:
            raise DocumentError(f"the tensors must be on one device, got {self._own} and {tensor.device}")
        if kind not in (PARAMETER, FROZEN, BUFFER, CONSTANT):
            raise DocumentError(f"tensor {name!r} is of the unknown kind {kind!r}")
        if kind == PARAMETER and not (tensor.is_floating_point() or tensor.is_complex()):
            raise DocumentError(f"tensor {name!r} is a trained parameter of whole numbers")
        if kind in (PARAMETER, FROZEN):
            return nn.Parameter(tensor.detach(), requires_grad=kind == PARAMETER)
        return tensor.detach()

    def _signature(self) -> Signature:
        document = self._document
        structures = {name: _structure(structure) for name, structure in document.arguments}
        if len(structures) != len(document.arguments) or not all(map(is_argument_name, structures)):
            raise DocumentError("arguments must have different names, and such as Python's arguments have")
        if not 0 <= document.positional <= len(structures):
            raise DocumentError(f"positional must be in [0, {len(structures)}], got {document.positional}")
        names = list(all_names(structures))
        if len(names) != len(document.inputs):
            raise DocumentError(f"the arguments have {len(names)} leaves, got {len(document.inputs)} inputs")
        inputs = tuple(self._input(name, entry) for name, entry in zip(names, document.inputs, strict=True))
        return Signature(structures, document.positional, inputs, _structure(document.output))

    def _input(self, name: str, entry: dict[str, Any]) -> Input:
        if entry.keys() == {"value"}:
            value = arguments.decode(entry["value"], {}, self._own)
            if isinstance(value, list):
                raise DocumentError(f"input {name!r} must be a plain value or a tensor")
            return Input(name, None, (), value)
        if entry.keys() - {"example"} != {"dtype", "shape"} or not isinstance(entry["shape"], list):
            raise DocumentError(f"input {name!r} must have a dtype and a shape, or a value")
        shape = tuple(_size(name, size) for size in entry["shape"])
        return Input(name, _dtype(entry["dtype"]), shape, None, _example(name, shape, entry.get("example", [])))

    def _add_call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        positional = self._decode(args)
        named = {key: self._decode(value) for key, value in kwargs.items()}
        if name == "getitem":
            if len(positional) != 2 or named or not self._is(positional[0], TENSORS) or type(positional[1]) is not int:
                raise DocumentError("it takes several tensors and a whole number")
            self._call(operator.getitem, positional, {}, TENSOR)
        elif name.startswith("number."):
            self._add_number(name.removeprefix("number."), positional, named)
        elif name not in operations.ATEN:
            raise DocumentError(
                "it is no operation that a document may hold; if a later prunus wrote it, upgrade prunus"
            )
        else:
            operation = operations.overload(name)
            if operation is None:
                raise DocumentError(f"PyTorch {torch.__version__} has no such operation; it may need a newer one")
            limits.check_constants(name, arguments.check_call(operation, positional, named, self._kinds))
            self._call(operation, positional, named, arguments.result_kind(operation))

    def _add_number(self, name: str, numbers: list[Any], named: dict[str, Any]) -> None:
        if name not in operations.NUMBERS:
            raise DocumentError("it is no operation that a document may hold")
        fits = all(type(value) in (int, float, bool) or self._is(value, NUMBER) for value in numbers)
        if named or not fits or len(numbers) != operations.num_operands(name):
            raise DocumentError(f"it takes {operations.num_operands(name)} numbers")
        self._call(operations.NUMBERS[name], numbers, {}, NUMBER)

    def _call(self, target: Any, args: list[Any], kwargs: dict[str, Any], kind: str) -> None:
        self._add(self._graph.create_node("call_function", target, tuple(args), kwargs), kind)

    def _add(self, node: fx.Node, kind: str) -> None:
        self._results.append(node)
        self._kinds[node] = kind

    def _decode(self, value: Any) -> Any:
        return arguments.decode(value, self._references, self._own)

    def _is(self, value: Any, kind: str) -> bool:
        return isinstance(value, fx.Node) and self._kinds[value] == kind

    def _result(self, steps: str) -> fx.Node:
        back = _count(steps)
        if not 1 <= back <= len(self._results):
            raise DocumentError(f"it refers to the result {back} steps back, and {len(self._results)} come before it")
        return self._results[-back]

    def _tensor(self, steps: str) -> fx.Node:
        place = self._last_place + _count(steps)
        if not 0 <= place < len(self._names):
            raise DocumentError(f"it refers to the tensor number {place} of {len(self._names)}")
        name = self._names[place]
        self._last_place, self._last_module = place, name.rpartition(".")[0]
        return self._attribute(name, name, TENSOR)

    def _flag(self, module: str) -> fx.Node:
        path = {"": self._last_module, ROOT: ""}.get(module, module)
        if path and (path, FLAG) not in self._attributes:
            _check_name(path)
            if any(prefix in self._stored for prefix in _prefixes(path)):
                raise DocumentError(f"it refers to the training flag of {path!r:.60}, which is a tensor")
        return self._attribute(path, f"{path}.{FLAG}" if path else FLAG, FLAG)

    def _attribute(self, name: str, target: str, kind: str) -> fx.Node:
        if (name, kind) not in self._attributes:
            self._attributes[name, kind] = node = self._graph.create_node("get_attr", target)
            self._kinds[node] = TENSOR if kind == TENSOR else NUMBER
        return self._attributes[name, kind]


def _parts_of(call: tuple[Any, ...]) -> tuple[str, list[Any], dict[str, Any]]:
    """Return the name of a call's operation, its arguments by position, and those by name."""
    name, *args = call or ("",)
    if not isinstance(name, str):
        raise DocumentError("it does not begin with an operation's name")
    kwargs = args.pop() if args and isinstance(args[-1], dict) else {}
    return name if "." in name or name == "getitem" else name + DEFAULT, args, kwargs


def _count(steps: str) -> int:
    """Return a number of steps as `document` writes it: nothing for one."""
    if steps and not _COUNT.fullmatch(steps):
        raise DocumentError(f"a number of steps can't be {steps!r:.30}")
    return int(steps or 1)


def _check_names(names: Iterable[str]) -> None:
    """Refuse names that a module's tensors can't have, or that would be a tensor and a module at once.

    Raises:
        DocumentError: there is one.
    """
    tensors = set(names)
    for name in tensors:
        _check_name(name)
        *prefixes, _ = _prefixes(name)
        if tensors.intersection(prefixes):
            raise DocumentError(f"{name!r:.100} lies in what is a tensor, not a module")


def _check_name(name: str) -> None:
    parts = name.split(".")
    if len(parts) > _MOST_PARTS:
        raise DocumentError(f"{name!r:.100} lies in too many modules")
    for part in parts:
        if not _NAME.fullmatch(part) or part in _TAKEN or (part.startswith("__") and part.endswith("__")):
            raise DocumentError(f"{name!r:.100} can't be the name of a module or tensor")


def _prefixes(name: str) -> list[str]:
    """Return the names of the modules that lead to a name, and the name itself."""
    return list(accumulate(name.split("."), "{}.{}".format))


def _structure(value: Any, depth: int = 0) -> Structure:
    if value == LEAF:
        return Structure()
    if depth == _DEEPEST or not isinstance(value, dict) or len(value) != 1:
        raise DocumentError(f"a structure must be '*' or one container, at most {_DEEPEST} deep, got {value!r:.50}")
    ((kind, entries),) = value.items()
    if kind not in PLAIN or not isinstance(entries, list):
        raise DocumentError(f"there is no structure {kind!r:.30}")
    if kind != "dict":
        return Structure(kind, tuple(_structure(entry, depth + 1) for entry in entries))
    pairs = [entry for entry in entries if isinstance(entry, list) and len(entry) == 2 and type(entry[0]) in (str, int)]
    keys = tuple(key for key, _ in pairs)
    if len(pairs) != len(entries) or len(set(keys)) != len(keys):
        raise DocumentError("a dict's structure must be pairs of a key and a structure, its keys different")
    return Structure(kind, tuple(_structure(entry, depth + 1) for _, entry in pairs), keys)


def _size(name: str, size: Any) -> int | str:
    if type(size) is int and 0 <= size < 2**63:
        return size
    if isinstance(size, str) and _FREE_SIZE.fullmatch(size):
        return size
    raise DocumentError(f"input {name!r} has a size that is none: {size!r:.30}")


def _example(name: str, shape: tuple[int | str, ...], sizes: Any) -> tuple[int, ...]:
    """Return sizes of an input that its model takes; none where a file tells none."""
    if sizes == []:
        return ()
    fits = isinstance(sizes, list) and len(sizes) == len(shape)
    if not fits or any(type(size) is not int or not 0 < size <= _LARGEST_EXAMPLE for size in sizes):
        raise DocumentError(f"input {name!r} has an example that is no shape of its own: {sizes!r:.50}")
    if any(wanted not in (size, str(wanted)) for wanted, size in zip(shape, sizes, strict=True)):
        raise DocumentError(f"input {name!r} has an example of another shape: {sizes!r:.50}")
    if math.prod(sizes) > _LARGEST_EXAMPLE:
        raise DocumentError(f"input {name!r} has an example of more than {_LARGEST_EXAMPLE:,} elements")
    return tuple(sizes)


def _dtype(name: Any) -> torch.dtype:
    if not isinstance(name, str) or name not in DTYPES:
        raise DocumentError(f"there is no dtype {name!r:.30}")
    dtype = DTYPES[name]
    assert isinstance(dtype, torch.dtype)
    return dtype
