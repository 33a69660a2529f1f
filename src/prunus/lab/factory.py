"""Create models from text: a name of `prunus.models`, or ``package.module:factory`` for a model of the user's own."""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from prunus.copying import copy_model
from prunus.lab import models
from prunus.registry import unknown_name


class FactoryError(ValueError):
    """A model could not be created; the message says which step failed."""


def create(source: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Create a model.

    Args:
        source: a name of `prunus.models.names`, or ``package.module:factory``, where the factory is a
            function or class that returns a Module when called, or a Module itself (a copy of it is returned).
            Modules are searched for in the current folder first, as by `python -m`.
        arguments: keyword arguments for the factory.

    Raises:
        ValueError: there is no such name, the import or the call fails, or the arguments do not fit.
        TypeError: the imported object is not a factory, or it did not return a Module.

    >>> type(create("torch.nn:Linear", {"in_features": 2, "out_features": 1})).__name__
    'Linear'
    """
    arguments = arguments or {}
    if ":" not in source:
        return _named(source, arguments)
    factory = _import(source)
    if isinstance(factory, nn.Module):
        if arguments:
            names = ", ".join(arguments)
            raise FactoryError(f"{source!r} is a model, not a factory, so it takes no arguments; got {names}")
        return copy_model(factory)
    if not callable(factory):
        kind = type(factory).__name__
        raise TypeError(f"{source!r} is of type {kind}; expected a function or class that makes a model")
    try:
        model = factory(**arguments)
    except (Exception, SystemExit) as error:
        raise FactoryError(f"{_call(source, arguments)} failed: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise TypeError(f"{_call(source, arguments)} returned an object of type {kind}; expected a torch.nn.Module")
    return model


def parse_arguments(settings: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` texts as keyword arguments.

    A value is read as JSON or as a Python literal; any other value is text. Quotes make any value text.

    Raises:
        ValueError: a text has no ``=``, its key is not an identifier, or a key appears twice.

    >>> parse_arguments(["widths=[20, 50]", "bias=true", "name=relu", "label='1'"])
    {'widths': [20, 50], 'bias': True, 'name': 'relu', 'label': '1'}
    """
    arguments: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"argument {setting!r} is not of the form key=value, such as num_classes=10")
        if key in arguments:
            raise ValueError(f"argument {key!r} is given twice: {arguments[key]!r} and {value!r}")
        arguments[key] = _value(value)
    return arguments


def _value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _named(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    if name not in models.MODELS:
        unknown = unknown_name("model", name, models.names())
        raise FactoryError(f"{unknown}; a model of your own is written package.module:factory")
    return models.create(name, **arguments)


def _import(source: str) -> Any:
    module_name, _, path = source.partition(":")
    if not path or not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        raise FactoryError(f"{source!r} is not of the form package.module:factory, such as my_models.cnn:make")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # not removed, since a factory may import more when it is called
    try:
        target: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise FactoryError(_import_failure(module_name, error)) from error
    for part in path.split("."):
        if not hasattr(target, part):
            owner = getattr(target, "__name__", module_name)
            raise unknown_name(f"name (in {owner})", part, [name for name in dir(target) if name[0] != "_"])
        target = getattr(target, part)
    return target


def _import_failure(module_name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
        return f"there is no module {error.name!r}: it is neither in the current folder ({os.getcwd()!r}) nor installed"
    return f"importing {module_name!r} failed: {_reason(error)}"


def _call(source: str, arguments: Mapping[str, Any]) -> str:
    return f"{source}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
