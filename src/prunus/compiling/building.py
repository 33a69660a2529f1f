"""From a model to a program: trace, lower, choose, build, check."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal, overload

import torch
from torch import Tensor, nn

from prunus.compiling import toolchain, tuning
from prunus.compiling.assembling import assemble
from prunus.compiling.batch import read_net, trace_batch
from prunus.compiling.checking import check
from prunus.compiling.comparing import Expected
from prunus.compiling.engine import Engine
from prunus.compiling.kernels.library import Library, library, with_words
from prunus.compiling.kernels.numbers import DOUBLE, FLOAT, Numbers
from prunus.compiling.lowering import lower
from prunus.compiling.lowering.fusing import EXACT_FUSIONS, FUSIONS
from prunus.compiling.lowering.quantized import lower_quantized, rounded
from prunus.compiling.mixed import Compiler, mixed
from prunus.compiling.mixed_program import MixedProgram
from prunus.compiling.net import Net
from prunus.compiling.program import Parts, Program
from prunus.compiling.toolchain import Target
from prunus.compiling.tuning import Choice
from prunus.copying import copy_model
from prunus.errors import CompileError, ProgramError
from prunus.forward import devices_of, undisturbed
from prunus.graph import ExampleInputs, Graph, call_arguments
from prunus.graph.exported.structure import Structure
from prunus.quantizing import Scales
from prunus.supported import unwrap

_log = logging.getLogger("prunus")

# The C keeps a counter for each thread on the stack.
MOST_THREADS = 1024
# What a call may do where weights that are left out would meet an infinity or NaN.
NONFINITE = ("ignore", "raise")


@overload
def compile(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    threads: int | None = None,
    dtype: torch.dtype | None = None,
    target: str = "native",
    tune: bool = True,
    nonfinite: str = "ignore",
    fallback: Literal[False] = False,
    scales: Scales | None = None,
    say: Callable[[str], None] = _log.info,
) -> Program: ...


@overload
def compile(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    threads: int | None = None,
    dtype: torch.dtype | None = None,
    target: str = "native",
    tune: bool = True,
    nonfinite: str = "ignore",
    fallback: bool,
    scales: Scales | None = None,
    say: Callable[[str], None] = _log.info,
) -> Program | MixedProgram: ...


def compile(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    threads: int | None = None,
    dtype: torch.dtype | None = None,
    target: str = "native",
    tune: bool = True,
    nonfinite: str = "ignore",
    fallback: bool = False,
    scales: Scales | None = None,
    say: Callable[[str], None] = _log.info,
) -> Program | MixedProgram:
    """Make a program that computes what a model computes in eval mode, and skips its zeros.

    The model's graph becomes a short list of operations, and these become calls of kernels with packed weights; for
    each layer the fastest of several kernels is chosen by timing them on this machine. The program is compared with the
    model on random inputs before it is returned. The kernels are the same for all models: they are built once, by the
    system's C compiler, and kept in a cache (``PRUNUS_CACHE``, else in the user's cache folder) with what was measured;
    no other model needs a compiler. A cache that other users may write to is not used. The model is left as it was. A
    program does not change its inputs, even where the model's forward writes to them.

    **Infinities and NaN.** In PyTorch, a zero weight times an infinity or NaN is NaN; a program leaves the product out,
    so its output may be finite where the model's is NaN. With ``nonfinite="raise"`` a call raises instead: every number
    that a layer with weights reads (its input, which may be the program's own) is looked at before the layer runs, and
    the scales of norms are not folded into weights, so that a sum that overflows before it is scaled is seen as well.
    It also raises where no zero weight would have met the number. Not noticed is what no layer with weights reads:
    such infinities and NaN reach the outputs as in PyTorch. Nor is a sum noticed that overflows in the order in which
    PyTorch adds it up, but not in the program's. It costs one more reading of each layer's input, and norms behind
    convolutions become steps of their own.

    Activations, norms, softmax and pooling have PyTorch's results for infinities, NaN and overflows either way, but for
    two, where PyTorch's own kernels differ: gelu(inf) is inf (NaN where PyTorch takes oneDNN's), and a norm whose
    variance overflows is NaN (NaN or 0 in PyTorch, by the row's length; its InstanceNorm sums up in double).

    **Models that hold more than that.** With ``fallback=True`` a model with an operation that a program can't compute,
    such as attention, gives a `MixedProgram`: parts with convolutions and products become programs, the rest stays in
    PyTorch. Its `parts` tell which and why, its `profile` how long each takes. Without it such a model is refused.

    Args:
        model: any module whose operations are known, such as convolutions, linear layers, norms, activations and
            pooling; it may be pruned, shrunk, or dense.
        example_inputs: a tensor, a tuple of tensors, or a mapping of argument names to tensors, (batch, ...). The batch
            stays free; its size here is what blocks are made for. Whole numbers (int8 to int64, uint8, bool) are looked
            up in embeddings or made floating point; the comparison with the model takes the example's. Where the
            model's code holds the number of samples, as ``x.view(2, -1)`` does, the program takes the example's batch
            only: see `Program.fixed_batch`.
        threads: the most that a call may use; None: as many as PyTorch's now.
        dtype: float32 or float64 to compute in; None: float64 if a parameter, a buffer or an example input is, else
            float32.
        target: ``native`` for this machine, or the vector instructions to use: ``avx512``, ``avx2``, ``sse``, ``neon``,
            ``scalar``.
        tune: whether kernels are timed; else they are chosen by counting.
        nonfinite: ``ignore``, or ``raise`` to raise `NonFiniteError` as told above.
        fallback: whether what a program can't compute may stay in PyTorch.
        scales: what `prunus.quantize` returned for the model: what has scales is then computed with whole numbers of 8
            bits, and the program is held against the model as the scales round it.
        say: called with a line of text as each part begins.

    Raises:
        TypeError: the model is not a Module, the inputs are no tensors, the scales are none, or tune or fallback is no
            bool.
        ValueError: threads, dtype, target or nonfinite are wrong, or scales are given with another dtype than float32,
            or with fallback.
        ScalesError: the scales belong to another model, or are for activations of int8.
        GraphError: the model can't be traced.
        CompileError: operations are unknown (the message names all and their places), numbers are complex, the model
            takes one batch size only and the example has another, the compiler fails, or the program differs from the
            model.
        MissingCompilerError: there is no C compiler.
    """
    count = checked_threads(threads)
    for name, flag in (("tune", tune), ("fallback", fallback)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")
    check_nonfinite(nonfinite)
    if fallback and scales is not None:
        raise ValueError("parts of a model can't be compiled with scales: give either scales or fallback=True")
    args, kwargs = call_arguments(example_inputs, 1)
    batch = max(2, *(len(value) for value in (*args, *kwargs.values())))
    kind, numbers = _numbers(model, (*args, *kwargs.values()), dtype)
    wanted = toolchain.target(target)
    clock = _Clock()
    say("reading the model's graph")
    host = _on_cpu(model, kind)
    example: ExampleInputs = (
        tuple(_converted(value, kind) for value in args)
        if args
        else {name: _converted(value, kind) for name, value in kwargs.items()}
    )
    expected = Expected(host)
    read: Callable[[Graph], Net] = partial(lower, fusions=FUSIONS if nonfinite == "ignore" else EXACT_FUSIONS)
    if scales is not None:
        host, example = rounded(host, scales, example, kind)
        expected, read = Expected(host, unrounded=expected.model), lower_quantized
    try:
        net, graph = _checked_net(host, example, read)
    except CompileError as error:
        if not fallback:
            raise
        say(f"making programs of parts ({str(error)[:200]})")

        def compile_part(part: nn.Module, inputs: tuple[Tensor, ...]) -> Program:
            return compile(part, inputs, threads=count, dtype=kind, target=target, tune=tune, nonfinite=nonfinite)

        return _mixed(host if host is not model else copy_model(host), example, kind, compile_part)
    spec = graph.program.call_spec.out_spec
    assert spec is not None
    clock.lap("trace")
    kernels = kernels_of(net, wanted, numbers, say)
    clock.lap("build")
    choice = (
        tuning.measured(net, wanted, numbers, batch, kernels, say) if tune else tuning.by_rule(net, wanted, numbers)
    )
    clock.lap("tune")
    engine = assembled(net, choice, wanted, numbers, kernels, count, nonfinite)
    clock.lap("assemble")
    fixed = graph.batch
    parts = Parts(net, choice, wanted, Structure.of(spec), kind, None, batch, fixed, nonfinite, {})
    apart = expected.difference(Program(parts, engine), example, choice)
    clock.lap("check")
    return Program(replace(parts, difference=apart, seconds=clock.seconds), engine)


def _checked_net(model: nn.Module, example: ExampleInputs, read: Callable[[Graph], Net]) -> tuple[Net, Graph]:
    net, graph = read_net(model, example, read)
    try:
        check(net)
    except ProgramError as error:
        raise CompileError(f"the model can't become a program: {error}") from error
    return net, graph


def kernels_of(net: Net, wanted: Target, numbers: Numbers, say: Callable[[str], None]) -> Library:
    """Return all kernels that a net may need, built if they have not been; those of 8 bits only if it has some.

    Raises:
        MissingCompilerError, CompileError: as `library`.
    """
    floats = library(wanted, numbers, say)
    return with_words(floats, wanted, say) if has_words(net) else floats


def has_words(net: Net) -> bool:
    """Tell whether a net computes with whole numbers of 8 bits."""
    return any(operation.computes_in_words for operation in net.operations)


def _mixed(model: nn.Module, example: ExampleInputs, dtype: torch.dtype, compile_part: Compiler) -> MixedProgram:
    """Return a model of which parts are programs, compared with the whole."""
    program = mixed(trace_batch(model, example), dtype, compile_part)
    sizes = (1, 3) if program.fixed_batch is None else (program.fixed_batch,)
    program.difference = max(Expected(model).difference_for(size, program, example) for size in sizes)
    return program


def assembled(
    net: Net,
    choice: Choice,
    wanted: Target,
    numbers: Numbers,
    kernels: Library,
    threads: int,
    nonfinite: str = "ignore",
) -> Engine:
    """Return a net as a program in memory."""
    plans = tuning.plans_for(net, choice.block, wanted, numbers)
    assembly = assemble(plans, choice.chosen, numbers, looks=nonfinite == "raise", saturates=kernels.saturates)
    engine = Engine(kernels, assembly, threads, choice.most_single)
    engine.set_share_steps(threads > 1 and tuning.is_sharing_faster(engine, net))
    return engine


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def checked_threads(threads: int | None) -> int:
    """Return how many threads a call may use: PyTorch's number for None.

    Raises:
        ValueError: the number makes no sense.
    """
    count = torch.get_num_threads() if threads is None else threads
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= MOST_THREADS:
        raise ValueError(f"threads must be a whole number from 1 to {MOST_THREADS}, got {threads!r}")
    return count


def check_nonfinite(nonfinite: str) -> None:
    """Refuse a way to treat infinities and NaN that there isn't.

    Raises:
        ValueError: there is no such.
    """
    if nonfinite not in NONFINITE:
        raise ValueError(f"nonfinite must be 'ignore' or 'raise', got {nonfinite!r}")


def _numbers(model: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype | None) -> tuple[torch.dtype, Numbers]:
    """Return what to compute in: what was asked for, else float64 if the model or an input is, as PyTorch promotes.

    Raises:
        TypeError: the model is not a Module.
        ValueError: the dtype is neither.
        CompileError: the model or an input is complex.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    named = {**dict(unwrap(model).named_parameters()), **dict(unwrap(model).named_buffers())}
    refuse_complex(named, inputs)
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(
            f"dtype must be torch.float32 or torch.float64, got {dtype!r}; inputs may be of 16 bits all the same"
        )
    wide = any(tensor.dtype == torch.float64 for tensor in (*named.values(), *inputs))
    kind = dtype or (torch.float64 if wide else torch.float32)
    return kind, DOUBLE if kind == torch.float64 else FLOAT


def refuse_complex(named: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> None:
    """Refuse a model that holds complex numbers, or takes some.

    Raises:
        CompileError: it does.
    """
    subject = next((f"{name!r} of the model" for name, tensor in named.items() if tensor.is_complex()), None)
    if subject is None and any(value.is_complex() for value in inputs):
        subject = "an example input"
    if subject is not None:
        raise CompileError(
            f"{subject} is complex, but a program computes with real numbers; compile the part of the model without it"
        )


def _on_cpu(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return the model on the CPU in the dtype that is computed in: itself, where it is that already."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise CompileError("the model is on the meta device, so it has no weights; give it some, or move it to the CPU")
    right = all(tensor.dtype == dtype for tensor in tensors if tensor.is_floating_point())
    if right and devices_of(model) <= {torch.device("cpu")}:
        return model
    with undisturbed(model):
        return copy_model(model).cpu().to(dtype)


def _converted(value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.detach().cpu()
    return value.to(dtype) if value.is_floating_point() else value
