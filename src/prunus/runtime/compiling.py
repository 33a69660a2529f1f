"""From a model to a program: trace, lower, choose, build, check."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.exported.structure import Structure
from prunus.forward import devices_of, undisturbed
from prunus.graph import ExampleInputs, call_arguments, trace
from prunus.runtime import toolchain, tuning
from prunus.runtime.checking import check
from prunus.runtime.codegen import source
from prunus.runtime.codegen.numbers import DOUBLE, FLOAT, Numbers
from prunus.runtime.codegen.source import Source
from prunus.runtime.engine import Engine
from prunus.runtime.errors import CompileError, ProgramError
from prunus.runtime.lowering import lower
from prunus.runtime.net import Net
from prunus.runtime.program import Parts, Program
from prunus.runtime.toolchain import Target
from prunus.runtime.tuning import Choice
from prunus.shrinking.verification import difference, outputs, random_like

_log = logging.getLogger("prunus")

# The largest difference to the model, relative to its largest output, that sums in another order explain.
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-10}
# The C keeps a counter for each thread on the stack.
MOST_THREADS = 1024
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def compile(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    threads: int | None = None,
    dtype: torch.dtype | None = None,
    target: str = "native",
    tune: bool = True,
    say: Callable[[str], None] = _log.info,
) -> Program:
    """Make a program that computes what a model computes in eval mode, and skips its zeros.

    The model's graph becomes a short list of operations; these become C, which the system's compiler builds; for each
    layer the fastest of several kernels is chosen by timing them on this machine. The program is held against the
    model on random inputs before it is returned. What was built and measured is kept in a cache (``PRUNUS_CACHE``, else
    in the user's cache folder), so the second time costs nothing. The model is left as it was.

    Args:
        model: any module whose operations are known, such as convolutions, linear layers, norms, activations and
            pooling; it may be pruned, shrunk, or dense.
        example_inputs: a tensor, a tuple of tensors, or a mapping of argument names to tensors, (batch, ...). The batch
            stays free; its size here is what blocks are made for.
        threads: the most that a call may use; None: as many as PyTorch's now.
        dtype: float32 or float64 to compute in; None: float64 for a model in float64, else float32.
        target: ``native`` for this machine, or the vector instructions to use: ``avx512``, ``avx2``, ``sse``, ``neon``,
            ``scalar``.
        tune: whether kernels are timed; else they are chosen by counting.
        say: called with a line of text as each part begins.

    Raises:
        TypeError: the model is not a Module, or the inputs are no tensors.
        ValueError: threads, dtype or target are wrong.
        GraphError: the model can't be traced.
        CompileError: an operation is unknown (the message names it and its place), the compiler fails, or the program
            differs from the model.
        MissingCompilerError: there is no C compiler.
    """
    count = checked_threads(threads)
    args, kwargs = call_arguments(example_inputs)
    batch = max(value.shape[0] for value in (*args, *kwargs.values()))
    kind, numbers = _numbers(model, dtype)
    wanted = toolchain.target(target)
    clock = _Clock()
    say("reading the model's graph")
    host = _on_cpu(model, kind)
    few: ExampleInputs = (
        tuple(_few(value, kind) for value in args)
        if args
        else {name: _few(value, kind) for name, value in kwargs.items()}
    )
    graph = trace(host, few)
    if graph.batch is not None:
        raise CompileError(
            f"the forward of {type(model).__name__} pins the batch to {graph.batch}, but a program takes any; have it "
            "take the number from its input's shape"
        )
    net = lower(graph)
    try:
        check(net)
    except ProgramError as error:
        raise CompileError(f"the model can't become a program: {error}") from error
    spec = graph.program.call_spec.out_spec
    assert spec is not None
    clock.lap("trace")
    choice = tuning.measured(net, wanted, numbers, batch, say) if tune else tuning.by_rule(net, wanted, numbers)
    clock.lap("tune")
    say("building the program")
    text, engine = built(net, choice, wanted, numbers, count)
    clock.lap("build")
    parts = Parts(net, choice, text, wanted, Structure.of(spec), kind, None, batch, {})
    apart = _difference(host, Program(parts, engine), few, choice)
    clock.lap("check")
    return Program(Parts(net, choice, text, wanted, Structure.of(spec), kind, apart, batch, clock.seconds), engine)


def built(net: Net, choice: Choice, wanted: Target, numbers: Numbers, threads: int) -> tuple[Source, Engine]:
    """Write a net's C, build it, and load it with its constants.

    Raises:
        CompileError: it can't be built.
    """
    text = source.write(tuning.plans_for(net, choice.block, wanted, numbers), choice.chosen, numbers)
    library = toolchain.build(text.text, wanted)

    def make(share: bool) -> Engine:
        return Engine(library, text, numbers.bytes, threads, choice.most_single, share)

    sizes = [math.prod(shape) for _, shape in net.inputs.values()], [view.index.size for view in net.outputs]
    return text, make(threads > 1 and tuning.shares_steps(make, *sizes))


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


def _numbers(model: nn.Module, dtype: torch.dtype | None) -> tuple[torch.dtype, Numbers]:
    """Return what to compute in."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    own = {tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()}
    found = dtype or (torch.float64 if torch.float64 in own else torch.float32)
    if found not in (torch.float32, torch.float64):
        raise ValueError(
            f"dtype must be torch.float32 or torch.float64, got {dtype}; inputs may be of 16 bits all the same"
        )
    return found, DOUBLE if found == torch.float64 else FLOAT


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


def _few(value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value[:2].detach().cpu()
    return value.to(dtype) if value.dtype in _FLOATS else value


def _difference(model: nn.Module, program: Program, few: ExampleInputs, choice: Choice) -> float:
    """Return the largest difference to the model on random inputs, of one sample and of a block and some more.

    Raises:
        CompileError: it is larger than another order of sums explains.
    """
    worst = 0.0
    for size in (1, choice.block + choice.most_single, choice.block + choice.most_single + 1):
        args, kwargs = call_arguments(few, size)
        args, kwargs = random_like(tuple(value[:size] for value in args), {k: v[:size] for k, v in kwargs.items()})
        expected = outputs(model, args, kwargs)
        found = torch.utils._pytree.tree_leaves(program(*args, **kwargs))
        apart = difference(expected, found)
        limit = _TOLERANCES[program.dtype]
        if not apart <= limit:
            raise CompileError(
                f"the program computes something else than the model: for a batch of {size} its outputs differ by "
                f"{apart:.1e} of the largest, more than the {limit:.0e} that rounding explains; the model may depend "
                "on the batch or on chance, else please report it"
            )
        worst = max(worst, apart)
    return worst
