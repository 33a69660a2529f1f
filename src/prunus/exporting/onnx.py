"""Models in ONNX, and ONNX Runtime to run them: for files, and for timing."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from prunus import extras
from prunus.errors import ExportError
from prunus.graph import Graph

BATCH = "batch"
# What one protocol buffer can hold, and so one file without others beside it.
LARGEST = 2**31 - 1


class OnnxError(ExportError):
    """A model that ONNX or ONNX Runtime can't hold or run; the message holds their reason."""


def check_dtypes(tensors: Iterable[Tensor], inputs: Sequence[Tensor]) -> None:
    """Refuse what ONNX Runtime can't run on the CPU, so that what was exported can't be checked.

    Args:
        tensors: parameters, buffers and inputs.
        inputs: that the model takes.

    Raises:
        OnnxError: numbers are in bfloat16 or in 8 bits, or an input is complex.
    """
    _refuse_narrow({tensor.dtype for tensor in tensors}, "the model is in")
    if any(value.is_complex() for value in inputs):
        raise OnnxError("it takes complex numbers, which ONNX Runtime doesn't: let it take real and imaginary parts")


def _refuse_narrow(dtypes: set[torch.dtype], who: str) -> None:
    narrow = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes if _is_narrow(dtype))
    if narrow:
        raise OnnxError(
            f"{who} {narrow[0]}, which ONNX Runtime knows for few operations on a CPU, where what was exported is "
            "checked: export a copy in float32, such as copy.deepcopy(model).float()"
        )


def advice(tensors: Iterable[Tensor]) -> str:
    """Return what to do where ONNX Runtime fails on a model with such parameters; nothing for those in float32."""
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} - {torch.float32}
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    text = f"; the model is in {names}, which ONNX Runtime knows for few operations: export a copy in float32"
    return text if dtypes else ""


def _is_narrow(dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 or (dtype.is_floating_point and dtype.itemsize < 2)


def _check_graph(graph: Graph) -> None:
    """Refuse a graph that computes in what ONNX Runtime can't run, or returns what ONNX can't hold.

    Raises:
        OnnxError: it does.
    """
    values = [value for node in graph.nodes for value in tensors_in(node.meta.get("val"))]
    _refuse_narrow({value.dtype for value in values}, "it computes in")
    for place, output in enumerate(pytree.tree_leaves(graph.nodes[-1].args[0])):
        value = output.meta.get("val") if isinstance(output, fx.Node) else output
        if not isinstance(value, Tensor):
            raise OnnxError(f"its output {place} is no tensor but {output!r:.40}; return tensors only")
        if value.is_complex():
            raise OnnxError(
                f"its output {place} is complex, which ONNX Runtime can't return; return torch.view_as_real"
            )


def translate(graph: Graph) -> bytes:
    """Return a traced model as ONNX, its weights inside and its batch free.

    Inputs have the names of the forward's arguments, outputs those of a dict's keys, else ``output``.

    Args:
        graph: on the CPU.

    Raises:
        OnnxError: ONNX has no counterpart of one of its operations, dtypes or outputs, or it takes more than 2 GB.
        MissingExtraError: a package is not installed.
    """
    for package in ("onnxscript", "onnx"):
        extras.require(package, "translating a model to ONNX")
    _check_graph(graph)
    inputs = [spec.arg.name for spec in graph.program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in map(graph.tensor, graph.tensors.values()))
    if weights > LARGEST:
        raise OnnxError(
            f"the weights have {weights:,} bytes, but a file of ONNX holds at most {LARGEST:,}; export a .pt2"
        )
    with silence():
        try:
            translated = torch.onnx.export(
                graph.program,
                graph.args,
                kwargs=graph.kwargs,
                input_names=inputs,
                dynamo=True,
                verbose=False,
                external_data=False,
            )
            assert translated is not None
            with tempfile.TemporaryDirectory(prefix="prunus-") as folder:
                path = Path(folder) / "model.onnx"
                translated.save(path, external_data=False)
                data = path.read_bytes()
            return _finished(data, _output_names(graph))
        except Exception as error:
            raise OnnxError(f"it can't be translated to ONNX: {reason(error)}") from error


def session(data: bytes, threads: int | None = None, *, exact: bool = False) -> Any:
    """Return an ONNX Runtime session on the CPU, its graph optimised as far as it goes.

    Args:
        data: a model in ONNX.
        threads: what an operation may use; operations run one after the other. None leaves it to ONNX Runtime.
        exact: whether whole numbers of 8 bits are multiplied exactly, at the cost of time, on CPUs without
            instructions for them (VNNI) too, where sums of two products would be cut off at 16 bits.

    Raises:
        OnnxError: ONNX Runtime can't run the model.
        MissingExtraError: ONNX Runtime is not installed.
    """
    runtime = extras.require("onnxruntime", "running a model in ONNX Runtime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # only what ends the process
    options.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
    # Its threads must not go on waiting busily after a call: what is timed in the next turn would pay for it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise OnnxError(f"ONNX Runtime can't run it: {reason(error)}") from error


def call(running: Any, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> Callable[[], list[Any]]:
    """Return what runs a session on inputs, which become NumPy arrays now.

    Args:
        running: a session.
        args: what the model takes by position, on the CPU.
        kwargs: what it takes by name.
    """
    names = [entry.name for entry in running.get_inputs()]
    positional = (name for name in names if name not in kwargs)
    arguments = {**dict(zip(positional, args, strict=False)), **kwargs}
    feeds = {name: arguments[name].detach().contiguous().numpy() for name in names}
    return lambda: list(running.run(None, feeds))


def outputs(running: Any, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> list[Tensor]:
    """Return what a session computes, as tensors.

    Raises:
        OnnxError: it fails on these inputs.
    """
    try:
        results = call(running, args, kwargs)()
    except Exception as error:
        raise OnnxError(f"ONNX Runtime can't run it: {reason(error)}") from error
    return [torch.from_numpy(value.copy()) for value in results]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Let nothing of what PyTorch's exporters print, log and warn reach the user; errors come through."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _finished(data: bytes, outputs: Sequence[str]) -> bytes:
    """Name the batch and the outputs, drop what only tells of the model's source, and let ONNX's own checker look."""
    onnx = extras.require("onnx", "translating a model to ONNX")
    model = onnx.load_from_string(data)
    dimensions = [
        dim for entry in (*model.graph.input, *model.graph.output) for dim in entry.type.tensor_type.shape.dim
    ]
    free = next((dim.dim_param for dim in dimensions if dim.dim_param.isidentifier()), None)
    for dimension in dimensions:
        if free is not None and dimension.dim_param:
            dimension.dim_param = re.sub(rf"\b{free}\b", BATCH, dimension.dim_param)
    for graph in (model.graph, *model.functions):
        _forget_sources(graph)
    _name_outputs(model.graph, outputs)
    _part_zero_points(model.graph)
    onnx.checker.check_model(model, full_check=True)
    named: bytes = model.SerializeToString()
    return named


def _part_zero_points(graph: Any) -> None:
    """Give each weight of 8 bits zero points of its own.

    Equal ones are written once, and ONNX Runtime fails on these where it makes weights unsigned
    (session.x64quantprecision): "Attempt to replace the existing tensor".
    """
    held = {tensor.name: tensor for tensor in graph.initializer}
    used: set[str] = set()
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3 or node.input[0] not in held:
            continue
        shared = node.input[2]
        if shared in used and shared in held:
            copy = graph.initializer.add()
            copy.CopyFrom(held[shared])
            copy.name = node.input[2] = f"{node.input[0]}_own_zero_points"
        used.add(shared)


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Give the outputs names, unless others have them: torch.onnx would give one name to two values."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    inputs = {entry.name for entry in (*graph.input, *graph.initializer)}
    renamed: dict[str, str] = {}
    for entry, name in zip(graph.output, names, strict=True):
        if entry.name not in inputs | renamed.keys():
            free = next(
                candidate
                for candidate in (name + "_" * more for more in range(len(taken) + 2))
                if candidate not in taken
            )
            renamed[entry.name] = free
            taken.add(free)
    _rename(graph, renamed)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for entry in graph.output:
        entry.name = names.get(entry.name, entry.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
        for inner in _inner_graphs(node):
            _rename(inner, names)


def _inner_graphs(node: Any) -> list[Any]:
    """Return the graphs within a node, such as a loop's body; asking a node for one that it lacks would make it."""
    return [
        inner
        for attribute in node.attribute
        for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs)
    ]


def _forget_sources(graph: Any) -> None:
    """Drop stack traces, which name folders of this machine, and shapes, which a reader infers; half of many files."""
    del graph.value_info[:]
    named = [entry for kind in ("input", "output", "initializer") for entry in getattr(graph, kind)]
    for entry in (graph, *graph.node, *named):
        if hasattr(entry, "metadata_props"):
            del entry.metadata_props[:]
    for node in graph.node:
        for inner in _inner_graphs(node):
            _forget_sources(inner)


def _output_names(graph: Graph) -> list[str]:
    """Return names for the outputs: a dict's keys where all of them are tensors."""
    specs = graph.program.graph_signature.output_specs
    structure = graph.program.call_spec.out_spec
    keys = structure.context if structure is not None and not structure.is_leaf() else None
    if len(specs) == 1:
        return ["output"]
    named = isinstance(keys, (list, tuple)) and len(keys) == len(specs) and all(isinstance(key, str) for key in keys)
    return [str(key) for key in keys] if named and keys else [f"output_{place}" for place in range(len(specs))]


def reason(error: Exception) -> str:
    """Return what an error says, on one line; torch.onnx puts pages of advice around it."""
    cause = error.__cause__ if error.__cause__ is not None else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {' '.join(lines)[:300]}" if lines else type(cause).__name__


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of a nested value, in order."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
