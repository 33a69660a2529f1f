"""One reading of a model's graph, from torch.export, for all that needs to know what feeds what."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from prunus import supported
from prunus.errors import GraphError
from prunus.forward import undisturbed
from prunus.graph import free_sizes
from prunus.graph.exported.regions import flatten_in_place
from prunus.graph.free_sizes import batch_is_free
from prunus.graph.tracing import lines_unread, tracing
from prunus.supported import unwrap

# A tensor, several in order, or several by the name of the forward's argument.
ExampleInputs: TypeAlias = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
Call: TypeAlias = tuple[tuple[Tensor, ...], dict[str, Tensor]]


@dataclass(frozen=True)
class Graph:
    """A model's graph and what its placeholders stand for.

    Attributes:
        program: the exported program in torch's training IR: the operations that the model calls, none decomposed.
        model: the model it was read from, out of its wrappers.
        args, kwargs: the inputs it was traced with; the first dimension of each is the batch: at least 2, or the
            example's own where it is pinned.
        batch: None where the graph computes what the model does for any number of samples; else the one it is for,
            since the model's code pins it.
        tensors: placeholder -> name of the parameter, buffer or constant it stands for.
    """

    program: ExportedProgram
    model: nn.Module
    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    tensors: dict[str, str]
    batch: int | None = None

    @property
    def nodes(self) -> list[fx.Node]:
        """The operations in the order they are computed."""
        return list(self.program.graph.nodes)

    @property
    def example_inputs(self) -> ExampleInputs:
        """The inputs it was traced with, as `trace` takes them."""
        return self.kwargs if self.kwargs and not self.args else self.args

    @property
    def num_samples(self) -> int:
        """How many samples the inputs have that it was traced with."""
        return _num_samples((self.args, self.kwargs))

    def tensor(self, name: str) -> Tensor:
        """Return the parameter, buffer or constant of that name."""
        held: Any = self.program.state_dict.get(name, self.program.constants.get(name))
        assert isinstance(held, Tensor)
        return held


def trace(model: nn.Module, example_inputs: ExampleInputs) -> Graph:
    """Read a model's graph in eval mode; the model is left as it was.

    Args:
        model: any module; wrappers of data-parallel training, torch.compile and Fabric are looked through.
        example_inputs: a tensor, a tuple of tensors, or a mapping from argument names to tensors, whose first dimension
            is the batch. One sample suffices. On the meta device nothing is computed.

    Returns:
        A graph that leaves the batch free; where the model's code pins it, as ``x.view(2, -1)`` and a loop over the
        samples do, a graph for as many samples as the example has, which `Graph.batch` tells.

    Raises:
        TypeError: the model is not a Module, or the inputs are not tensors.
        GraphError: torch.export can't trace the model; the message holds its reason and the line of the model.
    """
    return trace_sizes(model, example_inputs, frozenset())


# A dimension of an input: which of the inputs, those by position first, and which of its dimensions.
Place: TypeAlias = tuple[int, int]


def trace_sizes(model: nn.Module, example_inputs: ExampleInputs, free: frozenset[Place]) -> Graph:
    """Do what `trace` does, and leave other sizes free beside the batch, unless the model's code pins them.

    Args:
        model: any module.
        example_inputs: as of `trace`.
        free: the dimensions that may stay free, the batch left out.

    Raises:
        TypeError, GraphError: as `trace`.
    """
    inner = unwrap(model)
    check_readable(inner)
    with tracing(), undisturbed(inner):
        own = call_arguments(example_inputs, 1)
        call = call_arguments(example_inputs)
        try:
            graph = _export(inner, *call, free | _batches(*call))
        except Exception as error:
            if _num_samples(own) > 1:
                why, cause = _why(inner, *call, error)
                raise GraphError(why) from cause
            return _pinned(inner, own, free, error)
        if batch_is_free(graph.program, inner, *call):
            return graph
        size = _num_samples(own)
        if size > 1 and isinstance(free_sizes.sizes_of(graph.program)[0][0], int):
            return replace(graph, batch=size)
        return _pinned(inner, own, free, None)


def check_readable(model: nn.Module) -> None:
    """Refuse a model whose graph can't be read, before it is run: a lazy module would take its sizes from a forward.

    Raises:
        GraphError: it holds such a module or tensor; the message names it.
    """
    for module in model.modules():
        if reason := getattr(vars(module).get("forward"), "unreadable", ""):
            raise GraphError(f"the graph of the model ({type(model).__name__}) can't be read: {reason}")
    for reason in supported.problems(model):
        raise GraphError(f"the graph of the model ({type(model).__name__}) can't be read: {reason}")


def trace_own_batch(model: nn.Module, example_inputs: ExampleInputs) -> Graph:
    """Do what `trace` does, for as many samples as the example has, whether or not the batch could be free.

    Raises:
        TypeError, GraphError: as `trace`.
    """
    inner = unwrap(model)
    with tracing(), undisturbed(inner):
        return _pinned(inner, call_arguments(example_inputs, 1), frozenset(), None)


def trace_made_of(graph: Graph, model: nn.Module) -> Graph:
    """Read the graph of a model that was made of another one, whose graph leaves the batch free.

    Only where torch.export's conditions on the batch are not the other one's is the model run at other batches. Lines
    of the model's code are those of the first graph: they are not looked up again.

    Raises:
        GraphError: as `trace`, or its code pins the batch.
    """
    call = graph.args, graph.kwargs
    with tracing(), lines_unread(), undisturbed(model):
        try:
            again = _export(model, *call, _batches(*call))
        except Exception as error:
            why, cause = _why(model, *call, error)
            raise GraphError(why) from cause
        alike = free_sizes.conditions(again.program) == free_sizes.conditions(graph.program)
        if not alike and not batch_is_free(again.program, model, *call):
            raise GraphError(f"the forward of {type(model).__name__} would fix the batch")
        return again


def trace_training(model: nn.Module, example_inputs: ExampleInputs) -> Graph:
    """Do what `trace` does in training mode, with the branches that only training runs; the model is left as it was.

    Raises:
        TypeError, GraphError: as `trace`.
    """
    inner = unwrap(model)
    with tracing(), undisturbed(inner):
        inner.train()
        call = call_arguments(example_inputs)
        try:
            return _export(inner, *call, _batches(*call))
        except Exception as error:
            why, cause = _why(inner, *call, error)
            raise GraphError(why) from cause


def _pinned(model: nn.Module, call: Call, free: frozenset[Place], first: Exception | None) -> Graph:
    """Read a graph for the example's own number of samples."""
    try:
        return replace(_export(model, *call, free), batch=_num_samples(call))
    except Exception as error:
        why, cause = _why(model, *call, first or error)
        raise GraphError(why) from cause


def _batches(args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> frozenset[Place]:
    """Return the first dimension of each input."""
    return frozenset((place, 0) for place in range(len(args) + len(kwargs)))


def _num_samples(call: Call) -> int:
    return next(iter((*call[0], *call[1].values()))).shape[0]


def _export(model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], free: frozenset[Place]) -> Graph:
    shapes = _free_dims(model, args, kwargs, free)
    try:
        program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        try:
            with torch.no_grad():  # a model may run without gradients only, as where it writes into its parameters
                program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
        except Exception:
            raise error from None
    flatten_in_place(program)
    program.graph.eliminate_dead_code()  # an unused mean over heads would keep them; what writes in place stays
    kinds = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    specs = program.graph_signature.input_specs
    tensors = {spec.arg.name: str(spec.target) for spec in specs if spec.kind in kinds}
    return Graph(program, model, args, kwargs, tensors)


def call_arguments(example_inputs: ExampleInputs, least: int = 2) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return example inputs as positional and keyword arguments of at least so many samples.

    Raises:
        TypeError: they are not tensors.
        ValueError: there is none, or one has no batch dimension or no sample.
    """
    by_name = dict(example_inputs) if isinstance(example_inputs, Mapping) else {}
    in_order = example_inputs if isinstance(example_inputs, tuple) else ()
    if isinstance(example_inputs, Tensor):
        in_order = (example_inputs,)
    tensors = [*in_order, *by_name.values()]
    for value in tensors:
        if isinstance(value, Tensor) and (reason := supported.problem(value)):
            raise TypeError(f"example_inputs must be dense tensors, but one {reason}")
    if not tensors or not all(isinstance(value, Tensor) for value in tensors):
        kinds = ", ".join(type(value).__name__ for value in tensors) or type(example_inputs).__name__
        raise TypeError(
            f"example_inputs must be a tensor, a tuple of tensors or a mapping of names to tensors, got ({kinds})"
        )
    if any(value.ndim == 0 or value.shape[0] == 0 for value in tensors):
        shapes = ", ".join(str(tuple(value.shape)) for value in tensors)
        raise ValueError(
            f"example_inputs need a batch as their first dimension, with at least one sample; got {shapes}"
        )
    return (
        tuple(_at_least(value, least) for value in in_order),
        {name: _at_least(value, least) for name, value in by_name.items()},
    )


def _free_dims(
    model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], free: frozenset[Place]
) -> dict[str, Any]:
    """Return which dimensions are free in the form of the forward's own signature: with ``*args``, a tuple in it."""
    dims = iter([{dim: Dim.AUTO for other, dim in free if other == place} for place in range(len(args) + len(kwargs))])
    positional = tuple(next(dims) for _ in args)
    named = {name: next(dims) for name in kwargs}
    return dict(inspect.signature(model.forward).bind(*positional, **named).arguments)


def _at_least(value: Tensor, least: int) -> Tensor:
    value = value.clone() if value.is_inference() else value
    times = -(-least // value.shape[0])
    return value.detach() if times <= 1 else value.detach().repeat(times, *(1 for _ in value.shape[1:]))


def where(node: fx.Node) -> str:
    """Say where in the model an operation comes from: its module, and the line of source that calls it."""
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(list(stack.values())), ("", ""))
    kind = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    module = f"module {path!r} ({kind.rpartition('.')[2]})" if path else "the model itself"
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip()]
    if len(lines) < 2:
        return module
    return f"{module}, {lines[-2].removeprefix('File ')}: {lines[-1]}"


def module_path(node: fx.Node) -> str:
    """Return the name of the innermost module that calls an operation; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(list(stack.values())), ("", ""))[0])


def _why(
    model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], error: Exception
) -> tuple[str, Exception]:
    """Say why a model can't be traced, and what tells most of it: first see whether it runs at all."""
    shapes = ", ".join(str(tuple(value.shape)) for value in (*args, *kwargs.values()))
    kind = type(model).__name__
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    frames = [frame for frame in _frames(error) if "/torch/" not in frame and not frame.startswith("<")]
    place = f" (at {frames[-1]})" if frames else ""
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as failure:
        failure.__context__ = None  # the same error as torch.export met it, four hundred lines
        reason = str(failure).strip().splitlines() or [type(failure).__name__]
        return (
            f"the model ({kind}) can't run the example inputs ({shapes}): {type(failure).__name__}: {reason[0]}; "
            "give inputs that it takes, the batch first"
        ), failure
    return (
        f"the graph of the model ({kind}) can't be traced by torch.export: {type(error).__name__}: {first}{place}; "
        "a forward must not branch on the values of tensors"
    ), error


def _frames(error: BaseException) -> list[str]:
    frames, trace_ = [], error.__traceback__
    while trace_ is not None:
        code = trace_.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace_.tb_lineno} in {code.co_name}")
        trace_ = trace_.tb_next
    return [frame for frame in frames if "/prunus/" not in frame]
