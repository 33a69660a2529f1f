"""The models that commands work on: what makes them, where their weights come from, and what they are run on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

import prunus
from prunus.cli import inputs
from prunus.cli.options import File, Numbers

if TYPE_CHECKING:
    import torch
    from torch import nn

    from prunus.graph import ExampleInputs


Packed: TypeAlias = Annotated[Path | None, Parameter(help="A .prunus file; otherwise give --model.")]


@dataclass(frozen=True)
class Subject:
    """What one name on the command line stands for.

    Attributes:
        name: what tables call it.
        source: what makes the model: a name of `prunus.models` or ``package.module:function``; None: the file tells.
        weights: the file its weights come from; None leaves them as the function made them.
    """

    name: str
    source: str | None
    weights: Path | None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Maker:
    """What makes a model.

    Attributes:
        model: What makes the model: a name that 'prunus ls models' lists, or package.module:function of your own,
            looked for in the current folder first.
        arg: An argument for what makes the model, such as num_classes=100. Repeatable.
    """

    model: Annotated[str | None, Parameter(metavar="MODEL")] = None
    arg: Annotated[tuple[str, ...], Parameter(metavar="KEY=VALUE")] = ()

    def arguments(self) -> dict[str, Any]:
        """Return what the model is made with."""
        from prunus.lab import factory

        return factory.parse_arguments(self.arg)

    def make(self, source: str) -> nn.Module:
        """Make a model; what its factory draws at random is the same each time."""
        import torch

        from prunus.lab import factory

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return factory.create(source, self.arguments())

    def words(self) -> list[str]:
        """Return these options as they are written in a command."""
        words = [] if self.model is None else ["--model", self.model]
        return words + [word for setting in self.arg for word in ("--arg", setting)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Source(Maker):
    """What makes a model, and what it is run on.

    Attributes:
        shape: The shape of one input, without the batch, such as 3,224,224. Models of prunus and .prunus files know
            their own.
        input: For models that take several inputs, or integers: one of them as [NAME=][TYPE:]SHAPE, without the batch,
            such as int64:128 or mask=bool:128. Repeatable, in the order the model takes them.
    """

    shape: Numbers | None = None
    input: Annotated[tuple[str, ...], Parameter(metavar="INPUT")] = ()

    def inputs(self, subject: Subject, network: nn.Module) -> ExampleInputs:
        """Return random inputs for the model.

        Raises:
            ValueError: nothing tells what it takes; or as `example_inputs`.
        """
        example = example_inputs({subject: network}, self)
        if example is None:
            raise ValueError(
                "the model's graph is read off a run on an input; give the --shape of one for "
                f"{subject.source or str(subject.weights)!r}, or --input where it takes integers or several"
            )
        return example

    def words(self) -> list[str]:
        """Return these options as they are written in a command."""
        words = super().words()
        words += [] if self.shape is None else ["--shape", ",".join(map(str, self.shape))]
        return words + [word for text in self.input for word in ("--input", text)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class OneModel(Source):
    """The one model that a command works on, where it is not a .prunus file.

    Attributes:
        weights: The weights of --model, a .safetensors file; otherwise as the function made them.
    """

    weights: File | None = None

    def subject(self, file: Path | None) -> Subject:
        """Return the model's source: the .prunus file, or --model, perhaps with --weights.

        Raises:
            ValueError: both are given, or neither.
        """
        if file is None:
            if self.model is None:
                raise ValueError("there is no model; give a .prunus file, or --model with --weights")
            return Subject(self.weights.stem if self.weights else self.model, self.model, self.weights)
        if not is_packed(file):
            advice = f"--model MODEL --weights {file}" if file.is_file() else f"--model {file}"
            raise ValueError(f"{str(file)!r} is not named as a .prunus file is; did you mean {advice}?")
        if self.model is not None or self.weights is not None or self.arg:
            raise ValueError(f"{str(file)!r} tells its model itself; leave out --model, --weights and --arg")
        return Subject(file.stem, None, file)

    def load(self, file: Path | None) -> tuple[Subject, nn.Module]:
        """Make the model and load its weights.

        Raises:
            ValueError: as `subject` and `load`.
        """
        subject = self.subject(file)
        return subject, load(subject, self)

    def load_trained(self, file: Path | None) -> tuple[Subject, nn.Module]:
        """Do what `load` does, but refuse a model of prunus without weights: its own are random numbers."""
        if file is None and self.weights is None and self.model in prunus.models.MODELS:
            raise ValueError(f"{self.model!r} is made with random weights; give the trained ones with --weights FILE")
        return self.load(file)


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


def holds_program(file: Path) -> bool:
    """Tell whether a file is there that `Program.save` wrote."""
    from prunus import files

    with contextlib.suppress(ValueError):
        return file.is_file() and not is_packed(file) and "program" in files.load_metadata(file)
    return False


def _is_file(item: str) -> bool:
    return Path(item).is_file() or ("=" not in item and Path(item).suffix in (".safetensors", ".pt", ".pth", ".bin"))


def distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """Give subjects of the same name their whole paths as names.

    Raises:
        ValueError: two are the same.
    """
    names = [subject.name for subject in subjects]
    renamed = [s if names.count(s.name) == 1 else replace(s, name=str(s.weights or s.source)) for s in subjects]
    if len({subject.name for subject in renamed}) < len(renamed):
        raise ValueError(f"the same is given twice: {', '.join(subject.name for subject in renamed)}")
    return renamed


def load(subject: Subject, source: Source, device: str = "cpu") -> nn.Module:
    """Make a subject's model, load its weights, and put it on a device.

    Raises:
        ValueError: it can't be made, its weights don't fit, its file is damaged, or there is no such device.
    """
    from prunus.packing import checkpoints

    place = _device(device)
    if subject.source is None:
        assert subject.weights is not None
        return prunus.packing.load(subject.weights).to(place)
    model = source.make(subject.source)
    if subject.weights is not None and is_packed(subject.weights):
        prunus.packing.load(subject.weights, model)
    elif subject.weights is not None:
        checkpoints.load_into(model, checkpoints.read(subject.weights))
    return model.to(place)


def example_inputs(models: Mapping[Subject, nn.Module], source: Source) -> ExampleInputs | None:
    """Return random inputs, on the models' device: those that the user describes, else those of the first that knows.

    Args:
        models: what is to run on them.
        source: what the user says.

    Returns:
        A batch of one or two; None where nobody knows what the models take.

    Raises:
        ValueError: the user describes them in two ways, wrongly, or with the batch.
    """
    first = next(iter(models.values()))
    if source.shape is not None and source.input:
        raise ValueError("--shape and --input both describe the inputs; give one of them")
    if source.shape is not None:
        return inputs.checked(first, inputs.of_shape(source.shape, first), source.shape)
    if source.input:
        return inputs.described(source.input, first)
    known = (_own_inputs(subject, model, source) for subject, model in models.items())
    return next((example for example in known if example is not None), None)


def _own_inputs(subject: Subject, model: nn.Module, source: Source) -> ExampleInputs | None:
    """Return inputs for a model of prunus or one from a .prunus file; None for others."""
    from prunus import exporting

    if subject.source is not None and subject.source in prunus.models.MODELS:
        return inputs.of_shape(prunus.models.input_shape(subject.source, **source.arguments()), model)
    return exporting.inputs_of(model)


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} can't be used here: {str(error).splitlines()[0]}") from error
    return device
