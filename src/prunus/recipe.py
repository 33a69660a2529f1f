"""What a run is: fields, checks, YAML, key=value overrides, hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prunus.registry import unknown_name

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSection(Section):
    """Which model: a name of `prunus.models` and the arguments it is made with."""

    name: str
    arguments: dict[str, Any] = {}


class DataSection(Section):
    """Which data: a name of `prunus.data`, what may stand in for it, and how training images are shifted."""

    name: str
    fallback: str | None = None
    shift: Annotated[int, Field(ge=0, le=8)] = 0


class TrainingSection(Section):
    """One training phase: `lr` is the peak of the schedule; `shift` and batches come from the data section."""

    epochs: Annotated[int, Field(ge=0)]
    batch_size: Positive = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    lr_schedule: Literal["one_cycle", "constant"] = "one_cycle"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    label_smoothing: Fraction = 0.0


class PruneSection(Section):
    """What is removed and how; `training` is the phase a gradual schedule runs along, None for one_shot."""

    sparsity: Fraction
    criterion: str = "magnitude"
    pattern: str = "unstructured"
    scope: str = "global"
    schedule: str = "one_shot"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    training: TrainingSection | None = None
    calibration_batches: Positive = 8

    @field_validator("sparsity", mode="before")
    @classmethod
    def _sparsity(cls, value: object) -> object:
        from prunus.method import check_sparsity

        return check_sparsity(value) if isinstance(value, (int, float)) else value

    @model_validator(mode="after")
    def _combination(self) -> Self:
        from prunus.method import check_method

        check_method(self.sparsity, self.criterion, self.pattern, self.scope, self.schedule)
        if (self.schedule == "one_shot") != (self.training is None):
            raise ValueError(
                f"schedule {self.schedule!r} with training {self.training!r}: one_shot prunes at once and takes "
                "no training; every other schedule needs a training section to run along"
            )
        return self


class MeasureSection(Section):
    """What is measured: latency per batch size and number of threads, and the sensitivity curve on validation images."""

    batch_sizes: tuple[Positive, ...] = (1, 64)
    threads: tuple[Positive, ...] = (1, 2)
    sensitivity: bool = True
    sensitivity_images: Positive = 1000


class Recipe(Section):
    """Everything that defines a run; loads from YAML; has a hash."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    description: str = ""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    devices: Positive = 1
    model: ModelSection
    data: DataSection
    train: TrainingSection
    prune: PruneSection
    finetune: TrainingSection
    measure: MeasureSection = MeasureSection()
    controls: bool = False

    @field_validator("seeds")
    @classmethod
    def _different_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds must differ from each other, got {list(seeds)}")
        return seeds

    @property
    def hash(self) -> str:
        """The first 16 hex digits of sha256 over the recipe's canonical JSON, its description left out."""
        return fingerprint(self.model_dump(mode="json", exclude={"description"}))

    def yaml(self) -> str:
        """Return the recipe as YAML that `load` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that change when a JSON-able value does.

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
        source: a name that `names` lists, or the path of a .yaml file.
        overrides: settings such as ``"prune.sparsity=0.9"`` or ``"seeds=[0,1,2]"``.

    Raises:
        FileNotFoundError: a path was given and there is no file.
        ValueError: the name is unknown, the YAML can't be read, or a setting is unknown or out of range.
    """
    text, origin = _read(source)
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{origin} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{origin} must hold a mapping of settings, got {type(tree).__name__}")
    return build(_override(tree, overrides), origin)


def build(tree: Mapping[str, Any], origin: str = "the recipe") -> Recipe:
    """Validate a mapping of settings into a Recipe; `origin` names it in errors.

    Raises:
        ValueError: a setting is unknown, missing or out of range; every problem is listed.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        problems = [_describe(dict(problem)) for problem in error.errors()]
        raise ValueError(f"{origin} can't be used:\n  " + "\n  ".join(problems)) from error


def _shipped() -> Any:
    return resources.files("prunus") / "recipes"


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if isinstance(source, Path) or path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise FileNotFoundError(f"no recipe file at {str(path)!r}; shipped recipes: {', '.join(names())}")
        return path.read_text(encoding="utf-8"), f"recipe {str(path)!r}"
    if source not in names():
        raise unknown_name("recipe", source, names())
    return (_shipped() / f"{source}.yaml").read_text(encoding="utf-8"), f"recipe {source!r}"


def _override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ValueError(f"override {override!r} is not of the form key=value, such as prune.sparsity=0.9")
    try:
        merged = OmegaConf.merge(OmegaConf.create(tree), OmegaConf.from_dotlist(list(overrides)))
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"the overrides {' '.join(overrides)} can't be applied: {error}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _describe(problem: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in problem["loc"][:-1]:
            section = _section_of(section, str(part))
        return str(unknown_name(f"setting (in {place})", problem["loc"][-1], section.model_fields))
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place or 'recipe'}: {message}" + (
        "" if problem["type"] == "value_error" else f", got {problem['input']!r}"
    )


def _section_of(section: Any, name: str) -> Any:
    annotation = section.model_fields[name].annotation
    candidates = getattr(annotation, "__args__", (annotation,))
    return next(item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel))
