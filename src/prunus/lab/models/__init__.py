"""Small models, LeNet and similar ones, created by name.

    model = prunus.models.create("lenet")
    model = prunus.models.create("resnet20", in_channels=1, image_size=28)

A new model is one decorated function, in `lenet.py` or in its own file, which is imported here.
"""

from typing import Any

import torch
from torch import nn

from prunus.lab.models.catalogue import MODELS, ArgumentError, check_arguments, model
from prunus.lab.models.lenet import LeNet, LeNet5, LeNet5Caffe
from prunus.lab.models.mlp import LeNet300100
from prunus.lab.models.resnet import ResNet

__all__ = [
    "MODELS",
    "ArgumentError",
    "LeNet",
    "LeNet5",
    "LeNet5Caffe",
    "LeNet300100",
    "ResNet",
    "create",
    "input_shape",
    "model",
    "names",
]


def create(name: str, **kwargs: Any) -> nn.Module:
    """Create a model by name, initialised from torch's global random state.

    Args:
        name: a name of `names`.
        **kwargs: the arguments of that model's function; every model takes `num_classes`, `in_channels` and
            `image_size` (the height and width of its images in pixels).

    Raises:
        ValueError: the name or an argument is unknown, or a value does not fit the model.

    >>> sum(parameter.numel() for parameter in create("lenet").parameters())
    160206
    """
    factory = MODELS[name]
    check_arguments(name, factory, kwargs)
    return factory(**kwargs)


def names() -> list[str]:
    """Return the names of all models, sorted.

    >>> "lenet" in names()
    True
    """
    return sorted(MODELS)


def input_shape(name: str, **kwargs: Any) -> tuple[int, int, int]:
    """Return the (channels, height, width) of one image for the model that `create` returns for these arguments.

    Raises:
        ValueError: as `create`.

    >>> input_shape("lenet")
    (1, 28, 28)
    """
    with torch.device("meta"):  # checks as `create`, without memory and random numbers
        create(name, **kwargs)
    settings = check_arguments(name, MODELS[name], kwargs)
    return settings["in_channels"], settings["image_size"], settings["image_size"]
