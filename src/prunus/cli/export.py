"""`prunus export`: a model as a file for other programs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import prunus
from prunus.cli import outputs, subjects, terminal
from prunus.cli.options import File, Force, Name
from prunus.cli.subjects import OneModel

if TYPE_CHECKING:
    from prunus.exporting import ExportFacts
    from prunus.exporting.c import CFacts
    from prunus.graph import ExampleInputs


def export(
    file: Annotated[
        Path | None, Parameter(help="A .prunus file, or for .so a program's; otherwise give --model.")
    ] = None,
    /,
    *,
    source: OneModel = OneModel(),
    out: File,
    format: Name | None = None,
    scales: File | None = None,
    force: Force = False,
) -> None:
    """Export a model as a file for other programs.

    To ONNX, to a program of torch.export or of ExecuTorch, to a shared library that skips the zeros, to C for
    microcontrollers, or as plain weights. The file is loaded again and run, in ONNX Runtime, in PyTorch, in ExecuTorch
    or built by a C compiler, before it takes its name: its outputs on random inputs must be the model's. The batch size
    stays free, in ExecuTorch up to three samples; C computes one sample at a time, and its flash and RAM are told.

    For example:
      prunus export lenet.prunus --out lenet.onnx
      prunus export lenet.program --out lenet.so
      prunus export --model lenet --weights lenet.safetensors --out lenet.pt2
      prunus export lenet.prunus --out lenet.c
      prunus export lenet.prunus --scales scales.safetensors --out lenet.onnx
      prunus export lenet.prunus --scales scales.safetensors --out lenet.pte

    Args:
        out: Where it goes; the suffix tells the format: .onnx, .pt2, .pte, .so or .c (both with a .h),
            .safetensors.
        format: The format, whatever the suffix: onnx, pt2, pte, so, c or safetensors.
        scales: For .onnx, .pt2, .pte and .c: the scales that 'prunus quantize' wrote for the model; weights then have 8
            bits; activations too, except in C.
    """
    from prunus.exporting import FORMATS

    kind = format or out.suffix.removeprefix(".").lower()
    outputs.check_free(force, out, *([out.with_suffix(".h")] if kind in ("so", "c") else []))
    mapped = None if scales is None else prunus.Scales.load(scales)
    if source.model is None and file is not None and subjects.holds_program(file):
        if kind != "so":
            raise ValueError(
                f"{str(file)!r} holds a program, which becomes a library only, such as net.so; give the model"
            )
        before = [(str(file), file.stat().st_size)]
        terminal.show(*_sentences(prunus.export(file, out, format=format, scales=mapped), out, before))
        return
    subject, network = source.load(file)
    if mapped is not None and source.shape is None and not source.input:
        inputs: ExampleInputs | None = mapped.example(network)
    else:
        inputs = source.inputs(subject, network) if kind in (*FORMATS, "so", "c") else None
    before = [] if subject.weights is None else [(str(subject.weights), subject.weights.stat().st_size)]
    facts = prunus.export(network, out, inputs, format=format, scales=mapped)
    terminal.show(*_sentences(facts, out, before, in_8_bits=mapped is not None))


def _sentences(
    facts: ExportFacts, out: Path, before: list[tuple[str, int]], *, in_8_bits: bool = False
) -> Iterator[str]:
    sizes = [f"{str(out)!r} has {facts.bytes:,} bytes"]
    header = str(out.with_suffix(".h"))
    if facts.c is not None:
        sizes = [f"{str(out)!r} and {header!r} are written, with {facts.bytes:,} bytes"]
    sizes += [f"{path!r} has {size:,}" for path, size in before]
    if facts.state_bytes is not None and facts.format != "safetensors":
        sizes.append(f"the weights as safetensors have {facts.state_bytes:,}")
    yield f"{'; '.join(sizes)}."
    if facts.c is not None:
        yield from _sentences_of_c(facts.c, out)
    elif facts.difference is not None:
        runtimes = {"onnx": "ONNX Runtime", "pt2": "PyTorch, from the file,", "pte": "ExecuTorch", "so": "it"}
        runtime = runtimes[facts.format]
        what = "program" if facts.format == "so" else "model"
        what += " rounded to 8 bits" if in_8_bits else ""
        yield f"On random inputs {runtime} computes what the {what} does: {_apart(facts.difference)}."
    if facts.format == "so":
        words = ["cc", "main.c", str(out), f"-Wl,-rpath,{out.parent}"]
        yield f"To use it: {header!r} says how; build with: {shlex.join(words)}"
    if facts.format == "pt2":
        first = "import torch.ao.quantization.fx; " if in_8_bits else ""  # it enters the operations
        yield f"To have it back: {first}torch.export.load({str(out)!r}).module()"


def _sentences_of_c(facts: CFacts, out: Path) -> Iterator[str]:
    code = "the code" if facts.code_bytes is None else f"code ({facts.code_bytes:,} as built with -Os for this machine)"
    yield f"Flash: {facts.constant_bytes:,} bytes of constants, and {code}."
    yield f"RAM: {facts.ram_bytes:,} bytes of static buffers, beside the caller's arrays and the stack."
    if facts.difference is None:
        yield f"It was not checked: {facts.checked}."
    else:
        what = "model with weights of 8 bits" if facts.in_8_bits else "model"
        yield (
            f"Built by {facts.checked} and run on random inputs, it computes what the {what} does: "
            f"{_apart(facts.difference)}."
        )
    yield f'To use it: #include "{out.stem}.h" and call {facts.name}_run; the header says how.'


def _apart(difference: float) -> str:
    return "to the last bit" if difference == 0 else f"the largest difference is {difference:.1e} of the largest output"
