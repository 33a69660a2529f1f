"""`prunus measure`: what one model costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli import options, subjects
from prunus.cli.compare import Settings, measured, show


def measure(
    packed: options.Packed = None,
    model: Annotated[str | None, options.MODEL] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its weights, a .safetensors file; otherwise as the factory made them."),
    ] = None,
    arg: options.Arguments = None,
    shape: options.Shape = None,
    batch_sizes: options.BatchSizes = "1,64",
    threads: options.Threads = None,
    runtimes: options.Runtimes = "torch",
    no_latency: options.NoLatency = False,
    device: options.Device = "cpu",
    json: options.Json = None,
) -> None:
    """Measure a model: parameters, zeros, bytes, memory and time.

    \b
    Examples:
      prunus measure --model lenet --weights runs/lenet/seed-0/pruned.safetensors
      prunus measure --model my_models:cnn --arg width=64 --shape 3,32,32
      prunus measure small.prunus
    """
    subject = subjects.named(packed, model, weights, arg or ())
    show(measured([subject], Settings(arg or (), shape, batch_sizes, threads, runtimes, not no_latency, device)), json)
