"""Copy models, including those that keep results of an earlier forward."""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
_MAX_DEPTH = 8  # levels of nested containers that are searched in a module's attributes
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


def copy_model(model: M, memo: dict[int, Any] | None = None) -> M:
    """Return a copy of a model that shares no tensor and no layer with it.

    Some models keep a tensor that a forward computed, such as the attention biases that timm's LeViT keeps in a dict.
    `copy.deepcopy` refuses such a tensor if it has a gradient history. Here computed tensors in a dict are left out,
    so that the copy computes them again from its own weights; elsewhere their values are copied, without the history.

    Args:
        model: any module.
        memo: as in `copy.deepcopy`: maps the id of an object to the object that replaces it in the copy.

    Raises:
        TypeError: an attribute can't be copied, such as a lock or an open file, or is a function that closes over a
            layer of the model (its copy would still call the original layer); the message names the attribute.
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
                f"{error}; remove it from the model before the call, and set it again afterwards"
            ) from error


def _check_functions(model: nn.Module) -> None:
    """Raise TypeError for a function that holds a part of the model: its copy would hold the original part."""
    parts = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for path, module in model.named_modules():
        for name, attribute in own_attributes(module).items():
            if any(id(value) in parts for value in _held_by_functions(attribute)):
                raise TypeError(
                    f"the model ({type(model).__name__}) can't be copied: attribute {f'{path}.{name}'.lstrip('.')!r} "
                    "is a function that closes over a layer of the model, so its copy would still call the original "
                    "layer; make it a method of the class"
                )


def _held_by_functions(value: Any, depth: int = 0) -> Iterator[Any]:
    if isinstance(value, types.FunctionType):
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                yield cell.cell_contents
    elif depth < _MAX_DEPTH and isinstance(value, (list, tuple, set, dict)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _held_by_functions(entry, depth + 1)


def _not_copied(model: nn.Module) -> str:
    """Name the attribute that can't be copied; a module with its own way of copying if it is none of them."""
    for path, module in model.named_modules():
        for name, value in own_attributes(module).items():
            try:
                copy.deepcopy(value)
            except Exception:
                return f"attribute {f'{path}.{name}'.lstrip('.')!r} ({type(value).__name__}) failed"
    return "a module's own __deepcopy__ or __reduce__ failed"


@contextlib.contextmanager
def without_computed(model: nn.Module) -> Iterator[None]:
    """Within this context, the dicts among a model's attributes hold no tensor with a gradient history."""
    removed: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
    try:
        for module in model.modules():
            for value in own_attributes(module).values():
                if isinstance(value, dict) and any(_is_computed(entry) for entry in value.values()):
                    removed.append((value, dict(value)))
                    for key in [key for key, entry in value.items() if _is_computed(entry)]:
                        del value[key]
        yield
    finally:
        for attribute, before in removed:
            attribute.clear()
            attribute.update(before)


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes a module's class adds to those of every nn.Module; parameters and buffers not counted."""
    return {name: value for name, value in vars(module).items() if name not in _MODULE_ATTRIBUTES}


def _is_computed(value: Any) -> bool:
    return isinstance(value, Tensor) and value.grad_fn is not None


def _computed(value: Any, depth: int = 0) -> Iterator[Tensor]:
    if _is_computed(value):
        yield value
    elif depth < _MAX_DEPTH and isinstance(value, (list, tuple, set, dict)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _computed(entry, depth + 1)
