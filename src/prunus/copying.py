"""Copies of models, also of those that keep results of an earlier forward."""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
_DEEPEST = 8  # containers within containers in a module's attributes
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def copy_model(model: M, memo: dict[int, Any] | None = None) -> M:
    """Return a copy of a model that shares nothing with it.

    Some models keep a tensor that a forward computed, such as the attention biases that timm's LeViT keeps in a dict.
    `copy.deepcopy` refuses those where gradients flow to them. Here what lies in a dict is left out, so that the copy
    computes it anew where its weights are others by then; elsewhere the copy has the values, without gradients.

    Args:
        model: any module.
        memo: as of `copy.deepcopy`: what stands for an object in the copy, by the object's id.

    Raises:
        TypeError: something in it can't be copied, such as a lock, an open file, or a function that closes over one of
            its layers, which would go on with the old ones; the message names the attribute.
    """
    memo = {} if memo is None else memo
    _check_functions(model)
    with without_computed(model):
        for module in model.modules():
            for value in (*own_attributes(module).values(), *module._buffers.values()):
                for tensor in _computed(value):
                    memo.setdefault(id(tensor), tensor.detach().clone())
        try:
            return copy.deepcopy(model, memo)
        except Exception as error:  # whatever a class's own copying raises
            raise TypeError(
                f"the model ({type(model).__name__}) can't be copied: {_not_copied(model)}: {type(error).__name__}: "
                f"{error}; take that off the model before, and set it again after"
            ) from error


def _check_functions(model: nn.Module) -> None:
    """Refuse functions that hold a part of the model by themselves: a copy of the model has the same function."""
    parts = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for path, module in model.named_modules():
        for name, value in own_attributes(module).items():
            if any(id(held) in parts for held in _held_by_functions(value)):
                raise TypeError(
                    f"the model ({type(model).__name__}) can't be copied: attribute {f'{path}.{name}'.lstrip('.')!r} "
                    "is a function that closes over a layer of the model, so a copy would go on with the old layer; "
                    "make it a method of the class"
                )


def _held_by_functions(value: Any, depth: int = 0) -> Iterator[Any]:
    if isinstance(value, types.FunctionType):
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # it is empty
                yield cell.cell_contents
    elif depth < _DEEPEST and isinstance(value, (list, tuple, set, dict)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _held_by_functions(entry, depth + 1)


def _not_copied(model: nn.Module) -> str:
    """Name the attribute that can't be copied, or the module where it is none."""
    for path, module in model.named_modules():
        for name, value in own_attributes(module).items():
            try:
                copy.deepcopy(value)
            except Exception:
                return f"attribute {f'{path}.{name}'.lstrip('.')!r} ({type(value).__name__}) refuses"
    return "one of its modules has a way of copying of its own that refuses"


@contextlib.contextmanager
def without_computed(model: nn.Module) -> Iterator[None]:
    """Take out of the dicts of a model's attributes, for a while, the tensors that were computed with gradients."""
    taken: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
    try:
        for module in model.modules():
            for value in own_attributes(module).values():
                if isinstance(value, dict) and any(_is_computed(entry) for entry in value.values()):
                    taken.append((value, dict(value)))
                    for key in [key for key, entry in value.items() if _is_computed(entry)]:
                        del value[key]
        yield
    finally:
        for held, before in taken:
            held.clear()
            held.update(before)


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """Return what a module's class keeps as plain attributes, beside what every module has."""
    return {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}


def _is_computed(value: Any) -> bool:
    return isinstance(value, Tensor) and value.grad_fn is not None


def _computed(value: Any, depth: int = 0) -> Iterator[Tensor]:
    if _is_computed(value):
        yield value
    elif depth < _DEEPEST and isinstance(value, (list, tuple, set, dict)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _computed(entry, depth + 1)
