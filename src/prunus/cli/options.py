"""The options that several commands share, each written once; cyclopts takes their help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter, Token


def _numbers(_: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    text = tokens[-1].value
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"it takes whole numbers above 0 with commas between them, such as 1,28,28; got {text!r}")
    return tuple(map(int, parts))


def _names(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(name.strip() for name in tokens[-1].value.split(","))


def _sparsity(_: Any, tokens: Sequence[Token]) -> float | str | dict[str, float]:
    text = tokens[-1].value
    if text[:1].isdigit() and text[-1:].isalpha() and "=" not in text:  # a target, such as "200 kB"
        return text
    pairs = [part.strip().rpartition("=") for part in text.split(",")] if "=" in text else [("", "", text)]
    try:
        fractions = {layer: float(number) for layer, _, number in pairs}
    except ValueError:
        fractions = {}
    if len(fractions) < len(pairs) or ("=" in text and "" in fractions):
        raise ValueError(f"it takes a number in [0, 1), or LAYER=S,LAYER=S with each layer once; got {text!r}")
    return fractions if "=" in text else fractions[""]


def _json_file(_: Any, tokens: Sequence[Token]) -> Path:
    text = tokens[-1].value
    if text.startswith("--"):
        raise ValueError(f"it takes a file, or - for the standard output; got {text!r}")
    return Path(text)


File: TypeAlias = Annotated[Path, Parameter(metavar="FILE")]
Folder: TypeAlias = Annotated[Path, Parameter(metavar="DIR")]
Name: TypeAlias = Annotated[str, Parameter(metavar="NAME")]
Layers: TypeAlias = Annotated[tuple[str, ...], Parameter(metavar="LAYER")]
Numbers: TypeAlias = Annotated[tuple[int, ...], Parameter(converter=_numbers, n_tokens=1, metavar="N,N,...")]
Names: TypeAlias = Annotated[tuple[str, ...], Parameter(converter=_names, n_tokens=1, metavar="NAME,NAME,...")]
Sparsity: TypeAlias = Annotated[
    float | str | dict[str, float], Parameter(converter=_sparsity, n_tokens=1, metavar="S", accepts_keys=False)
]
Force: TypeAlias = Annotated[bool, Parameter(help="Replace files that are there already.")]
Json: TypeAlias = Annotated[
    Path | None,
    Parameter(
        converter=_json_file,
        allow_leading_hyphen=True,
        metavar="FILE",
        help="Write the result as JSON too; with - print the JSON instead.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which weights go.

    Attributes:
        pattern: What is removed together; see 'prunus ls patterns'. With options: channel:round_to=8,budget=macs.
        scope: How the sparsity is spread over the layers; see 'prunus ls scopes'. With options: global:min_kept=16.
        include: Prune only this: a parameter, a module, a pattern such as 'encoder.*', or a class such as Linear.
            Repeatable.
        exclude: Leave this alone, named likewise. Repeatable.
    """

    pattern: Name = "unstructured"
    scope: Name = "global"
    include: Layers = ()
    exclude: Layers = ()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Scored(Choice):
    """Which weights go, by their scores.

    Attributes:
        criterion: How much a weight matters; see 'prunus ls criteria'. With options: random:seed=3.
    """

    criterion: Name = "magnitude"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Channels(Choice):
    """Which channels go."""

    pattern: Name = "channel"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Timing:
    """How models are measured.

    Attributes:
        batch_sizes: Batch sizes to time; peak memory is that of the largest.
        threads: Numbers of threads to time; otherwise one, and all cores.
        runtimes: What to time in: torch, torch-compile, onnxruntime, openvino, prunus, or all that are installed.
        no_latency: Time nothing; the rest takes seconds.
        device: Where the models run, such as cpu, cuda or mps.
    """

    batch_sizes: Numbers = (1, 64)
    threads: Numbers | None = None
    runtimes: Names = ("torch",)
    no_latency: bool = False
    device: Name = "cpu"
