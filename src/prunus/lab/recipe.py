"""Recipes: the settings of a run, their checks, YAML, key=value overrides, hash."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

import torch
from torch import nn

from prunus.extras import require
from prunus.lab import settings
from prunus.pruning import options
from prunus.pruning.by_layer import prunable
from prunus.pruning.finding import check_reachable
from prunus.pruning.method import Method, check_method, check_sparsity
from prunus.pruning.patterns import Channels
from prunus.pruning.schedules import SCHEDULES
from prunus.registry import UnknownNameError, unknown_name

require("pydantic", "reading recipes")  # otherwise the import below would fail without naming the extra

from pydantic import (  # noqa: E402
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from prunus.lab.validation import problems, shown  # noqa: E402

# Strict: YAML distinguishes numbers, text and booleans, so a value of another type is a mistake.
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Positive = Annotated[int, Field(strict=True, ge=1)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
Flag = Annotated[bool, Field(strict=True)]

# A single selector may be written without a list.
Selectors = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


def _entry(value: object) -> object:
    """Convert an entry with options, `{channel: {round_to: 8}}`, to text."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, entry_options),) = value.items()
        if isinstance(name, str) and isinstance(entry_options, dict):
            return options.join(name, entry_options)
    return value


# An entry of an axis: criterion, pattern, scope or schedule.
Entry = Annotated[str, BeforeValidator(_entry)]


class Section(BaseModel):
    """A part of a recipe: immutable, and without unknown settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSection(Section):
    """The model: a name of `prunus.models` and arguments."""

    name: str
    arguments: dict[str, Any] = {}

    @model_validator(mode="after")
    def _known(self) -> Self:
        self.make()
        return self

    def make(self) -> nn.Module:
        """Create the model, initialised from torch's global random state, which does not change.

        Raises:
            ValueError: there is no such model, or it does not take these arguments.
        """
        from prunus.lab import models

        with torch.random.fork_rng(devices=[]):
            try:
                return models.create(self.name, **self.arguments)
            except TypeError as error:
                raise ValueError(f"model {self.name!r} can't be made with {self.arguments}: {error}") from error


class DataSection(Section):
    """The data: a name of `prunus.data`, a fallback if it is unavailable, and the shift of training images."""

    name: str
    fallback: str | None = None
    shift: Annotated[int, Field(strict=True, ge=0, le=8)] = 0

    @field_validator("name", "fallback")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        from prunus.lab import data

        if name is not None and name not in data.names():
            raise unknown_name("dataset", name, data.names())
        return name


class TrainingSection(Section):
    """One training phase; `lr` is the peak of the schedule. The shift of images is in the data section."""

    epochs: Annotated[int, Field(strict=True, ge=0)]
    batch_size: Positive = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(strict=True, gt=0)] = 0.1
    lr_schedule: Literal["one_cycle", "constant"] = "one_cycle"
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(strict=True, ge=0)] = 5e-4
    label_smoothing: Fraction = 0.0


class PruneSection(Section):
    """What is removed and how; `training` is the phase during which a gradual schedule prunes, None for one_shot.

    An entry of an axis is a name, or a name with options: ``pattern: {channel: {round_to: 8, budget: macs}}``.
    """

    sparsity: Fraction
    criterion: Entry = "magnitude"
    pattern: Entry = "unstructured"
    scope: Entry = "global"
    schedule: Entry = "one_shot"
    include: Selectors = ()
    exclude: Selectors = ()
    training: TrainingSection | None = None
    calibration_batches: Positive = 8

    @field_validator("sparsity", mode="before")
    @classmethod
    def _sparsity(cls, value: object) -> object:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return check_sparsity(value) if number else value

    @model_validator(mode="after")
    def _combination(self) -> Self:
        self.method()
        at_once = options.split(self.schedule)[0] == "one_shot"
        if at_once and self.training is not None:
            raise ValueError(
                "schedule one_shot prunes at once and takes no training: leave training out, or choose a schedule that "
                f"runs along it ({', '.join(name for name in SCHEDULES if name != 'one_shot')})"
            )
        if not at_once and (self.training is None or self.training.epochs == 0):
            raise ValueError(
                f"schedule {self.schedule} prunes while the model trains: give it a training section of at least one "
                "epoch, such as training: {epochs: 3}"
            )
        return self

    def method(self) -> Method:
        """Return the entries of the axes.

        Raises:
            ValueError: a name is unknown, or the entries can't be combined.
        """
        return check_method(self.sparsity, self.criterion, self.pattern, self.scope, self.schedule)

    @property
    def channels(self) -> Channels | None:
        """The pattern if it removes whole channels, which needs the model's graph; otherwise None."""
        pattern = self.method().pattern
        return pattern if isinstance(pattern, Channels) else None


class PackSection(Section):
    """How the result is packed: losslessly, or with at most ``2 ** codebook_bits`` values for a layer's weights."""

    codebook_bits: Annotated[int, Field(strict=True, ge=1, le=8)] | None = None


class QuantizeSection(Section):
    """How scales for 8 bits are found: on so many training images, see `prunus.quantize`."""

    samples: Annotated[int, Field(strict=True, ge=8)] = 256
    ranges: Literal["mse", "minmax", "percentile"] = "mse"
    activations: Literal["uint8", "int8"] = "uint8"


RuntimeName: TypeAlias = Literal[
    "torch", "torch-compile", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8", "prunus", "prunus-int8"
]


class MeasureSection(Section):
    """What is measured: latency per runtime, batch size and threads; the sensitivity curve on validation data.

    A runtime that can't run a model is left out, and the receipt says so; `break_even`: see `measuring.break_even`.
    """

    runtimes: tuple[RuntimeName, ...] = get_args(RuntimeName)
    batch_sizes: tuple[Positive, ...] = (1, 64)
    threads: tuple[Positive, ...] = (1, 2)
    sensitivity: Flag = True
    sensitivity_images: Positive = 1000
    break_even: Flag = False

    @field_validator("runtimes")
    @classmethod
    def _some_runtime(cls, runtimes: tuple[str, ...]) -> tuple[str, ...]:
        if not runtimes:
            raise ValueError(f"give at least one of {', '.join(get_args(RuntimeName))}, got []")
        return runtimes


class Recipe(Section):
    """Everything that defines a run; loads from YAML; has a hash."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    description: str = ""
    seeds: tuple[Seed, ...] = (0,)
    devices: Positive = 1
    model: ModelSection
    data: DataSection
    train: TrainingSection
    prune: PruneSection
    finetune: TrainingSection
    quantize: QuantizeSection | None = None
    pack: PackSection = PackSection()
    measure: MeasureSection = MeasureSection()
    controls: Flag = False

    @field_validator("seeds")
    @classmethod
    def _different_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError(f"give one or more seeds that differ from each other, got {list(seeds)}")
        return seeds

    @model_validator(mode="after")
    def _prunable(self) -> Self:
        """Check before training that the model can be pruned like this: 2:4 of 3 inputs, for example, can't."""
        section = self.prune
        try:
            if section.channels:
                _check_channels(self.model.model_dump_json(), section.model_dump_json())
            else:
                method = section.method()
                targets = prunable(self.model.make(), method.pattern, section.include, section.exclude)
                check_reachable(targets, method, None)
        except ValueError as error:
            raise ValueError(f"model {self.model.name!r} can't be pruned like this: {error}") from error
        return self

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of the recipe's canonical JSON, without its description."""
        return fingerprint(self.model_dump(mode="json", exclude={"description"}))

    def yaml(self) -> str:
        """Return the recipe as YAML, from which `load` makes an equal one."""
        return settings.dump(self.model_dump(mode="json"))


@functools.lru_cache(maxsize=8)  # tracing takes seconds, and a run reads its recipe more than once
def _check_channels(model: str, section: str) -> None:
    """Check that whole channels can be removed like this; both sections are JSON, which can be cached.

    Raises:
        ValueError: the sparsity can't be reached, or the model can't be traced.
    """
    from prunus.lab import models
    from prunus.pruning.channels import ChannelFamilies

    network, prune = ModelSection.model_validate_json(model), PruneSection.model_validate_json(section)
    example = torch.zeros(1, *models.input_shape(network.name, **network.arguments))
    method = prune.method()
    assert isinstance(method.pattern, Channels)
    families = ChannelFamilies(
        network.make(),
        example,
        include=prune.include,
        exclude=prune.exclude,
        pattern=method.pattern,
        min_kept=method.scope.min_kept,
    )
    families.check(prune.sparsity)


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that identify a JSON value.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def names() -> list[str]:
    """Return the names of the recipes that come with prunus."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _shipped().iterdir() if entry.name.endswith(".yaml"))


def load(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by name or from a YAML file, with ``key=value`` overrides.

    Args:
        source: a name of `names`, or the path of a .yaml file.
        overrides: settings such as ``"prune.sparsity=0.9"`` or ``"seeds=[0,1,2]"``.

    Raises:
        FileNotFoundError: there is no file of that path.
        ValueError: the name is unknown, the YAML can't be read, or a setting is unknown or out of range.
    """
    text, origin = _read(source)
    tree = settings.parse(text, origin)
    if not isinstance(tree, dict):
        raise ValueError(f"{origin} must hold settings such as 'name: lenet', got {shown(tree)}")
    return build(settings.override(tree, overrides), origin)


def build(tree: Mapping[str, Any], origin: str = "the recipe") -> Recipe:
    """Validate a mapping of settings into a Recipe; `origin` names it in errors.

    Raises:
        ValueError: a setting is unknown, missing or out of range; every problem is listed.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{origin} can't be used:\n  " + "\n  ".join(problems(error, Recipe))) from error


def _shipped() -> Any:
    return resources.files("prunus.lab") / "recipes"


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if isinstance(source, Path) or path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise FileNotFoundError(f"no recipe file at {str(path)!r}; shipped recipes: {', '.join(names())}")
        try:
            return path.read_text(encoding="utf-8-sig"), f"recipe {str(path)!r}"
        except UnicodeDecodeError as error:
            raise ValueError(f"recipe {str(path)!r} is not a text file in UTF-8 ({error})") from error
    if source not in names():
        raise UnknownNameError(f"{unknown_name('recipe', source, names())}; a file's name ends in .yaml")
    return (_shipped() / f"{source}.yaml").read_text(encoding="utf-8"), f"recipe {source!r}"
