"""The models that commands work on: made by a factory, with weights from a file, on a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Subject:
    """What one name on the command line stands for.

    Attributes:
        name: what tables call it.
        source: what makes the model: a name of `prunus.models` or ``package.module:factory``.
        weights: the file its weights come from; None leaves them as the factory made them.
    """

    name: str
    source: str
    weights: Path | None


def parse(item: str, source: str | None) -> Subject:
    """Read FILE, MODEL or MODEL=FILE; a FILE alone is of the model that `source` makes.

    Raises:
        ValueError: it is a file, and `source` is None.
    """
    if _is_file(item):
        if source is None:
            raise ValueError(
                f"{item!r} holds weights but not the model they are of; say which with --model, or write MODEL={item}"
            )
        return Subject(Path(item).stem, source, Path(item))
    model, equals, weights = item.partition("=")
    if equals and weights:
        return Subject(Path(weights).stem, model, Path(weights))
    return Subject(item, item, None)


def _is_file(item: str) -> bool:
    return Path(item).is_file() or ("=" not in item and Path(item).suffix in (".safetensors", ".pt", ".pth", ".bin"))


def distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """Give subjects of the same name their whole paths as names.

    Raises:
        ValueError: two are the same.
    """
    names = [subject.name for subject in subjects]
    told = [s if names.count(s.name) == 1 else replace(s, name=str(s.weights or s.source)) for s in subjects]
    if len({subject.name for subject in told}) < len(told):
        raise ValueError(f"the same is given twice: {', '.join(subject.name for subject in told)}")
    return told


def make(source: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Make a model; what its factory draws at random is the same each time."""
    import torch

    from prunus import factory

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return factory.create(source, arguments)


def load(subject: Subject, arguments: Mapping[str, Any], device: str = "cpu") -> nn.Module:
    """Make a subject's model, load its weights, and put it on a device.

    Raises:
        ValueError: it can't be made, its weights don't fit, or there is no such device.
    """
    from prunus import checkpoints

    place = _device(device)
    model = make(subject.source, arguments)
    if subject.weights is not None:
        checkpoints.load_into(model, checkpoints.read(subject.weights))
    return model.to(place)


def example_inputs(
    shape: str | None, sources: Iterable[str], arguments: Mapping[str, Any], model: nn.Module
) -> Tensor | None:
    """Return one random input, on the model's device and in its dtype; None where no shape is known.

    Args:
        shape: as the user wrote it; None takes that of the first source which is a name of `prunus.models`.
        sources: what makes the models that are to run on it.
        arguments: what they are made with.
        model: one of them.
    """
    import torch

    from prunus import models

    if shape is not None:
        size = whole_numbers(shape, "--shape")
    else:
        known = next((source for source in sources if source in models.MODELS), None)
        if known is None:
            return None
        size = models.input_shape(known, **arguments)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    inputs = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    return inputs.to(like.device, like.dtype)


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Read numbers with commas between them.

    >>> whole_numbers("1,28,28", "--shape")
    (1, 28, 28)
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(
            f"{option} takes whole numbers above 0 with commas between them, such as 1,28,28; got {text!r}"
        )
    return tuple(int(part) for part in parts)


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} can't be used here: {str(error).splitlines()[0]}") from error
    return device
