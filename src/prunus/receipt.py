"""The Receipt: what was measured, as JSON on disk; tables and pictures are drawn from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on."""

    processor: str
    cores: int
    threads: int
    memory_bytes: int
    system: str
    accelerator: str | None = None


@dataclass(frozen=True)
class DataFacts:
    """Which data was used: sizes count images, the checksum is sha256 over the uncompressed files."""

    name: str
    source: str
    train: int
    validation: int
    test: int
    checksum: str


@dataclass(frozen=True)
class LayerFacts:
    """One parameter: `macs` counts multiply-adds for one sample, None where they can't be counted."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    nonzero: int
    sparsity: float
    macs: int | None = None
    nonzero_macs: int | None = None


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on one set: `ci95` is Wilson's interval for top1, `per_class` the accuracy of each class."""

    top1: float
    correct: int
    total: int
    ci95: tuple[float, float]
    per_class: tuple[float, ...]
    nll: float
    ece: float


@dataclass(frozen=True)
class Latency:
    """Microseconds a call took: median, 10th and 90th percentile over `runs` calls."""

    median: float
    p10: float
    p90: float
    runs: int


@dataclass(frozen=True)
class ModelFacts:
    """What was measured of one model; what does not apply, or was not measured, is None or empty.

    `bytes` maps a format (safetensors, gzip, zstd) to a size; `latency_us` maps runtime -> threads -> batch.
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


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same test images: McNemar's exact test on the images only one of them got right."""

    first: str
    second: str
    only_first: int
    only_second: int
    difference: float
    ci95: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Check:
    """A claim about the run with the value found, the limit it is held to, and whether it passed."""

    name: str
    what: str
    value: float
    limit: float
    passed: bool


@dataclass(frozen=True)
class Receipt:
    """Everything measured in one run; `models` is in the order of the road."""

    prunus: str
    torch: str
    machine: Machine
    recipe: dict[str, Any]
    recipe_hash: str
    seed: int
    data: DataFacts | None
    models: tuple[ModelFacts, ...]
    comparisons: tuple[PairedTest, ...] = ()
    checks: tuple[Check, ...] = ()
    controls: tuple[ModelFacts, ...] = ()
    schema: int = SCHEMA
