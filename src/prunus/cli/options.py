"""The options that several commands take, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

MODEL = typer.Option(
    metavar="MODEL",
    help="What makes the model: a name that 'prunus ls models' lists, or package.module:factory of your own, looked "
    "for in the current folder first.",
)
Packed: TypeAlias = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="A .prunus file; otherwise give --model.", show_default=False),
]
Arguments: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--arg", metavar="KEY=VALUE", help="An argument for what makes the model, such as num_classes=100. Repeatable."
    ),
]
Shape: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="The shape of one input, without the batch, such as 3,224,224. Models of prunus know their own.",
    ),
]
BatchSizes: TypeAlias = Annotated[
    str, typer.Option(metavar="N,N,...", help="Batch sizes to time; peak memory is that of the largest.")
]
Threads: TypeAlias = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Numbers of threads to time; otherwise one, and all cores.")
]
Runtimes: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME,NAME",
        help="What to time in: torch, torch-compile, onnxruntime, openvino, prunus, with commas between, or all that "
        "are installed.",
    ),
]
NoLatency: TypeAlias = Annotated[bool, typer.Option("--no-latency", help="Time nothing; the rest takes seconds.")]
Device: TypeAlias = Annotated[str, typer.Option(metavar="DEVICE", help="Where the models run: cpu, cuda, mps.")]
Json: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        dir_okay=False,
        allow_dash=True,
        help="Write it as JSON too; with - print the JSON instead.",
    ),
]
Include: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LAYER",
        help="Prune only this: a parameter, a module, a pattern such as 'encoder.*', or a class such as Linear. "
        "Repeatable.",
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="LAYER", help="Leave this alone, named likewise. Repeatable.")
]
