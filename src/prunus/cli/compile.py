"""`prunus compile`: a model as a program that skips its zeros."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cyclopts.types import PositiveInt

import prunus
from prunus.cli import outputs, terminal
from prunus.cli.options import File, Force, Name
from prunus.cli.subjects import OneModel, Packed


def compile(
    file: Packed = None,
    /,
    *,
    source: OneModel = OneModel(),
    batch_size: PositiveInt = 64,
    cores: PositiveInt | None = None,
    target: Name = "native",
    scales: File | None = None,
    no_dense: bool = False,
    out: File | None = None,
    force: Force = False,
) -> None:
    """Compile a model to a program that skips its zeros.

    The program is built by the system's C compiler and held against the model before it is written. Each of its
    steps is shown: what it skips, how it is computed, and how much of the time it takes; then the time of a call,
    beside PyTorch, and ONNX Runtime and OpenVINO where they are installed, for a native program of a model that takes
    its inputs by position. In Python, prunus.load(FILE) has it back, and calls it as the model was called.

    For example:
      prunus compile small.prunus --out small.program
      prunus compile --model lenet5-caffe --weights pruned.safetensors
      prunus compile small.prunus --scales scales.safetensors
      prunus compile --model my_models:cnn --shape 3,32,32 --batch-size 1

    Args:
        batch_size: The batch size it is made for; it takes any.
        cores: Cores a call may use; otherwise all.
        target: What to build for: native, or the vector instructions avx512, avx2, sse, neon, scalar.
        scales: The scales that 'prunus quantize' wrote for the model; the program then computes in 8 bits.
        no_dense: Do not time the dense runtimes beside it.
        out: Where the program goes, such as small.program; otherwise it is only shown.
    """
    from torch.utils import _pytree as pytree

    from prunus import machine
    from prunus.measuring.dense_comparison import compare_with_dense

    if out is not None:
        outputs.check_free(force, out)
    mapped = None if scales is None else prunus.Scales.load(scales)
    subject, network = source.load(file)
    inputs = source.inputs(subject, network)
    batch = pytree.tree_map(lambda value: value[:1].expand(batch_size, *value.shape[1:]), inputs)
    threads = cores or machine.cores()
    program = prunus.compile(network, batch, threads=threads, target=target, scales=mapped, say=terminal.say)
    if out is not None:
        program.save(out)
    terminal.show(str(program.profile()), "", *_sentences(program, out, in_8_bits=mapped is not None))
    if not no_dense and target == "native" and not isinstance(batch, dict):
        terminal.say("timing the dense runtimes")
        terminal.show(str(compare_with_dense(network, batch, batch=batch_size, threads=threads, scales=mapped)))


def _sentences(program: prunus.Program, out: Path | None, *, in_8_bits: bool) -> Iterator[str]:
    seconds = program.seconds
    yield (
        f"It took {seconds['trace']:.1f} s to read the model, {seconds['tune']:.1f} s to choose kernels by timing "
        f"them, {seconds['build']:.1f} s to build; the next time both are remembered."
    )
    if in_8_bits:
        yield (
            "On random inputs it computes what the model does as its scales round it: the difference has a root mean "
            f"square of {program.difference:.1e} of that of the outputs."
        )
    else:
        yield (
            "On random inputs it computes what the model does: the largest difference is "
            f"{program.difference:.1e} of the largest output."
        )
    if out is not None:
        yield f"{str(out)!r} has {out.stat().st_size:,} bytes. To have it back: prunus.load({str(out)!r})"
