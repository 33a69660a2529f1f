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
        source: what makes the model: a name of `prunus.models` or ``package.module:factory``; None: the file tells.
        weights: the file its weights come from; None leaves them as the factory made them.
    """

    name: str
    source: str | None
    weights: Path | None


def parse(item: str, source: str | None) -> Subject:
    """Read FILE, MODEL or MODEL=FILE; a FILE alone is of the model that `source` makes, a .prunus FILE tells its own.

    Raises:
        ValueError: it is a file of weights, and `source` is None.
    """
    if is_packed(item) and (Path(item).is_file() or "=" not in item):
        return Subject(Path(item).stem, None, Path(item))
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


def is_packed(item: str | Path) -> bool:
    """Tell whether a file is named as packed models are."""
    return Path(item).suffix == ".prunus"


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

    from prunus.lab import factory

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return factory.create(source, arguments)


def load(subject: Subject, arguments: Mapping[str, Any], device: str = "cpu") -> nn.Module:
    """Make a subject's model, load its weights, and put it on a device.

    Raises:
        ValueError: it can't be made, its weights don't fit, its file is damaged, or there is no such device.
    """
    from prunus import packing as pack
    from prunus.packing import checkpoints

    place = _device(device)
    if subject.source is None:
        assert subject.weights is not None
        return pack.load(subject.weights).to(place)
    model = make(subject.source, arguments)
    if subject.weights is not None and is_packed(subject.weights):
        pack.load(subject.weights, model)
    elif subject.weights is not None:
        checkpoints.load_into(model, checkpoints.read(subject.weights))
    return model.to(place)


def named(packed: Path | None, source: str | None, weights: Path | None, settings: Sequence[str]) -> Subject:
    """Return the one model that a command works on: a .prunus FILE, or --model, perhaps with --weights.

    Raises:
        ValueError: both are given, or neither.
    """
    if packed is None:
        if source is None:
            raise ValueError("there is no model; give a .prunus file, or --model with --weights")
        return Subject(weights.stem if weights else source, source, weights)
    if not is_packed(packed):
        raise ValueError(
            f"{str(packed)!r} is not named as a .prunus file is; weights go with their model: --model MODEL "
            f"--weights {packed}"
        )
    if source is not None or weights is not None or settings:
        raise ValueError(f"{str(packed)!r} tells its model itself; leave out --model, --weights and --arg")
    return Subject(packed.stem, None, packed)


def example_inputs(
    shape: str | None,
    sources: Iterable[str | None],
    arguments: Mapping[str, Any],
    model: nn.Module,
    packed: Path | None = None,
) -> Tensor | None:
    """Return one random input, on the model's device and in its dtype; None where no shape is known.

    Args:
        shape: as the user wrote it; None takes that of the first source which is a name of `prunus.models`.
        sources: what makes the models that are to run on it.
        arguments: what they are made with.
        model: one of them.
        packed: the .prunus file it is from, which may tell the shape.
    """
    import torch

    from prunus.lab import models

    known = next((source for source in sources if source in models.MODELS), None)
    if shape is not None:
        size: tuple[int, ...] | None = whole_numbers(shape, "--shape")
    elif known is not None:
        size = models.input_shape(known, **arguments)
    else:
        size = _told_shape(model)
    if size is None:
        return None
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    inputs = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    return inputs.to(like.device, like.dtype)


def _told_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of one input that a .prunus file tells of; None where it tells none, or several, or integers."""
    from prunus.graph.exported import ExportedModule

    if not isinstance(model, ExportedModule):
        return None
    inputs = model.signature.inputs
    sizes = (inputs[0].example or inputs[0].shape)[1:] if len(inputs) == 1 and inputs[0].dtype in _floats() else ()
    return tuple(map(int, sizes)) if sizes and all(isinstance(size, int) for size in sizes) else None


def _floats() -> tuple[torch.dtype, ...]:
    import torch

    return torch.float16, torch.bfloat16, torch.float32, torch.float64


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
