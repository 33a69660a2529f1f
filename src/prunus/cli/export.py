"""`prunus export`: a model as a file for other programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from prunus.cli import options, subjects, terminal
from prunus.cli.pack import Force, check_free

if TYPE_CHECKING:
    from prunus.exporting import ExportFacts

Packed: TypeAlias = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="A .prunus file; otherwise give --model.", show_default=False),
]
Weights: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The weights of --model, a .safetensors file; otherwise as the factory made them."
    ),
]
Out: TypeAlias = Annotated[
    Path, typer.Option(metavar="FILE", help="Where it goes; the suffix tells the format: .onnx, .pt2, .safetensors.")
]
Format: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="The format, whatever the suffix: onnx, pt2 or safetensors.")
]


def export(
    out: Out,
    packed: Packed = None,
    model: Annotated[str | None, options.MODEL] = None,
    weights: Weights = None,
    arg: options.Arguments = None,
    shape: options.Shape = None,
    format: Format = None,
    force: Force = False,
) -> None:
    """Export a model as a file for other programs.

    To ONNX, to a program of torch.export, or as plain weights. The file is loaded again and run, in ONNX
    Runtime or in PyTorch, before it takes its name: its outputs on random inputs must be the model's. The size of a
    batch stays free.

    \b
    Examples:
      prunus export lenet.prunus --out lenet.onnx
      prunus export --model lenet --weights lenet.safetensors --out lenet.pt2
    """
    from prunus import exporting, factory

    check_free(out, force)
    subject = subjects.named(packed, model, weights, arg or ())
    arguments = factory.parse_arguments(arg or ())
    network = subjects.load(subject, arguments)
    inputs = subjects.example_inputs(shape, [model], arguments, network, packed)
    facts = exporting.export(network, out, inputs, format=format)
    source = packed or weights
    before = None if source is None else source.stat().st_size
    console = terminal.lines()
    for sentence in _sentences(facts, out, source, before):
        console.print(terminal.printable(sentence))


def _sentences(facts: ExportFacts, out: Path, source: Path | None, before: int | None) -> Iterator[str]:
    told = f"{str(out)!r} has {facts.bytes:,} bytes"
    if before is not None:
        told += f"; {str(source)!r} has {before:,}"
    if facts.state_bytes is not None and facts.format != "safetensors":
        told += f"; the weights as safetensors have {facts.state_bytes:,}"
    yield f"{told}."
    if facts.difference is not None:
        runtime = {"onnx": "ONNX Runtime", "pt2": "PyTorch, from the file,"}[facts.format]
        apart = f"the largest difference is {facts.difference:.1e} of the largest output"
        exact = "to the last bit" if facts.difference == 0 else apart
        yield f"On random inputs {runtime} computes what the model does: {exact}."
    if facts.format == "pt2":
        yield f"To have it back: torch.export.load({str(out)!r}).module()"
