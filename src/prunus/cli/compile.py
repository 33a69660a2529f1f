"""`prunus compile`: a model as a program that skips its zeros."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from prunus.cli import options, subjects, terminal
from prunus.cli.explain import Weights
from prunus.cli.pack import Force, check_free

if TYPE_CHECKING:
    from prunus.compiling import Program, StepFacts

Out: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where the program goes, a .safetensors file; otherwise it is only shown."),
]
Batch: TypeAlias = Annotated[int, typer.Option(metavar="N", help="The batch size it is made for; it takes any.", min=1)]
Cores: TypeAlias = Annotated[int | None, typer.Option(metavar="N", help="Cores a call may use; otherwise all.", min=1)]
Target: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="What to build for: native, or the vector instructions avx512, avx2, sse, neon, scalar."
    ),
]

_HEADERS = ("step", "operation", "nonzero weights", "multiply-adds", "us a sample", "of the time", "kernel")


def compile(
    packed: options.Packed = None,
    model: Annotated[str | None, options.MODEL] = None,
    weights: Weights = None,
    arg: options.Arguments = None,
    shape: options.Shape = None,
    batch_size: Batch = 64,
    cores: Cores = None,
    target: Target = "native",
    out: Out = None,
    force: Force = False,
) -> None:
    """Compile a model to a program that skips its zeros.

    The program is built by the system's C compiler and held against the model before it is written. Each of its
    steps is shown: what it skips, how it is computed, and how much of the time it takes. In Python,
    prunus.load(FILE) has it back, and calls it as the model was called.

    \b
    Examples:
      prunus compile small.prunus --out small.safetensors
      prunus compile --model lenet5-caffe --weights pruned.safetensors
      prunus compile --model my_models:cnn --shape 3,32,32 --batch-size 1
    """
    from prunus import machine
    from prunus.compiling import compile as compile_model
    from prunus.lab import factory

    if out is not None:
        check_free(out, force)
    subject = subjects.named(packed, model, weights, arg or ())
    arguments = factory.parse_arguments(arg or ())
    network = subjects.load(subject, arguments)
    inputs = subjects.example_inputs(shape, [model], arguments, network, packed)
    if inputs is None:
        raise ValueError(f"a program is made for inputs of one shape; give the --shape of one for {subject.name!r}")
    batch = inputs.expand(batch_size, *inputs.shape[1:])
    program = compile_model(network, batch, threads=cores or machine.cores(), target=target, say=terminal.say)
    if out is not None:
        program.save(out)
    _show(program, out)


def _show(program: Program, out: Path | None) -> None:
    profile = program.profile()
    for head, steps in (
        (f"In blocks of {profile.block} samples:", profile.in_blocks),
        (f"One by one, as up to {profile.most_single} samples beside whole blocks are:", profile.singly),
    ):
        typer.echo(head)
        terminal.show_table(_HEADERS, [_row(step) for step in steps], names=2, words=1)
        typer.echo()
    console = terminal.lines()
    for sentence in _sentences(program, out):
        console.print(terminal.printable(sentence))


def _row(step: StepFacts) -> tuple[str, ...]:
    return (
        step.name,
        step.operation,
        f"{step.nonzero:,} of {step.weights:,}" if step.weights else "",
        f"{step.macs:,}" if step.macs else "",
        f"{step.microseconds:.2f}",
        f"{100 * step.share:.0f}%",
        step.kernel,
    )


def _sentences(program: Program, out: Path | None) -> Iterator[str]:
    seconds = program.seconds
    told = f"{seconds['trace']:.1f} s to read the model, {seconds['tune']:.1f} s to choose kernels by timing them"
    yield f"It took {told}, {seconds['build']:.1f} s to build; the next time both are remembered."
    yield (
        "On random inputs it computes what the model does: the largest difference is "
        f"{program.difference:.1e} of the largest output."
    )
    if out is not None:
        yield f"{str(out)!r} has {out.stat().st_size:,} bytes. To have it back: prunus.load({str(out)!r})"
