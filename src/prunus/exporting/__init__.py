"""A model for other programs: ONNX, torch.export, ExecuTorch, a library, C, or weights; checked before it is there.

prunus.export(model, "model.onnx", example_inputs)
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus import extras, files
from prunus.compiling.building import compile
from prunus.compiling.loading import load
from prunus.compiling.mixed_program import MixedProgram
from prunus.compiling.program import Program
from prunus.copying import copy_model
from prunus.errors import ExportError
from prunus.exporting import onnx as onnx_runtime
from prunus.exporting.comparing import check_runs
from prunus.exporting.quantized import check_scales, difference_of, traced
from prunus.forward import devices_of, undisturbed
from prunus.graph import ExampleInputs, call_arguments
from prunus.graph.exported import ExportedModule
from prunus.graph.exported.structure import Input
from prunus.packing.sizes import sizes
from prunus.quantizing import Scales, with_rounded_weights
from prunus.registry import unknown_name
from prunus.supported import check_values, problem, unwrap
from prunus.tables import ABSENT, count, pairs

if TYPE_CHECKING:
    from prunus.exporting.c import CFacts
    from prunus.graph import Graph


@dataclass(frozen=True)
class ExportFacts:
    """What `export` wrote.

    Attributes:
        format: "onnx", "pt2", "pte", "so", "c" or "safetensors".
        bytes: of the file; of both for C.
        state_bytes: of the model's state dict as a safetensors file; None for a program.
        difference: the largest between the outputs of the file and of the model or program, relative to the largest
            output, on random inputs of two batch sizes; with scales, the root of the mean squared difference, relative
            to that of the outputs; None for weights, which are compared to the bit, and for C
            where there is no compiler.
        c: what C takes of a microcontroller; None for the others.
    """

    format: str
    bytes: int
    state_bytes: int | None
    difference: float | None
    c: CFacts | None = None

    def __str__(self) -> str:
        rows = [
            ("format", self.format),
            ("file, bytes", count(self.bytes)),
            ("plain weights, bytes", count(self.state_bytes)),
            ("largest relative difference", ABSENT if self.difference is None else f"{self.difference:.1e}"),
        ]
        return "\n".join([str(pairs(rows)), *([str(self.c)] if self.c else [])])


def export(
    model: nn.Module | Program | Path | str,
    path: Path | str,
    example_inputs: ExampleInputs | None = None,
    *,
    format: str | None = None,
    scales: Scales | None = None,
) -> ExportFacts:
    """Write a model, or a program of one, as a file for other programs.

    The batch stays free, if the model leaves it free. Before the file takes its name it is loaded and run on random
    inputs of two batch sizes: the outputs must be the model's, or the program's.

    Args:
        model: any module, in any mode and on any device; or a ``.prunus`` file; for ``"so"`` also what `compile`
            returned, or its file. It is left as it was.
        path: where the file goes.
        example_inputs: a tensor, a tuple of tensors, or a mapping from argument names to tensors, the batch first; None
            is enough for a `prunus.graph.exported.ExportedModule` and a program, which know their inputs, and for
            ``"safetensors"``.
        format: ``"onnx"`` (weights inside; checked by ONNX's checker and in ONNX Runtime on the CPU), ``"pt2"``
            (`torch.export.save`, for the model's device; loading it is PyTorch's part), ``"pte"`` (ExecuTorch, computed
            by XNNPACK; memory is planned beforehand, so it takes as many samples at most as the example has, or three,
            and inputs in the example's order),
            ``"so"`` (a shared library that skips the zeros, for any batch and several threads, with a C header beside
            it; a model is compiled first, for the batch of the example), ``"c"`` (C99 for microcontrollers, which
            computes one sample at a time: the path's .c and a .h beside it; zero weights are left out, also those that
            an infinity or NaN would turn into NaN), or ``"safetensors"`` (the state dict). None takes the path's
            suffix.
        scales: for ``"onnx"``, ``"pt2"``, ``"pte"`` and ``"c"``: what `quantize` returned for the model. The file then
            holds weights in 8 bits. In the first three, values go through 8 bits ("QDQ": pairs of QuantizeLinear and
            DequantizeLinear), which ONNX Runtime, OpenVINO and XNNPACK compute with, and the file is held against the
            model as `Quantizer` rounds it. C computes in float, and is held against the model with rounded weights.

    Raises:
        TypeError: the model is none, it is a program and the format no library, or scales are something else.
        ValueError: the format is unknown, example inputs are missing or a program's, or scales are given for a format
            that has none.
        ScalesError: the scales belong to another model.
        GraphError: the model can't be traced.
        CompileError: the model can't become a program, which a library is, or there is no C compiler.
        ExportError: the format can't hold the model, or what was written computes something else.
        MissingExtraError: a package that ONNX or ExecuTorch takes is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     facts = export(nn.Linear(3, 2), Path(folder) / "linear.safetensors")
    >>> facts.format, facts.difference
    ('safetensors', None)
    """
    kind = _format(Path(path), format)
    if scales is not None and kind not in (*FORMATS, "c"):
        raise ValueError(f"scales are for the formats {', '.join(FORMATS)} and c, not for {kind}")
    if kind == "so":
        return _write_library(model, Path(path), example_inputs)
    if isinstance(model, Program):
        raise TypeError(f"a program can be exported as a library, such as net.so, not as {kind}; give the model")
    module = unwrap(_loaded(model))
    if kind == "safetensors":
        return _write_weights(module, Path(path))
    inputs = _inputs(module, example_inputs)
    if kind == "c":
        return _write_c(module, inputs, Path(path), scales)
    with files.whole_file(path) as temporary:
        result = FORMATS[kind](module, inputs, scales, temporary)
        size = temporary.stat().st_size
    return ExportFacts(kind, size, _state_bytes(module), result)


def to_onnx(model: nn.Module, example_inputs: ExampleInputs, scales: Scales | None = None) -> tuple[bytes, float]:
    """Return a model as ONNX, and the largest difference of its outputs in ONNX Runtime to the model's.

    Args:
        model: any module; it is left as it was.
        example_inputs: see `export`.
        scales: likewise.

    Raises:
        GraphError: the model can't be traced.
        ExportError: ONNX can't hold the model, or ONNX Runtime computes something else.
        MissingExtraError: a package is not installed.
    """
    extras.require("onnxruntime", "checking what was exported")  # before minutes of translating
    args, kwargs = call_arguments(example_inputs, 1)
    tensors = {*model.parameters(), *model.buffers()}
    advice = ""
    try:
        onnx_runtime.check_dtypes((*tensors, *args, *kwargs.values()), (*args, *kwargs.values()))
        advice = onnx_runtime.advice(tensors)
        host = _on_cpu(model)
        inputs = pytree.tree_map(lambda value: value.cpu(), example_inputs)
        graph, arguments = traced(host, scales, inputs)
        check_runs(host, inputs)
        data = onnx_runtime.translate(graph)
        running = onnx_runtime.session(data, exact=scales is not None)
        return data, difference_of(
            host, scales, lambda *args, **kwargs: onnx_runtime.outputs(running, args, kwargs), arguments
        )
    except onnx_runtime.OnnxError as error:
        raise ExportError(f"the model ({type(model).__name__}) can't be exported: {error}{advice}") from error


def _write_onnx(model: nn.Module, inputs: ExampleInputs, scales: Scales | None, target: Path) -> float:
    data, apart = to_onnx(model, inputs, scales)
    target.write_bytes(data)
    return apart


def _write_program(model: nn.Module, inputs: ExampleInputs, scales: Scales | None, target: Path) -> float:
    graph, arguments = traced(model, scales, inputs)
    check_runs(model, inputs)
    _forget_sources(graph)
    with onnx_runtime.silence():
        try:
            buffer = io.BytesIO()
            torch.export.save(graph.program, buffer)
            buffer.seek(0)
            again = torch.export.load(buffer).module()
        except Exception as error:
            kind = type(model).__name__
            raise ExportError(f"the model ({kind}) can't be saved by torch.export: {error}") from error

        def run(*args: Tensor, **kwargs: Tensor) -> list[Tensor]:
            with torch.no_grad():
                return onnx_runtime.tensors_in(again(*args, **kwargs))

        apart = difference_of(model, scales, run, arguments)
    target.write_bytes(buffer.getbuffer())
    return apart


def _write_executorch(model: nn.Module, inputs: ExampleInputs, scales: Scales | None, target: Path) -> float:
    from prunus.exporting.executorch import to_executorch

    data, apart = to_executorch(_on_cpu(model), pytree.tree_map(lambda value: value.cpu(), inputs), scales)
    target.write_bytes(data)
    return apart


# format -> what writes it: (model, inputs, scales, file) -> the largest relative difference
FORMATS: Mapping[str, Callable[[nn.Module, ExampleInputs, Scales | None, Path], float]] = {
    "onnx": _write_onnx,
    "pt2": _write_program,
    "pte": _write_executorch,
}
_ALL_FORMATS = (*FORMATS, "so", "c", "safetensors")


def _write_library(model: nn.Module | Program | Path | str, path: Path, inputs: ExampleInputs | None) -> ExportFacts:
    from prunus.exporting.library import write_library

    subject = load(model) if isinstance(model, (Path, str)) else model
    state_bytes = None
    if isinstance(subject, nn.Module):
        state_bytes = _state_bytes(subject)
        subject = compile(subject, _inputs(unwrap(subject), inputs))
    elif isinstance(subject, MixedProgram):
        raise TypeError("a program with parts that stay in PyTorch can't become a library; export one without")
    elif not isinstance(subject, Program):
        raise TypeError(f"model must be a torch.nn.Module, a Program or a file, got {type(subject).__name__}")
    elif inputs is not None:
        raise ValueError("a program knows what it takes; leave out example_inputs")
    size, apart = write_library(subject, path)
    return ExportFacts("so", size, state_bytes, apart)


def _write_c(model: nn.Module, inputs: ExampleInputs, path: Path, scales: Scales | None) -> ExportFacts:
    from prunus.errors import CompileError
    from prunus.exporting.c import write_c

    host = _on_cpu(model)
    if scales is not None:
        host = with_rounded_weights(host, check_scales(scales))
    try:
        facts = write_c(host, pytree.tree_map(lambda value: value.cpu(), inputs), path, scales is not None)
    except CompileError as error:
        raise ExportError(f"the model ({type(model).__name__}) can't be exported to C: {error}") from error
    return ExportFacts("c", facts.bytes, _state_bytes(model), facts.difference, facts)


def _write_weights(model: nn.Module, path: Path) -> ExportFacts:
    state = model.state_dict()
    for name, value in state.items():
        reason = problem(value) if isinstance(value, Tensor) else f"is a {type(value).__name__}"
        if reason is not None or value.is_meta:
            what = reason or "is on the meta device"
            raise ExportError(f"{name!r} of the state dict is nothing that safetensors can hold: it {what}")
    files.save_tensors(path, state)
    size = path.stat().st_size
    return ExportFacts("safetensors", size, size, None)


def _inputs(model: nn.Module, example_inputs: ExampleInputs | None) -> ExampleInputs:
    if example_inputs is not None:
        call_arguments(example_inputs)
        return example_inputs
    remembered = inputs_of(model)
    if remembered is None:
        raise ValueError(
            f"the model ({type(model).__name__}) does not tell what it takes; give example_inputs, such as "
            "torch.randn(1, 3, 224, 224)"
        )
    return remembered


def inputs_of(model: nn.Module) -> dict[str, Tensor] | tuple[Tensor, ...] | None:
    """Return inputs for a module that knows what it takes: zeros where that is whole numbers, else normal numbers.

    Returns:
        Two samples for an ExportedModule whose inputs are plain tensors; None for all else.
    """
    if not isinstance(model, ExportedModule):
        return None
    leaves, signature = model.signature.inputs, model.signature
    if any(leaf.dtype is None for leaf in leaves) or any(s.kind != "leaf" for s in signature.arguments.values()):
        return None
    generator = torch.Generator().manual_seed(0)
    device = next((tensor.device for tensor in model.tensors().values()), torch.device("cpu"))
    like = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)

    if any(isinstance(size, str) for leaf in leaves for size in leaf.shape[1:] if not leaf.example):
        return None

    def random_tensor(leaf: Input, dtype: torch.dtype) -> Tensor:
        example = (2, *leaf.example[1:]) if leaf.example else (2,) * len(leaf.shape)
        sizes = [size if isinstance(size, int) else example[dim] for dim, size in enumerate(leaf.shape)]
        if not dtype.is_floating_point:
            return torch.zeros(sizes, dtype=dtype, device=device)
        return torch.randn(sizes, generator=generator).to(device, like or dtype)

    tensors = [random_tensor(leaf, leaf.dtype) for leaf in leaves if leaf.dtype is not None]
    if signature.num_positional == len(leaves):
        return tuple(tensors)
    return dict(zip(signature.arguments, tensors, strict=True)) if signature.num_positional == 0 else None


def _format(path: Path, format_name: str | None) -> str:
    kind = path.suffix.removeprefix(".").lower() if format_name is None else format_name
    if kind not in _ALL_FORMATS:
        if format_name is None:
            raise ValueError(
                f"{str(path)!r} does not tell its format; give it one of the suffixes "
                f"{', '.join(f'.{name}' for name in _ALL_FORMATS)}, or a format"
            )
        raise unknown_name("format", kind, _ALL_FORMATS)
    return kind


def _loaded(model: nn.Module | Path | str) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, (str, Path)):
        raise TypeError(f"model must be a torch.nn.Module or a .prunus file, got {type(model).__name__}")
    return load(model, expect=nn.Module)


def _state_bytes(model: nn.Module) -> int | None:
    return sizes(model.state_dict(), compress_limit=0).bytes.get("safetensors")


def _on_cpu(model: nn.Module) -> nn.Module:
    if devices_of(model) <= {torch.device("cpu")}:
        return model
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        check_values(name, tensor)
    with undisturbed(model):
        return copy_model(model).cpu()


def _forget_sources(graph: Graph) -> None:
    """Leave out of the file where the model's source lies on this machine, and the inputs it was traced with."""
    program: Any = graph.program
    program._example_inputs = None
    for module in program.graph_module.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            node.meta.pop("stack_trace", None)
