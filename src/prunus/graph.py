"""One reading of a model's graph, from torch.export, for all that needs to know what feeds what."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from prunus.forward import undisturbed
from prunus.targets import unwrap

# A tensor, several in order, or several by the name of the forward's argument.
ExampleInputs: TypeAlias = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]


class GraphError(ValueError):
    """A model whose graph can't be read, or holds something unknown; the message says what and where."""


@dataclass(frozen=True)
class Graph:
    """A model's graph and what its placeholders stand for.

    Attributes:
        program: the exported program in torch's training IR: the operations that the model calls, none decomposed.
        model: the model it was read from, out of its wrappers.
        args, kwargs: the inputs it was traced with; the first dimension of each is the batch, at least 2.
        tensors: placeholder -> name of the parameter, buffer or constant it stands for.
    """

    program: ExportedProgram
    model: nn.Module
    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    tensors: dict[str, str]

    @property
    def nodes(self) -> list[fx.Node]:
        """The operations in the order they are computed."""
        return list(self.program.graph.nodes)

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
            is the batch; it stays free. One sample suffices. On the meta device nothing is computed.

    Raises:
        TypeError: the model is not a Module, or the inputs are not tensors.
        GraphError: torch.export can't trace the model; the message holds its reason and the line of the model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    args, kwargs = call_arguments(example_inputs)
    inner = unwrap(model)
    with undisturbed(inner), _quietly(), torch.no_grad():
        try:
            shapes = _free_batch(inner, args, kwargs)
            program = torch.export.export(inner, args, kwargs, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise GraphError(_why(inner, args, kwargs, error)) from error
    _inline(program)
    program.graph.eliminate_dead_code()  # an unused mean over heads would keep them; what writes in place stays
    kinds = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    specs = program.graph_signature.input_specs
    tensors = {spec.arg.name: str(spec.target) for spec in specs if spec.kind in kinds}
    return Graph(program, inner, args, kwargs, tensors)


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
    given = [*in_order, *by_name.values()]
    if not given or not all(isinstance(value, Tensor) for value in given):
        kinds = ", ".join(type(value).__name__ for value in given) or type(example_inputs).__name__
        raise TypeError(
            f"example_inputs must be a tensor, a tuple of tensors or a mapping of names to tensors, got ({kinds})"
        )
    if any(value.ndim == 0 or value.shape[0] == 0 for value in given):
        shapes = ", ".join(str(tuple(value.shape)) for value in given)
        raise ValueError(
            f"example_inputs need a batch as their first dimension, with at least one sample; got {shapes}"
        )
    return (
        tuple(_at_least(value, least) for value in in_order),
        {name: _at_least(value, least) for name, value in by_name.items()},
    )


def _free_batch(model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Any:
    """Return what leaves the batch free, in the form of the forward's own signature: with ``*args``, a tuple in it."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    return pytree.tree_map(lambda _: {0: Dim.AUTO}, dict(bound))


def _at_least(value: Tensor, least: int) -> Tensor:
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


def _why(model: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], error: Exception) -> str:
    """Say why a model can't be traced: first see whether it runs at all."""
    shapes = ", ".join(str(tuple(value.shape)) for value in (*args, *kwargs.values()))
    kind = type(model).__name__
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    frames = [frame for frame in _frames(error) if "/torch/" not in frame]
    place = f" (at {frames[-1]})" if frames else ""
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as failure:
        reason = str(failure).strip().splitlines() or [type(failure).__name__]
        return (
            f"the model ({kind}) can't run the example inputs ({shapes}): {type(failure).__name__}: {reason[0]}; "
            "give inputs that it takes, the batch first"
        )
    return (
        f"the graph of the model ({kind}) can't be traced by torch.export: {type(error).__name__}: {first}{place}; "
        "a forward must not branch on the values of tensors"
    )


def _frames(error: BaseException) -> list[str]:
    found, trace_ = [], error.__traceback__
    while trace_ is not None:
        code = trace_.tb_frame.f_code
        found.append(f"{code.co_filename}:{trace_.tb_lineno} in {code.co_name}")
        trace_ = trace_.tb_next
    return [frame for frame in found if "/prunus/" not in frame]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Trace without torch's warnings, and without the fused attention that hides its parts from the graph."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _inline(program: ExportedProgram) -> None:
    """Put the bodies of grad-mode and autocast regions in their place: they compute the same without."""
    for node in list(program.graph.nodes):
        if node.op == "call_function" and str(node.target) in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            outputs = _copied(program, node)
            for user in list(node.users):
                user.replace_all_uses_with(outputs[user.args[1]])
                program.graph.erase_node(user)
            program.graph.erase_node(node)


def _copied(program: ExportedProgram, region: fx.Node) -> Any:
    """Copy what a region computes before it, and return the copies of its outputs."""
    at = next(index for index, arg in enumerate(region.args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
    body: fx.GraphModule = getattr(program.graph_module, region.args[at].target)  # type: ignore[union-attr, arg-type]
    placeholders = [node for node in body.graph.nodes if node.op == "placeholder"]
    copies: dict[fx.Node, Any] = dict(zip(placeholders, region.args[at + 1 :], strict=True))
    outputs: Any = ()
    with program.graph.inserting_before(region):
        for node in body.graph.nodes:
            if node.op == "output":
                outputs = fx.map_arg(node.args[0], copies.__getitem__)
            elif node.op != "placeholder":
                copies[node] = program.graph.node_copy(node, copies.__getitem__)
    return outputs
