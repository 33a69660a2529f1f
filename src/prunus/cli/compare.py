"""`prunus compare`: what several models cost, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunus.cli import options, subjects, terminal
from prunus.cli.subjects import Subject

if TYPE_CHECKING:
    from prunus.measuring.receipt import Receipt


@dataclass(frozen=True)
class Settings:
    """How models are measured, as the command line has it."""

    arguments: Sequence[str]
    shape: str | None
    batch_sizes: str
    threads: str | None
    runtimes: str
    latency: bool
    device: str


def compare(
    items: Annotated[
        list[str],
        typer.Argument(
            metavar="ITEM",
            help="What to compare: FILE.safetensors (weights of --model), FILE.prunus, MODEL, or "
            "MODEL=FILE.safetensors.",
        ),
    ],
    model: Annotated[str | None, options.MODEL] = None,
    arg: options.Arguments = None,
    shape: options.Shape = None,
    batch_sizes: options.BatchSizes = "1,64",
    threads: options.Threads = None,
    runtimes: options.Runtimes = "torch",
    no_latency: options.NoLatency = False,
    device: options.Device = "cpu",
    json: options.Json = None,
) -> None:
    """Compare models and checkpoints, side by side.

    Parameters, zeros, multiply-adds, bytes, memory and the time of a call. The models take turns
    while they are timed, so that what slows the machine down slows all of them.

    \b
    Examples:
      prunus compare dense.safetensors pruned.safetensors --model lenet
      prunus compare dense.safetensors small.prunus --model lenet
      prunus compare lenet lenet5 resnet20 --arg in_channels=1
      prunus compare my_models:large my_models:small=s.safetensors --shape 3,32,32
      prunus compare lenet lenet5 --runtimes torch,onnxruntime
      prunus compare dense.safetensors small.prunus --model lenet \\
          --runtimes all --threads 1
    """
    chosen = subjects.distinct([subjects.parse(item, model) for item in items])
    receipt = measured(chosen, Settings(arg or (), shape, batch_sizes, threads, runtimes, not no_latency, device))
    show(receipt, json)


def measured(chosen: Sequence[Subject], settings: Settings) -> Receipt:
    """Make the chosen models and measure them side by side."""
    from prunus.lab import factory
    from prunus.measuring import compare as measure_all

    batch_sizes = subjects.whole_numbers(settings.batch_sizes, "--batch-sizes")
    threads = None if settings.threads is None else subjects.whole_numbers(settings.threads, "--threads")
    arguments = factory.parse_arguments(settings.arguments)
    if arguments and not any(subject.source for subject in chosen):
        raise ValueError(f"--arg is for what makes a model, and .prunus files tell theirs; got {settings.arguments[0]}")
    models = {subject.name: subjects.load(subject, arguments, settings.device) for subject in chosen}
    sources = [subject.source for subject in chosen]
    packed = next((subject for subject in chosen if subject.source is None), None)
    first = packed or chosen[0]
    inputs = subjects.example_inputs(
        settings.shape, sources, arguments, models[first.name], packed.weights if packed else None
    )
    if inputs is None:
        terminal.say("Note: no --shape was given, so no input to run on: multiply-adds, memory and time are left out.")
    runtimes = [name.strip() for name in settings.runtimes.split(",")]
    return measure_all(
        models, inputs, batch_sizes=batch_sizes, threads=threads, runtimes=runtimes, latency=settings.latency
    )


def show(receipt: Receipt, json: Path | None) -> None:
    """Print a receipt as tables, as JSON, or both."""
    if json is not None:
        terminal.write_text(receipt.to_json(), json)
    if str(json) != "-":
        from prunus.lab import report

        report.terminal(receipt, terminal.prose())
