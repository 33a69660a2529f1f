"""The registry of models, and checks of their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from prunus.registry import Registry, unknown_name

Factory = Callable[..., nn.Module]
AnyFactory = TypeVar("AnyFactory", bound=Factory)

MODELS = Registry[Factory]("model")

# The arguments of every model, so that any model fits any dataset.
EXPECTED = ("num_classes", "in_channels", "image_size")


class ArgumentError(ValueError):
    """A wrong argument of a model; the message says what is expected."""


def model(name: str) -> Callable[[AnyFactory], AnyFactory]:
    """Register the decorated function, which creates a model, as `name`.

    Raises:
        TypeError: the function lacks one of the arguments that every model takes, or its default.
        ValueError: the name is taken.
    """

    def enter(factory: AnyFactory) -> AnyFactory:
        parameters = inspect.signature(factory).parameters
        for expected in EXPECTED:
            if expected not in parameters or parameters[expected].default is inspect.Parameter.empty:
                raise TypeError(
                    f"model {name!r} must take {', '.join(EXPECTED)}, each with a default; {expected} is missing "
                    "or has none"
                )
        MODELS.register(name)(factory)
        return factory

    return enter


def check_arguments(name: str, factory: Factory, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of a model's arguments, including defaults.

    Raises:
        UnknownNameError: the model takes no argument of that name.
    """
    parameters = inspect.signature(factory).parameters
    for argument in kwargs:
        if argument not in parameters:
            raise unknown_name(f"argument (of model {name!r})", argument, parameters)
    return {argument: parameter.default for argument, parameter in parameters.items()} | dict(kwargs)


def whole_number(name: str, value: object, *, least: int = 1, why: str = "") -> int:
    """Return `value`, after checking that it is an int of at least `least`; `why` explains the limit in the error.

    Raises:
        ArgumentError: it is not.

    >>> whole_number("num_classes", 10)
    10
    >>> whole_number("num_classes", 0)
    Traceback (most recent call last):
    ...
    prunus.lab.models.catalogue.ArgumentError: num_classes must be a whole number of at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        reason = f" ({why})" if why else ""
        raise ArgumentError(f"{name} must be a whole number of at least {least}{reason}, got {value!r}")
    return value


def layer_widths(value: object, layers: Sequence[str]) -> tuple[int, ...]:
    """Return `value` as a tuple of one width per layer.

    Raises:
        ArgumentError: it is not a list or tuple of that many positive whole numbers.

    >>> layer_widths([20, 50], ["conv1", "conv2"])
    (20, 50)
    """
    if not isinstance(value, (list, tuple)) or len(value) != len(layers):
        raise ArgumentError(f"widths must be {len(layers)} whole numbers, for {', '.join(layers)}; got {value!r}")
    return tuple(whole_number(f"the width of {layer}", width) for layer, width in zip(layers, value, strict=True))
