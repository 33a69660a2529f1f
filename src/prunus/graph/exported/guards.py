"""Operations that PyTorch does not check itself, and what is checked before they run.

With shapes or values that don't fit each other these kill the process, or read memory that nobody wrote. A document's
constants are checked where it is read (`exported.limits`); what only the tensors of a call tell is checked here.
Nothing is checked while PyTorch traces or compiles: shapes may be symbols there, and nothing is computed.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunus.graph.calls import bound_arguments
from prunus.graph.exported.limits import LARGEST_WINDOW
from prunus.graph.operations import OPERATIONS, Family

Check = Callable[[Mapping[str, Any]], None]

# Of a product of sizes: room for intermediate ones above 64 bits, which PyTorch takes no size of.
_MOST_BITS = 1024


def guarded(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operation that raises ValueError where it would crash or return what is in memory by chance.

    Args:
        operation: any function; those that need no check are returned as they are.
    """
    if operation is operator.mul:
        return _product
    check = _CHECKS.get(str(operation).removeprefix("aten.")) if isinstance(operation, torch._ops.OpOverload) else None
    if not isinstance(operation, torch._ops.OpOverload):
        return operation
    if check is None and any(argument.name == "kernel_size" for argument in operation._schema.arguments):
        check = _check_window
    return operation if check is None else _behind(operation, check)


def _check_window(arguments: Mapping[str, Any]) -> None:
    """Refuse windows that are computed in the graph and so large that to go through them would not end."""
    sizes = arguments["kernel_size"]
    for size in sizes if isinstance(sizes, (list, tuple)) else [sizes]:
        if type(size) is int and not 0 <= size <= LARGEST_WINDOW:
            raise ValueError(f"kernel_size must be from 0 to {LARGEST_WINDOW:,}, got {size}")


def _product(first: Any, second: Any) -> Any:
    """Multiply sizes; squares of squares would fill the memory with their digits."""
    product = first * second
    if type(product) is int and product.bit_length() > _MOST_BITS:
        raise ValueError(f"a product of sizes has more than {_MOST_BITS} bits")
    return product


@functools.cache
def _behind(operation: torch._ops.OpOverload, check: Check) -> Callable[..., Any]:
    def checked(*args: Any, **kwargs: Any) -> Any:
        if _computes([*args, *kwargs.values()]):
            try:
                check(bound_arguments(operation, args, kwargs))
            except ValueError as error:
                raise ValueError(f"{operation} can't be computed: {error}") from None
        return operation(*args, **kwargs)

    return checked


def _computes(values: list[Any]) -> bool:
    """Tell whether plain tensors are computed on the CPU now: nothing is traced, compiled or mapped over."""
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
    ):
        return False
    tensors = [value for value in _flat(values) if isinstance(value, Tensor)]
    return all(type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu" for tensor in tensors)


def _flat(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _quotient(values: Mapping[str, Any]) -> None:
    """Check that no least whole number is divided by -1, which stops the process."""
    dividend, divisor = values["self"], values["other"]
    dtype = torch.result_type(dividend, divisor)
    is_whole = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
    if not is_whole or values.get("rounding_mode", "trunc") is None:  # then it is a quotient of floats
        return
    least = torch.iinfo(dtype).min
    whole = [torch.as_tensor(value).to(dtype) for value in (dividend, divisor)]
    if least and bool((whole[1] == -1).any()):
        _require(not bool(((whole[0] == least) & (whole[1] == -1)).any()), f"{least} / -1 is no {dtype}")


def _same_shape(values: Mapping[str, Any]) -> None:
    shapes = tuple(values["self"].shape), tuple(values["target"].shape)
    _require(shapes[0] == shapes[1], f"input and target must have one shape, got {shapes[0]} and {shapes[1]}")


def _circular(values: Mapping[str, Any]) -> None:
    circular = values.get("mode", "circular") == "circular"
    _require(not circular or min(values["pad"], default=0) >= 0, f"circular padding can't be negative: {values['pad']}")


def _grouped_heads(values: Mapping[str, Any]) -> None:
    """Check that there are heads to divide the query's by, where they are shared."""
    tensors = [values[name] for name in ("query", "key", "value")]
    if values["enable_gqa"] and all(tensor.dim() > 2 for tensor in tensors):
        heads = [tensor.shape[-3] for tensor in tensors]
        _require(min(heads[1:]) > 0, f"key and value must have a head to share, got {heads[1]} and {heads[2]} heads")


def _recurrent(gates: int) -> Check:
    """Return a check of a recurrent layer with so many gates: weights and states must have the shapes it needs."""

    def check(values: Mapping[str, Any]) -> None:
        hidden = values["hx"]
        hidden, cell = hidden if isinstance(hidden, (list, tuple)) else (hidden, hidden)
        batch, features = _batch_and_features(values)
        directions, layers = 1 + values["bidirectional"], values["num_layers"]
        for state in (hidden, cell):
            shape = tuple(state.shape)
            fits = len(shape) == 3 and shape[:2] == (layers * directions, batch)
            _require(fits, f"a state must have the shape ({layers * directions}, {batch}, features), got {shape}")
        out, inner = hidden.shape[2], cell.shape[2]
        expected: list[tuple[int, ...]] = []
        for layer in range(layers):
            rows = gates * inner
            weights = [(rows, features if layer == 0 else directions * out), (rows, out)]
            biases = [(rows,), (rows,)] if values["has_biases"] else []
            expected += (weights + biases + [(out, inner)] * (out != inner)) * directions
        shapes = [tuple(parameter.shape) for parameter in values["params"]]
        _require(shapes == expected, f"the weights must have the shapes {expected}, got {shapes}")

    return check


def _batch_and_features(values: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many samples and features a recurrent layer is given."""
    if "input" in values:
        shape = tuple(values["input"].shape)
        _require(len(shape) == 3, f"the input must have 3 dimensions, got the shape {shape}")
        return shape[0 if values["batch_first"] else 1], shape[2]
    data, sizes = values["data"], values["batch_sizes"]
    _require(data.dim() == 2, f"packed data must have 2 dimensions, got the shape {tuple(data.shape)}")
    plain = sizes.dim() == 1 and sizes.dtype == torch.int64
    steps = sizes.tolist() if plain else []
    fits = bool(steps) and steps == sorted(steps, reverse=True) and steps[-1] > 0 and sum(steps) == len(data)
    _require(fits, f"batch_sizes must be whole numbers over 0 that don't grow and sum to {len(data)}, got {sizes}")
    return steps[0], data.shape[1]


_QUOTIENTS = (
    *("div.Scalar_mode", "div.Tensor_mode", "div_.Scalar_mode", "div_.Tensor_mode", "divide.Scalar_mode"),
    *("divide.Tensor_mode", "floor_divide.default", "floor_divide.Scalar", "fmod.Scalar", "fmod.Tensor"),
    *("remainder.Scalar", "remainder.Scalar_Tensor", "remainder.Tensor"),
)
_RECURRENT = [operation for operation in OPERATIONS.values() if operation.family is Family.RECURRENT]
_CHECKS: dict[str, Check] = {
    **dict.fromkeys(_QUOTIENTS, _quotient),
    **{overload: _recurrent(operation.gates) for operation in _RECURRENT for overload in operation.files},
    "binary_cross_entropy.default": _same_shape,
    "_pad_circular.default": _circular,
    "scaled_dot_product_attention.default": _grouped_heads,
    "pad.default": _circular,
}
