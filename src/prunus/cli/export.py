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
    from prunus.exporting.c import CFacts

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
    Path,
    typer.Option(
        metavar="FILE", help="Where it goes; the suffix tells the format: .onnx, .pt2, .c (with a .h), .safetensors."
    ),
]
Format: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="The format, whatever the suffix: onnx, pt2, c or safetensors.")
]
Bits: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="8", help="For C: weights of 8 bits, with a scale for each output channel. Otherwise float32."
    ),
]


def export(
    out: Out,
    packed: Packed = None,
    model: Annotated[str | None, options.MODEL] = None,
    weights: Weights = None,
    arg: options.Arguments = None,
    shape: options.Shape = None,
    format: Format = None,
    bits: Bits = None,
    force: Force = False,
) -> None:
    """Export a model as a file for other programs.

    To ONNX, to a program of torch.export, to C for microcontrollers, or as plain weights. The file is loaded again
    and run, in ONNX Runtime, in PyTorch or built by a C compiler, before it takes its name: its outputs on random
    inputs must be the model's. The size of a batch stays free; C computes one sample at a time, and it is told how
    much flash and RAM it takes.

    \b
    Examples:
      prunus export lenet.prunus --out lenet.onnx
      prunus export --model lenet --weights lenet.safetensors --out lenet.pt2
      prunus export lenet.prunus --out lenet.c --bits 8
    """
    from prunus import exporting
    from prunus.lab import factory

    for target in _targets(out, format):
        check_free(target, force)
    subject = subjects.named(packed, model, weights, arg or ())
    arguments = factory.parse_arguments(arg or ())
    network = subjects.load(subject, arguments)
    inputs = subjects.example_inputs(shape, [model], arguments, network, packed)
    facts = exporting.export(network, out, inputs, format=format, bits=bits)
    source = packed or weights
    before = None if source is None else source.stat().st_size
    console = terminal.lines()
    for sentence in _sentences(facts, out, source, before):
        console.print(terminal.printable(sentence))


def _targets(out: Path, format: str | None) -> list[Path]:
    """Return the files that are written: C takes two."""
    is_c = (format or out.suffix.removeprefix(".").lower()) == "c"
    return [out, out.with_suffix(".h")] if is_c else [out]


def _sentences(facts: ExportFacts, out: Path, source: Path | None, before: int | None) -> Iterator[str]:
    told = f"{str(out)!r} has {facts.bytes:,} bytes"
    if facts.c is not None:
        told = f"{str(out)!r} and {str(out.with_suffix('.h'))!r} are written"
    if before is not None:
        told += f"; {str(source)!r} has {before:,}" + (" bytes" if facts.c is not None else "")
    if facts.state_bytes is not None and facts.format != "safetensors":
        told += f"; the weights as safetensors have {facts.state_bytes:,}"
    yield f"{told}."
    if facts.c is not None:
        yield from _sentences_of_c(facts.c, out)
    elif facts.difference is not None:
        runtime = {"onnx": "ONNX Runtime", "pt2": "PyTorch, from the file,"}[facts.format]
        yield f"On random inputs {runtime} computes what the model does: {_apart(facts.difference)}."
    if facts.format == "pt2":
        yield f"To have it back: torch.export.load({str(out)!r}).module()"


def _sentences_of_c(facts: CFacts, out: Path) -> Iterator[str]:
    code = "the code" if facts.code_bytes is None else f"code ({facts.code_bytes:,} as built with -Os for this machine)"
    yield f"Flash: {facts.constant_bytes:,} bytes of constants, and {code}."
    yield f"RAM: {facts.ram_bytes:,} bytes of static buffers, beside the caller's arrays and the stack."
    if facts.difference is None:
        yield f"It was not checked: {facts.checked}."
    elif facts.bits is not None:
        yield (
            f"Built by {facts.checked} and run on random inputs, its outputs with weights of {facts.bits} bits differ "
            f"from the model's by at most {facts.difference:.1e} of the largest output."
        )
    else:
        told = f"it computes what the model does: {_apart(facts.difference)}"
        yield f"Built by {facts.checked} and run on random inputs, {told}."
    yield f'To use it: #include "{out.stem}.h" and call {facts.name}_run; the header says how.'


def _apart(difference: float) -> str:
    return "to the last bit" if difference == 0 else f"the largest difference is {difference:.1e} of the largest output"
