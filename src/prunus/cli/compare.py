"""`prunus measure` and `prunus compare`: what models cost, one by itself or several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import prunus
from prunus.cli import subjects, terminal
from prunus.cli.options import Json, Name, Timing
from prunus.cli.subjects import OneModel, Packed, Source, Subject

if TYPE_CHECKING:
    from torch import Tensor

# Images in a batch that is classified.
_AT_ONCE = 500


def measure(
    file: Packed = None, /, *, source: OneModel = OneModel(), timing: Timing = Timing(), json: Json = None
) -> None:
    """Measure a model: parameters, zeros, bytes, memory and time.

    For example:
      prunus measure --model lenet --weights runs/lenet/seed-0/pruned.safetensors
      prunus measure --model my_models:cnn --arg width=64 --shape 3,32,32
      prunus measure --model my_models:bert --input int64:128 --input bool:128
      prunus measure small.prunus
    """
    _measure([source.subject(file)], source, timing, json)


def compare(
    *item: Annotated[str, Parameter(required=True)],
    source: Source = Source(),
    timing: Timing = Timing(),
    data: Name | None = None,
    json: Json = None,
) -> None:
    """Compare models and checkpoints, side by side.

    Parameters, zeros, multiply-adds, bytes, memory and the time of a call. The models take turns while they are
    timed, so that what slows the machine down slows all of them.

    For example:
      prunus compare dense.safetensors pruned.safetensors --model lenet
      prunus compare dense.safetensors small.prunus --model lenet
      prunus compare lenet lenet5 resnet20 --arg in_channels=1
      prunus compare my_models:large my_models:small=s.safetensors --shape 3,32,32
      prunus compare lenet lenet5 --runtimes torch,onnxruntime
      prunus compare dense.safetensors small.prunus --model lenet \\
          --runtimes all --threads 1
      prunus compare dense.safetensors pruned.safetensors --model lenet --data mnist

    Args:
        data: A data set that 'prunus ls data' lists: its test images are classified, for accuracies, their difference
            to the first model's, and which answers changed.
        item: What to compare: FILE.safetensors (weights of --model), FILE.prunus, MODEL, or MODEL=FILE.safetensors.
    """
    chosen = subjects.distinct([subjects.parse(text, source.model) for text in item])
    if source.arg and not any(subject.source for subject in chosen):
        raise ValueError(f"--arg is for what makes a model, and .prunus files tell theirs; got {source.arg[0]}")
    _measure(chosen, source, timing, json, data)


def _measure(
    chosen: Sequence[Subject], source: Source, timing: Timing, json: Path | None, data: str | None = None
) -> None:
    """Make the models, measure them, and print their receipt as tables, as JSON, or both."""
    from prunus.graph.samples import in_order

    models = {subject: subjects.load(subject, source, timing.device) for subject in chosen}
    inputs = subjects.example_inputs(models, source)
    if inputs is None:
        terminal.say("Note: no --shape was given, so no input to run on: multiply-adds, memory and time are left out.")
    receipt = prunus.compare(
        {subject.name: model for subject, model in models.items()},
        None if inputs is None else in_order(models[chosen[0]], inputs, "--input"),
        batch_sizes=timing.batch_sizes,
        threads=timing.threads,
        runtimes=timing.runtimes,
        latency=not timing.no_latency,
        data=None if data is None else _test_batches(data, timing.device),
    )
    if json is not None:
        terminal.write_text(receipt.to_json(), json)
    if str(json) != "-":
        from prunus.lab import report

        report.terminal(receipt, terminal.prose())


def _test_batches(name: str, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Return a data set's test images, normalised as `prunus run` does, with their labels."""
    from prunus.lab import data

    loaded = data.load(name)
    return ((x.to(device), y) for x, y in data.batches(loaded.test, _AT_ONCE, mean=loaded.mean, std=loaded.std))
