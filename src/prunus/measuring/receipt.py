"""The Receipt: everything that was measured, stored as JSON; tables and figures are made from it.

A receipt can't contradict itself: each part checks its figures when it is created (at most as many nonzero weights as
weights, an accuracy that equals its quotient, an interval that contains its value). So a wrong figure is an error where
it arises, and an edited or damaged file is an error when it is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from prunus import files
from prunus.errors import ReceiptError
from prunus.files import strict_json
from prunus.machine import Machine
from prunus.measuring.changes import Changes
from prunus.measuring.consistency import at_most, between, close, counts, interval, require, unique
from prunus.measuring.times import BreakEven, BreakEvenPoint, Latency

__all__ = [
    "Accuracy",
    "BreakEven",
    "BreakEvenPoint",
    "Changes",
    "Check",
    "DataFacts",
    "Latency",
    "LayerFacts",
    "ModelFacts",
    "PairedTest",
    "Receipt",
    "ReceiptError",
]

SCHEMA = 1


@dataclass(frozen=True)
class DataFacts:
    """The data: sizes count images, the checksum is the SHA-256 of the uncompressed files."""

    name: str
    source: str
    train: int
    validation: int
    test: int
    checksum: str

    def __post_init__(self) -> None:
        counts(self, "train", "validation", "test")


@dataclass(frozen=True)
class LayerFacts:
    """One parameter: `macs` counts multiply-adds for one sample, None if they can't be counted."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    nonzero: int
    sparsity: float
    macs: int | None = None
    nonzero_macs: int | None = None

    def __post_init__(self) -> None:
        _check_sparsity(self)
        _check_macs(self)
        require(math.prod(self.shape) == self.parameters, f"shape {self.shape} must hold {self.parameters} parameters")


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on one data set: `ci95` is Wilson's interval for top1, `per_class` the accuracy of each class.

    A class without images in the set has None. `nll` is the mean negative log-likelihood in nats, `ece` the expected
    calibration error over 15 equal-width bins.
    """

    top1: float
    correct: int
    total: int
    ci95: tuple[float, float]
    per_class: tuple[float | None, ...]
    nll: float
    ece: float

    def __post_init__(self) -> None:
        counts(self, "total", least=1)
        counts(self, "correct")
        at_most("correct", self.correct, "total", self.total)
        close("top1", self.top1, "correct / total", self.correct / self.total)
        between("ece", self.ece, 0, 1)
        interval("top1", self.top1, self.ci95, 0, 1)
        require(self.nll >= 0, f"nll must be at least 0, got {self.nll}")
        for index, value in enumerate(self.per_class):
            if value is not None:
                between(f"per_class[{index}]", value, 0, 1)


@dataclass(frozen=True)
class Embedded:
    """Bytes of a model in C on a microcontroller: constants in flash (without the code), and buffers in RAM."""

    flash_bytes: int
    ram_bytes: int

    def __post_init__(self) -> None:
        counts(self, "flash_bytes", "ram_bytes")


@dataclass(frozen=True)
class ModelFacts:
    """The figures of one model; a figure that does not apply or was not measured is None or empty.

    `layers` lists the parameters of two or more dimensions; the others (biases, norms) are in the totals. Tied
    weights count once. `sparsity` is the fraction of zeros among all parameters. `macs` and `nonzero_macs` also
    count products without a parameter, such as attention scores, but not the operations in `uncounted`. `bytes` maps a
    format (safetensors, gzip, zstd) to a size; `latency_us` maps runtime -> threads -> batch.
    `peak_memory_bytes` is that of one forward of the largest batch, without the model and its inputs. `embedded` is the
    size of its exported C with weights in float32. `notes` says what was left out and why.
    """

    name: str
    parameters: int
    nonzero: int
    sparsity: float
    layers: tuple[LayerFacts, ...]
    macs: int | None = None
    nonzero_macs: int | None = None
    uncounted: tuple[str, ...] = ()
    bytes: dict[str, int] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    latency_us: dict[str, dict[str, dict[str, Latency]]] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    embedded: Embedded | None = field(default=None, metadata=strict_json.MAY_LACK)

    def __post_init__(self) -> None:
        _check_sparsity(self)
        _check_macs(self)
        counts(self, "peak_memory_bytes")
        require(self.seconds is None or self.seconds >= 0, f"seconds must be at least 0, got {self.seconds}")
        unique("layers", [layer.name for layer in self.layers])
        for name in ("parameters", "nonzero", "macs", "nonzero_macs"):
            in_layers = sum(getattr(layer, name) or 0 for layer in self.layers)
            at_most(f"{name} of the layers", in_layers, name, getattr(self, name) or 0)
        for name, size in self.bytes.items():
            require(size >= 0, f"bytes[{name!r}] must be at least 0, got {size}")

    def __str__(self) -> str:
        from prunus.measuring.overview import of_model

        return str(of_model(self))


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same test images: McNemar's exact test on the images that only one of them got right.

    `difference` is the accuracy of `second` minus that of `first`, `ci95` its interval.
    """

    first: str
    second: str
    only_first: int
    only_second: int
    difference: float
    ci95: tuple[float, float]
    p_value: float

    def __post_init__(self) -> None:
        counts(self, "only_first", "only_second")
        between("p_value", self.p_value, 0, 1)
        interval("difference", self.difference, self.ci95, -1, 1)
        same_sign = self.difference * (self.only_second - self.only_first) > 0
        require(
            same_sign or self.difference == 0 == self.only_second - self.only_first,
            f"difference {self.difference} must have the sign of only_second - only_first",
        )


@dataclass(frozen=True)
class Check:
    """A claim about the run: the measured value, its limit, and whether it passed."""

    name: str
    what: str
    value: float
    limit: float
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Everything measured in one run; `models` is in the order of the run's stages.

    `recipe` is plain JSON, empty if models were compared without one; `device` is the type of the models' device.
    `break_even` is None if it was not requested, or the model can't be compiled.
    """

    prunus: str
    torch: str
    machine: Machine
    models: tuple[ModelFacts, ...]
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_hash: str = ""
    seed: int = 0
    device: str = "cpu"
    data: DataFacts | None = None
    comparisons: tuple[PairedTest, ...] = ()
    changes: tuple[Changes, ...] = field(default=(), metadata=strict_json.MAY_LACK)
    checks: tuple[Check, ...] = ()
    controls: tuple[ModelFacts, ...] = ()
    break_even: BreakEven | None = field(default=None, metadata=strict_json.MAY_LACK)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        require(self.schema == SCHEMA, f"schema must be {SCHEMA}, got {self.schema!r}")
        counts(self.machine, "cores", "threads", "memory_bytes", least=1, where="machine: ")
        names = [facts.name for facts in (*self.models, *self.controls)]
        unique("models and controls", names)
        pairs = [(test.first, test.second) for test in self.comparisons]
        for pair in (*pairs, *((change.first, change.second) for change in self.changes)):
            for name in pair:
                require(name in names, f"comparisons name {name!r}, which is none of {', '.join(names)}")

    def __str__(self) -> str:
        from prunus.measuring.overview import MAX_ROWS, overview

        return "\n\n".join(str(table.first(MAX_ROWS)) for table in overview(self))

    def to_json(self) -> str:
        """Return the receipt as JSON text, from which `from_json` makes an equal one.

        Raises:
            ReceiptError: a field holds a value that JSON can't represent, such as NaN; the message names the field.
        """
        try:
            return strict_json.dumps(self)
        except strict_json.FieldError as error:
            raise ReceiptError(f"the receipt can't be written: {error}") from error

    @classmethod
    def from_json(cls, text: str, origin: str = "the receipt") -> Self:
        """Read a receipt from JSON text; `origin` names it in errors.

        Raises:
            ReceiptError: the text is damaged, of another schema, or contradicts itself; the message names the field.
        """
        try:
            tree = strict_json.parse(text)
            if isinstance(tree, dict) and tree.get("schema", SCHEMA) != SCHEMA:
                raise ReceiptError(
                    f"{origin} has schema {tree['schema']!r}, this prunus reads schema {SCHEMA}: "
                    "read it with the version of prunus that wrote it"
                )
            receipt: Self = strict_json.build(cls, tree)
        except (strict_json.FieldError, RecursionError) as error:
            raise ReceiptError(f"{origin} can't be read: {error}") from error
        return receipt

    def save(self, path: Path | str) -> None:
        """Write the receipt as JSON, whole or not at all; errors as `to_json`."""
        files.write_text(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a receipt that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ReceiptError: the file is damaged, of another schema, or contradicts itself.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no receipt at {str(path)!r}; expected a receipt.json")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ReceiptError(f"receipt {str(path)!r} can't be read: not UTF-8 text ({error})") from error
        return cls.from_json(text, f"receipt {str(path)!r}")


def _check_sparsity(facts: LayerFacts | ModelFacts) -> None:
    counts(facts, "nonzero")
    at_most("nonzero", facts.nonzero, "parameters", facts.parameters)
    expected = 1 - facts.nonzero / facts.parameters if facts.parameters else 0.0
    close("sparsity", facts.sparsity, "1 - nonzero / parameters", expected)


def _check_macs(facts: LayerFacts | ModelFacts) -> None:
    counts(facts, "nonzero_macs")
    require((facts.macs is None) == (facts.nonzero_macs is None), "macs and nonzero_macs must come together")
    if facts.macs is not None and facts.nonzero_macs is not None:
        at_most("nonzero_macs", facts.nonzero_macs, "macs", facts.macs)
