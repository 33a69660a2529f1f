"""What a model can be timed in: one function a runtime, which prepares a model for a batch and a number of threads."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus import extras
from prunus.registry import unknown_name

Batch: TypeAlias = tuple[Tensor, ...]
Call: TypeAlias = Callable[[], object]
# what runs a model: from inputs, of the batch size it was prepared for, to a call that takes nothing and is timed
Bind: TypeAlias = Callable[[Batch], Call]

TORCH, TORCH_COMPILE, ONNX_RUNTIME, OPENVINO, PRUNUS = "torch", "torch-compile", "onnxruntime", "openvino", "prunus"
# asks for every runtime whose packages are installed
ALL = "all"


class LeftOutError(ValueError):
    """A model that can't be timed in a runtime; the message says why."""


class Subject:
    """A model to be timed, and what was made of it: some of that serves several batches, threads and runtimes."""

    def __init__(self, model: nn.Module, inputs: Batch) -> None:
        self.model, self.inputs = model, inputs
        self._made: dict[object, Any] = {}

    def once(self, key: object, make: Callable[[], Any]) -> Any:
        """Return what `make` gave or raised the first time: it takes seconds, and would fail again."""
        if key not in self._made:
            try:
                self._made[key] = make()
            except Exception as error:
                self._made[key] = error
        if isinstance(self._made[key], Exception):
            raise self._made[key]
        return self._made[key]

    def onnx(self) -> bytes:
        """Return the model in ONNX; errors are those of `prunus.exporting.to_onnx`."""
        from prunus.exporting import to_onnx  # it loads what PyTorch alone does not need

        data, _ = self.once("onnx", lambda: to_onnx(self.model, self.inputs))
        return bytes(data)


@dataclass(frozen=True)
class Runtime:
    """One entry of `RUNTIMES`: what prepares a model, and the packages that takes."""

    prepare: Callable[[Subject, Batch, int], Bind]
    packages: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether every package can be found; none is imported."""
        return all(importlib.util.find_spec(package) is not None for package in self.packages)


def eager(subject: Subject, batch: Batch, threads: int) -> Bind:
    """PyTorch as it is."""
    device = batch[0].device
    if device.type == "cpu":
        return lambda inputs: functools.partial(subject.model, *inputs)

    def call(inputs: Batch) -> object:
        output = subject.model(*inputs)
        torch.accelerator.synchronize(device)  # the call returns at once; the work is done only now
        return output

    return lambda inputs: functools.partial(call, inputs)


def torch_compile(subject: Subject, batch: Batch, threads: int) -> Bind:
    """torch.compile at its best for this batch: one graph, weights frozen into it, kernels chosen by trying them.

    PyTorch writes the number of threads set now into the code.
    """
    chosen: dict[str, str | int | bool | Callable[..., Any]] = {"freezing": True, "max_autotune": True}
    compiled = torch.compile(_own_function(subject.model), fullgraph=True, dynamic=False, options=chosen)
    try:
        with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):  # there it prints what it tries
            compiled(*batch)
    except Exception as error:
        raise LeftOutError(_without_advice(error)) from error
    return lambda inputs: functools.partial(compiled, *inputs)


def onnx_runtime(subject: Subject, batch: Batch, threads: int) -> Bind:
    """ONNX Runtime, its graph optimised as far as it goes."""
    from prunus.exporting import onnx as onnx_runtime

    running = subject.once((ONNX_RUNTIME, threads), lambda: onnx_runtime.session(subject.onnx(), threads))
    return lambda inputs: onnx_runtime.call(running, inputs, {})


def openvino(subject: Subject, batch: Batch, threads: int) -> Bind:
    """OpenVINO on the CPU from the model in ONNX: tuned for the time of one call, its shapes fixed, in float32."""
    runtime = extras.require("openvino", "timing a model in OpenVINO")
    core = runtime.Core()
    model = core.read_model(subject.onnx())
    model.reshape({port: list(value.shape) for port, value in zip(model.inputs, batch, strict=True)})
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # by default some processors would calculate in fewer bits
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = core.compile_model(model, "CPU", hints)

    def bind(inputs: Batch) -> Call:
        request = compiled.create_infer_request()
        for port, value in zip(compiled.inputs, inputs, strict=True):
            request.set_tensor(port, runtime.Tensor(value.detach().contiguous().numpy(), shared_memory=True))
        return lambda: request.infer(share_outputs=True).to_tuple()

    return bind


def prunus_program(subject: Subject, batch: Batch, threads: int) -> Bind:
    """The program that `prunus.compile` makes, which skips what is zero."""
    from prunus.compiling import compile

    program = compile(subject.model, batch, threads=threads)  # it would take any batch, but is made best for this one
    return lambda inputs: functools.partial(program, *inputs)


_ONNX = ("onnx", "onnxscript", "onnxruntime")

# in the order of receipts; the last one skips zeros, the others multiply by them
RUNTIMES: Mapping[str, Runtime] = {
    TORCH: Runtime(eager),
    TORCH_COMPILE: Runtime(torch_compile),
    ONNX_RUNTIME: Runtime(onnx_runtime, _ONNX),
    OPENVINO: Runtime(openvino, (*_ONNX, "openvino")),
    PRUNUS: Runtime(prunus_program),
}


def check_runtimes(names: Sequence[str]) -> tuple[str, ...]:
    """Return the runtimes, without repeats, if all are known; ``"all"`` stands for those whose packages are there.

    Raises:
        ValueError: there is none, or one is unknown.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    if not given:
        raise ValueError(f"runtimes is empty; give at least one of {', '.join(RUNTIMES)}, or {ALL}")
    wanted: list[str] = []
    for name in given:
        if name != ALL and name not in RUNTIMES:
            raise unknown_name("runtime", name, (*RUNTIMES, ALL))
        wanted += [known for known, runtime in RUNTIMES.items() if runtime.installed] if name == ALL else [name]
    return tuple(dict.fromkeys(wanted))


def ready(name: str, subject: Subject, batch: Batch, threads: int) -> Call:
    """Prepare a model in a runtime, hold it against PyTorch on random inputs, and return the call on the batch.

    Args:
        name: of `RUNTIMES`.
        subject: the model, in eval mode.
        batch: what the call gets.
        threads: what an operation may use; PyTorch's number is to be set to it already.

    Raises:
        LeftOutError: the runtime is not there, can't run the model, or computes something else.
    """
    if name == TORCH:
        return RUNTIMES[name].prepare(subject, batch, threads)(batch)
    if batch[0].device.type != "cpu":
        raise LeftOutError(f"it is timed on the CPU only, the models are on {batch[0].device}")
    from prunus.exporting.onnx import silence

    try:
        with silence():
            bind = RUNTIMES[name].prepare(subject, batch, threads)
            _check_same(subject.model, bind, batch)
            return bind(batch)
    except Exception as error:  # what another program can't do must not end the timing of all the others
        raise LeftOutError(_reason(error)) from error


def _check_same(model: nn.Module, bind: Bind, batch: Batch) -> None:
    from prunus.exporting import TOLERANCES
    from prunus.shrinking.verification import difference, random_like

    inputs, _ = random_like(batch, {})
    with torch.inference_mode():
        expected, found = _tensors(model(*inputs)), _tensors(bind(inputs)())
    apart = difference(expected, found)
    limit = max((TOLERANCES.get(value.dtype, 0.0) for value in expected), default=0.0)
    if not apart <= limit:
        raise LeftOutError(
            f"it computes something else: its outputs differ from PyTorch's by {apart:.1e} of the largest, more than "
            f"the {limit:.0e} that rounding explains"
        )


def _tensors(outputs: object) -> list[Tensor]:
    """Return the arrays of a call's outputs as tensors, in order."""
    leaves = pytree.tree_leaves(dict(outputs) if isinstance(outputs, Mapping) else outputs)
    return [
        leaf if isinstance(leaf, Tensor) else torch.from_numpy(numpy.array(leaf))
        for leaf in leaves
        if isinstance(leaf, (Tensor, numpy.ndarray))
    ]


def _own_function(model: nn.Module) -> Callable[..., Any]:
    """Return a function that calls the model, with a code object of its own.

    PyTorch keeps what it compiled beside the code object. With one for each model, a call passes no other model's
    guards, the limit on recompiling is never met, and nothing is left once the function is gone.
    """

    def forward(*inputs: Tensor) -> Any:
        return model(*inputs)

    return types.FunctionType(forward.__code__.replace(), globals(), "forward", closure=forward.__closure__)


def _without_advice(error: Exception) -> str:
    from prunus.exporting.onnx import reason

    if "InvalidCxxCompiler" in str(error):
        return "it needs a C++ compiler, and none works here; install g++ or clang, or name one in the variable CXX"
    return reason(error).partition(" Set TORCHDYNAMO_VERBOSE")[0]


def _reason(error: Exception) -> str:
    """Return what an error says: whole where this package wrote it, else on one line, cut."""
    from prunus.exporting.onnx import reason

    return str(error) if type(error).__module__.partition(".")[0] == __name__.partition(".")[0] else reason(error)
