"""Results that have the shape of what they are computed from: a trace takes it over instead of deriving it.

To learn the shape that an operation gives, torch.export runs the operation's Python form on tensors without numbers: a
batch norm becomes ten operations, a ReLU four. That takes half of the time of a trace of a resnet50 whose layers all
have different widths.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_ATEN = torch.ops.aten
_NORM = _ATEN._native_batch_norm_legit_no_training.default
_ELEMENTWISE = (
    *(_ATEN.relu.default, _ATEN.leaky_relu.default, _ATEN.elu.default, _ATEN.hardtanh.default),
    *(_ATEN.hardswish.default, _ATEN.hardsigmoid.default, _ATEN.silu.default, _ATEN.gelu.default),
    *(_ATEN.sigmoid.default, _ATEN.tanh.default),
)


@contextlib.contextmanager
def shapes_known() -> Iterator[None]:
    """Within this context, torch.export takes the shape of these operations' results from their input.

    The table is torch's own, for a few operations that it wants to be quick; where a version has none, nothing changes.
    """
    try:
        from torch._subclasses.fake_impls import get_fast_op_impls
    except ImportError:
        yield
        return
    table: dict[Any, Callable[..., Any]] = get_fast_op_impls()
    rules = {operation: _elementwise(operation) for operation in _ELEMENTWISE} | {_NORM: _batch_norm}
    added = {operation: rule for operation, rule in rules.items() if operation not in table}
    table.update(added)
    try:
        yield
    finally:
        for operation in added:
            table.pop(operation, None)


def _elementwise(operation: Any) -> Callable[..., Any]:
    def rule(mode: Any, source: Tensor, *args: Any, **kwargs: Any) -> Any:
        with mode:
            if not source.is_floating_point():  # a sigmoid of whole numbers is none
                return _derived(operation, source, *args, **kwargs)
            return torch.empty_like(source)

    return rule


def _batch_norm(mode: Any, source: Tensor, weight: Any, bias: Any, mean: Any, var: Any, *args: Any) -> Any:
    """In eval mode on a CPU there are no statistics of the batch beside the result."""
    with mode:
        channels = [source.shape[1], *(value.shape[0] for value in (weight, bias, mean, var) if value is not None)]
        is_plain = all(type(size) is int and size == channels[0] for size in channels)
        if not is_plain or source.device.type != "cpu":
            return _derived(_NORM, source, weight, bias, mean, var, *args)
        return torch.empty_like(source), source.new_empty(0), source.new_empty(0)


def _derived(operation: Any, *args: Any, **kwargs: Any) -> Any:
    return torch._decomp.decomposition_table[operation](*args, **kwargs)
