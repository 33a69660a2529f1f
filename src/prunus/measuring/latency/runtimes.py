"""The runtimes that models are timed in: one function each prepares a model for a batch and a number of threads."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import io
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus import extras
from prunus.copying import copy_model
from prunus.registry import unknown_name

if TYPE_CHECKING:
    from prunus.quantizing import Scales

# Random samples that 8 bits are calibrated on for timing.
_SAMPLES = 16

Batch: TypeAlias = tuple[Tensor, ...]
Call: TypeAlias = Callable[[], object]
# a prepared model: takes inputs of the batch size it was prepared for, and returns the call that is timed
Bind: TypeAlias = Callable[[Batch], Call]

TORCH, TORCH_COMPILE, ONNX_RUNTIME, OPENVINO, PRUNUS = "torch", "torch-compile", "onnxruntime", "openvino", "prunus"
ONNX_RUNTIME_INT8, OPENVINO_INT8, PRUNUS_INT8 = "onnxruntime-int8", "openvino-int8", "prunus-int8"
# stands for every runtime whose packages are installed
ALL = "all"


class LeftOutError(ValueError):
    """A model that can't be timed in a runtime; the message says why."""


class TimedModel:
    """A model to be timed, and a cache of its conversions, which several batches, threads and runtimes share.

    Args:
        model: in eval mode.
        inputs: one batch of them.
        scales: of 8 bits; None finds some on random numbers.
    """

    def __init__(self, model: nn.Module, inputs: Batch, scales: Scales | None = None) -> None:
        self.model, self.inputs, self._scales = model, inputs, scales
        self._cache: dict[object, Any] = {}

    def once(self, key: object, make: Callable[[], Any]) -> Any:
        """Return what `make` returned or raised the first time: a conversion takes seconds, and would fail again."""
        if key not in self._cache:
            try:
                self._cache[key] = make()
            except Exception as error:
                self._cache[key] = error
        if isinstance(self._cache[key], Exception):
            raise self._cache[key]
        return self._cache[key]

    def onnx(self) -> bytes:
        """Return the model in ONNX; errors are those of `prunus.exporting.to_onnx`."""
        from prunus.exporting import to_onnx  # here, since importing it takes a while

        data, _ = self.once("onnx", lambda: to_onnx(self.model, self.inputs))
        return bytes(data)

    def scales(self) -> Scales:
        """Return the scales; without, some from random numbers like the inputs: they hardly change a call's time."""
        if self._scales is not None:
            return self._scales
        from prunus.proving.verification import random_like
        from prunus.quantizing import quantize

        def make() -> Scales:
            with torch.inference_mode(False):
                size = len(self.inputs[0])  # a forward may fix the batch
                draws = [random_like(self.inputs, {})[0] for _ in range(max(2, _SAMPLES // size))]
                names = list(inspect.signature(self.model.forward).parameters)
                batches = [own[0] if len(own) == 1 else dict(zip(names, own, strict=False)) for own in draws]
                return quantize(self.model, batches, ranges="minmax", max_error=math.inf)

        scales: Scales = self.once("scales", make)
        return scales

    def quantized_onnx(self) -> bytes:
        """Return the model in ONNX, in 8 bits; errors are those of `prunus.exporting.to_onnx` and `prunus.quantize`."""
        from prunus.exporting import to_onnx

        data, _ = self.once("int8", lambda: to_onnx(self.model, self.inputs, self.scales()))
        return bytes(data)

    def rounded(self) -> nn.Module:
        """Return the model as it is rounded to 8 bits."""
        from prunus.quantizing import Quantizer

        def make() -> nn.Module:
            with torch.inference_mode(False):
                model = copy_model(self.model)
                Quantizer(model, self.scales())
                return model

        model: nn.Module = self.once("rounded", make)
        return model


@dataclass(frozen=True)
class Runtime:
    """One entry of `RUNTIMES`: a function that prepares a model, the packages it needs, and whether it has 8 bits."""

    prepare: Callable[[TimedModel, Batch, int], Bind]
    packages: tuple[str, ...] = ()
    in_8_bits: bool = False

    @property
    def installed(self) -> bool:
        """Whether every package can be found; none is imported."""
        return all(importlib.util.find_spec(package) is not None for package in self.packages)


def eager(timed: TimedModel, batch: Batch, threads: int) -> Bind:
    """PyTorch in eager mode."""
    device = batch[0].device
    if device.type == "cpu":
        return lambda inputs: functools.partial(timed.model, *inputs)

    def call(inputs: Batch) -> object:
        output = timed.model(*inputs)
        torch.accelerator.synchronize(device)  # the call returned before its work was done
        return output

    return lambda inputs: functools.partial(call, inputs)


def torch_compile(timed: TimedModel, batch: Batch, threads: int) -> Bind:
    """torch.compile, tuned for this batch: one graph with frozen weights, kernels chosen by timing them.

    PyTorch compiles its current number of threads into the code.
    """
    chosen: dict[str, str | int | bool | Callable[..., Any]] = {"freezing": True, "max_autotune": True}
    compiled = torch.compile(_own_function(timed.model), fullgraph=True, dynamic=False, options=chosen)
    try:
        with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):  # it prints its trials there
            compiled(*batch)
    except Exception as error:
        raise LeftOutError(_without_advice(error)) from error
    return lambda inputs: functools.partial(compiled, *inputs)


def onnx_runtime(timed: TimedModel, batch: Batch, threads: int) -> Bind:
    """ONNX Runtime with all its graph optimisations."""
    from prunus.exporting import onnx as onnx_runtime

    running = timed.once((ONNX_RUNTIME, threads), lambda: onnx_runtime.session(timed.onnx(), threads))
    return lambda inputs: onnx_runtime.call(running, inputs, {})


def onnx_runtime_int8(timed: TimedModel, batch: Batch, threads: int) -> Bind:
    """ONNX Runtime, weights and activations in 8 bits."""
    from prunus.exporting import onnx as onnx_runtime

    running = timed.once(
        (ONNX_RUNTIME_INT8, threads), lambda: onnx_runtime.session(timed.quantized_onnx(), threads, exact=True)
    )
    return lambda inputs: onnx_runtime.call(running, inputs, {})


def openvino(timed: TimedModel, batch: Batch, threads: int) -> Bind:
    """OpenVINO on the CPU, from the model in ONNX: tuned for latency, with fixed shapes, in float32."""
    return _in_openvino(timed.onnx(), batch, threads)


def openvino_int8(timed: TimedModel, batch: Batch, threads: int) -> Bind:
    """OpenVINO likewise, weights and activations in 8 bits, and in float32 what is left."""
    return _in_openvino(timed.quantized_onnx(), batch, threads)


def _in_openvino(data: bytes, batch: Batch, threads: int) -> Bind:
    runtime = extras.require("openvino", "timing a model in OpenVINO")
    core = runtime.Core()
    model = core.read_model(data)
    model.reshape({port: list(value.shape) for port, value in zip(model.inputs, batch, strict=True)})
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # the default is fewer bits on some processors
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = core.compile_model(model, "CPU", hints)

    def bind(inputs: Batch) -> Call:
        request = compiled.create_infer_request()
        for port, value in zip(compiled.inputs, inputs, strict=True):
            request.set_tensor(port, runtime.Tensor(value.detach().contiguous().numpy(), shared_memory=True))
        return lambda: request.infer(share_outputs=True).to_tuple()

    return bind


def prunus_program(timed: TimedModel, batch: Batch, threads: int) -> Bind:
    """The program of `prunus.compile`, which skips zeros."""
    from prunus.compiling import compile

    program = compile(timed.model, batch, threads=threads)  # takes any batch size, but is tuned for this one
    return lambda inputs: functools.partial(program, *inputs)


def prunus_int8(timed: TimedModel, batch: Batch, threads: int) -> Bind:
    """The program of `prunus.compile` likewise, weights and activations in 8 bits."""
    from prunus.compiling import compile

    with torch.inference_mode(False):
        program = compile(timed.model, batch, threads=threads, scales=timed.scales())
    return lambda inputs: functools.partial(program, *inputs)


_ONNX = ("onnx", "onnxscript", "onnxruntime")

# in the order of receipts; only the last two skip zeros
RUNTIMES: Mapping[str, Runtime] = {
    TORCH: Runtime(eager),
    TORCH_COMPILE: Runtime(torch_compile),
    ONNX_RUNTIME: Runtime(onnx_runtime, _ONNX),
    ONNX_RUNTIME_INT8: Runtime(onnx_runtime_int8, _ONNX, in_8_bits=True),
    OPENVINO: Runtime(openvino, (*_ONNX, "openvino")),
    OPENVINO_INT8: Runtime(openvino_int8, (*_ONNX, "openvino"), in_8_bits=True),
    PRUNUS: Runtime(prunus_program),
    PRUNUS_INT8: Runtime(prunus_int8, in_8_bits=True),
}


def check_runtimes(names: Sequence[str]) -> tuple[str, ...]:
    """Return the runtimes without duplicates, after checking the names; ``"all"`` stands for the installed ones.

    Raises:
        ValueError: there is no name, or one is unknown.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names:
        raise ValueError(f"runtimes is empty; give at least one of {', '.join(RUNTIMES)}, or {ALL}")
    runtimes: list[str] = []
    for name in names:
        if name != ALL and name not in RUNTIMES:
            raise unknown_name("runtime", name, (*RUNTIMES, ALL))
        runtimes += [key for key, runtime in RUNTIMES.items() if runtime.installed] if name == ALL else [name]
    return tuple(dict.fromkeys(runtimes))


def ready(name: str, timed: TimedModel, batch: Batch, threads: int) -> Call:
    """Prepare a model in a runtime, verify its outputs on random inputs, and return the call on the batch.

    Args:
        name: a name of `RUNTIMES`.
        timed: the model, in eval mode.
        batch: the inputs of the call.
        threads: the number of threads of an operation; PyTorch's number must be set to it already.

    Raises:
        LeftOutError: the runtime is not installed, can't run the model, or its outputs differ from PyTorch's.
    """
    if name == TORCH:
        return RUNTIMES[name].prepare(timed, batch, threads)(batch)
    if batch[0].device.type != "cpu":
        raise LeftOutError(f"it runs on the CPU only, the models are on {batch[0].device}")
    from prunus.exporting.onnx import silence

    try:
        with silence():
            bind = RUNTIMES[name].prepare(timed, batch, threads)
            if RUNTIMES[name].in_8_bits:
                _verify_rounded(timed, bind, batch)
            else:
                _verify(timed.model, bind, batch)
            return bind(batch)
    except Exception as error:  # a failing runtime must not end the timing of the others
        raise LeftOutError(_reason(error)) from error


def _verify(model: nn.Module, bind: Bind, batch: Batch) -> None:
    from prunus.exporting.comparing import TOLERANCES
    from prunus.proving.verification import difference, random_like

    inputs, _ = random_like(batch, {})
    with torch.inference_mode():
        expected, outputs = _tensors(model(*inputs)), _tensors(bind(inputs)())
    error = difference(expected, outputs)
    limit = max((TOLERANCES.get(value.dtype, 0.0) for value in expected), default=0.0)
    if not error <= limit:
        raise LeftOutError(
            f"its outputs differ from PyTorch's by {error:.1e} of the largest, more than the {limit:.0e} that rounding "
            "explains"
        )


def _verify_rounded(timed: TimedModel, bind: Bind, batch: Batch) -> None:
    """Compare with the model as it is rounded: as far from it as rounding is from the model may be other kernels."""
    from prunus.proving.verification import distance, random_like, rounding_limit

    inputs, _ = random_like(batch, {})
    with torch.no_grad():
        plain, expected = _tensors(timed.model(*inputs)), _tensors(timed.rounded()(*inputs))
        outputs = _tensors(bind(inputs)())
    error, limit = distance(expected, outputs), rounding_limit(expected, plain)
    if not error <= limit:
        raise LeftOutError(
            f"its outputs differ from those of the model rounded to 8 bits by {error:.1e} of their mean square, more "
            f"than the {limit:.0e} that rounding explains"
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

    PyTorch caches compiled code by code object. With one per model, a call checks no other model's guards, the limit on
    recompilations is never reached, and the compiled code is freed together with the function.
    """

    def forward(*inputs: Tensor) -> Any:
        return model(*inputs)

    return types.FunctionType(forward.__code__.replace(), globals(), "forward", closure=forward.__closure__)


def _without_advice(error: Exception) -> str:
    from prunus.exporting.onnx import reason

    if "InvalidCxxCompiler" in str(error):
        return (
            "it needs a C++ compiler, and found none that works; install g++ or clang, or name one in the variable CXX"
        )
    return reason(error).partition(" Set TORCHDYNAMO_VERBOSE")[0]


def _reason(error: Exception) -> str:
    """Return the message of an error: whole if prunus raised it, otherwise one line of limited length."""
    from prunus.exporting.onnx import reason

    return str(error) if type(error).__module__.partition(".")[0] == __name__.partition(".")[0] else reason(error)
