"""The arguments of operations as JSON values, and which an operation takes.

Numbers, true, false and null stand for themselves; lists and tuples are lists. All else is a text whose first character
says what it stands for:

    ^       the result of the operation before, ^2 of the one before that, and so on; the inputs come first
    @       the tensor after the one that was named last, in the order of the state dict, @2 the one after that
    !       the training flag of the module that holds the tensor named last, !drop that of the module "drop"
    #       a constant: #float32 and other dtypes, #strided, #channels_last, #cpu, #inf, #-inf, #nan;
            #own is the device of the module's tensors
    '       a text, such as 'mean
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

NODE, TENSOR_NAMED, FLAG_OF, _CONSTANT, _TEXT = "^@!#'"
_OWN = "own"
_DTYPE_NAMES = (
    *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
)
DTYPES = {name: getattr(torch, name) for name in _DTYPE_NAMES}
_MEMORY_FORMATS = ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
_CONSTANTS: dict[str, Any] = {
    **DTYPES,
    **{name: getattr(torch, name) for name in (*_MEMORY_FORMATS, "strided")},
    **{str(number): number for number in (math.inf, -math.inf, math.nan)},
    "cpu": torch.device("cpu"),
}
_DEEPEST = 4  # a list of lists is the deepest that any operation takes
_LARGEST = 2**63
_LONGEST_TEXT = 1000


class DocumentError(ValueError):
    """A graph that a document can't hold, or a document that holds none; the message says where and why."""


def encode(value: Any, reference: Callable[[fx.Node], str], own: torch.device) -> Any:
    """Return an argument as a JSON value.

    Args:
        value: an argument of a node.
        reference: a node -> the text that stands for it.
        own: the device of the module's tensors.

    Raises:
        DocumentError: it is nothing a document can hold.
    """
    if isinstance(value, fx.Node):
        return reference(value)
    if isinstance(value, (list, tuple)):
        return [encode(entry, reference, own) for entry in value]
    if isinstance(value, str):
        return _TEXT + value
    if value is None or type(value) in (bool, int) or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, torch.device):
        is_own = value.type == own.type and value.index in (None, own.index)
        if not is_own and value.type != "cpu":
            raise DocumentError(f"the device {str(value)!r} is written in the graph, and is not the module's, {own}")
        return _CONSTANT + (_OWN if is_own else "cpu")
    name = str(value).removeprefix("torch.")
    if type(_CONSTANTS.get(name)) is type(value):
        return _CONSTANT + name
    raise DocumentError(f"a value of the type {type(value).__name__} can't be in a document: {value!r:.100}")


def decode(value: Any, references: Mapping[str, Callable[[str], fx.Node]], own: torch.device, depth: int = 0) -> Any:
    """Return the argument that a JSON value stands for.

    Args:
        value: what came out of a file.
        references: the first character of a text -> what makes a node of the others, or raises DocumentError.
        own: the device of the module's tensors.
        depth: how many lists it is in.

    Raises:
        DocumentError: it stands for none.
    """
    if isinstance(value, list):
        if depth == _DEEPEST:
            raise DocumentError(f"lists lie more than {_DEEPEST} deep in each other")
        return [decode(entry, references, own, depth + 1) for entry in value]
    if isinstance(value, str):
        return _decode_text(value, references, own)
    if type(value) is int and not -_LARGEST <= value < _LARGEST:
        raise DocumentError("a whole number has more than 64 bits")
    if type(value) is float and not math.isfinite(value):
        raise DocumentError(f"a number is {value}")
    if value is not None and type(value) not in (bool, int, float):
        raise DocumentError(f"a value of the type {type(value).__name__} can't be an argument")
    return value


def _decode_text(value: str, references: Mapping[str, Callable[[str], fx.Node]], own: torch.device) -> Any:
    mark, rest = value[:1], value[1:]
    if mark in references:
        return references[mark](rest)
    if mark == _CONSTANT and rest == _OWN:
        return own
    if mark == _CONSTANT and rest in _CONSTANTS:
        return _CONSTANTS[rest]
    if mark != _TEXT:
        raise DocumentError(f"an argument can't be {value!r:.50}")
    if len(rest) > _LONGEST_TEXT or not rest.isprintable():
        raise DocumentError(f"a text is too long, or can't be printed: {rest!r:.50}")
    return rest


# What the results of an operation are: a tensor, several in a list or tuple, or a number.
TENSOR, TENSORS, NUMBER = "tensor", "tensors", "number"


def result_kind(operation: torch._ops.OpOverload) -> str:
    """Return what an operation gives."""
    returns = operation._schema.returns
    if len(returns) == 1 and returns[0].real_type.kind() == "TensorType":
        return TENSOR
    return TENSORS if len(returns) > 1 or returns[0].real_type.kind() == "ListType" else NUMBER


def check_call(
    operation: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], kinds: Mapping[fx.Node, str]
) -> dict[str, Any]:
    """Refuse arguments that an operation's schema does not allow; the shapes of tensors show when it runs.

    Returns:
        The arguments by name.

    Raises:
        DocumentError: there are too many or too few, one is unknown, or of another type.
    """
    schema = operation._schema.arguments
    positional = [argument for argument in schema if not argument.kwarg_only]
    if len(args) > len(positional):
        raise DocumentError(f"{operation} takes {len(positional)} arguments by position, got {len(args)}")
    values = {argument.name: value for argument, value in zip(positional, args, strict=False)}
    named = {argument.name for argument in schema}
    for name, value in kwargs.items():
        if name not in named or name in values:
            raise DocumentError(f"{operation} has no argument {name!r:.50}, or it is given twice")
        values[name] = value
    for argument in schema:
        if argument.name not in values:
            if not argument.has_default_value():
                raise DocumentError(f"{operation} lacks its argument {argument.name!r}")
        elif not _admits(argument.real_type, values[argument.name], kinds):
            raise DocumentError(
                f"argument {argument.name!r} of {operation} must be of the type {argument.real_type}, "
                f"got {values[argument.name]!r:.50}"
            )
    return values


_PLAIN: dict[str, tuple[type, ...]] = {
    "IntType": (int,),
    "SymIntType": (int,),
    "FloatType": (int, float),
    "NumberType": (int, float, bool),
    "BoolType": (bool,),
    "SymBoolType": (bool,),
    "TensorType": (int, float, bool),  # PyTorch makes tensors of numbers
    "StringType": (str,),
    "DeviceObjType": (torch.device,),
    "ScalarTypeType": (torch.dtype,),
    "LayoutType": (torch.layout,),
    "MemoryFormatType": (torch.memory_format,),
}
_NUMBERS = ("IntType", "SymIntType", "FloatType", "NumberType", "BoolType", "SymBoolType")


def _admits(kind: Any, value: Any, kinds: Mapping[fx.Node, str]) -> bool:
    """Tell whether a schema's type takes a value."""
    name = kind.kind()
    if name == "OptionalType":
        return value is None or _admits(kind.getElementType(), value, kinds)
    if name == "ListType":
        inner = kind.getElementType()
        if isinstance(value, list):
            return all(_admits(inner, entry, kinds) for entry in value)
        if isinstance(value, fx.Node) and kinds[value] == TENSORS:
            return bool(inner.kind() == "TensorType")
        return inner.kind() in ("IntType", "SymIntType", "FloatType") and _admits(inner, value, kinds)
    if isinstance(value, fx.Node):
        return kinds[value] in (TENSOR, NUMBER) if name == "TensorType" else name in _NUMBERS and kinds[value] == NUMBER
    return type(value) in _PLAIN.get(name, ())
