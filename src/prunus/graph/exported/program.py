"""From an exported program to a flat graph over named tensors."""

from __future__ import annotations

import itertools
import keyword
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import SymInt, Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from prunus.graph.calls import written_arguments
from prunus.graph.exported import regions
from prunus.graph.exported.decompositions import DECOMPOSED, decompose
from prunus.graph.exported.parts import Parts
from prunus.graph.exported.source import FLAG
from prunus.graph.exported.structure import Input, Signature, Structure, all_names
from prunus.graph.operations import Family, find

_HELD = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
# The names that PyTorch's layers give to the argument that tells training from evaluation.
_FLAG_ARGUMENTS = ("training", "train", "use_input_stats")


def parts(program: ExportedProgram) -> Parts:
    """Return the graph of a program, its tensors and how it is called.

    Raises:
        ValueError: the program holds what a flat graph can't.
    """
    tensors = {name: value for name, value in program.state_dict.items() if isinstance(value, Tensor)}
    constants = {name: value.detach() for name, value in program.constants.items() if isinstance(value, Tensor)}
    not_saved = frozenset(constants.keys() - tensors.keys())
    tensors |= {name: constants[name] for name in constants if name in not_saved}
    builder = _Builder(set(tensors))
    builder.build(program)
    return Parts(builder.graph, _signature(program), tensors, not_saved, frozenset(builder.modules))


class _Builder:
    def __init__(self, names: set[str]) -> None:
        self.graph = fx.Graph()
        self.modules: set[str] = set()
        self._tensor_names = names

    def build(self, program: ExportedProgram) -> None:
        _refuse(program)
        graph = regions.flatten(program)
        _refuse_calls(graph)
        copies: dict[fx.Node, Any] = {}
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        specs = program.graph_signature.input_specs
        is_input = [spec.kind == InputKind.USER_INPUT for spec in specs]
        for node in itertools.compress(placeholders, is_input):
            copies[node] = self._copy_meta(self.graph.create_node("placeholder", node.name, name=node.name), node)
        for node, spec in zip(placeholders, specs, strict=True):
            if spec.kind in _HELD:
                reference = self.graph.create_node("get_attr", str(spec.target), name=node.name)
                copies[node] = self._copy_meta(reference, node)
        for node in graph.nodes:
            if node.op == "call_function" and find(node.target).family is not Family.CHECK:
                copies[node] = self._call(node, copies)
        self.graph.output(fx.map_arg(next(iter(reversed(graph.nodes))).args[0], copies.__getitem__))
        self.graph.eliminate_dead_code()

    def _call(self, node: fx.Node, copies: dict[fx.Node, Any]) -> Any:
        """Copy an operation; several results of what was decomposed are a tuple, and picked from it."""
        if node.target in DECOMPOSED:
            return decompose(self.graph, node, copies)
        if node.target is operator.getitem:
            source, place = node.args
            results = copies[source]  # type: ignore[index]
            if isinstance(results, tuple):
                return results[place] if place < len(results) else None  # type: ignore[operator, index]
        copied = self.graph.node_copy(node, copies.__getitem__)
        self._follow_training(copied)
        return copied

    def _follow_training(self, node: fx.Node) -> None:
        """Put the training flag of the module it is in where an operation was told that it evaluates."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return
        for place, (name, value) in enumerate(written_arguments(node).items()):
            if name not in _FLAG_ARGUMENTS or value is not False:
                continue
            path = self._module_of(node)
            self.modules.add(path)
            with self.graph.inserting_before(node):
                flag = self.graph.create_node("get_attr", f"{path}.{FLAG}" if path else FLAG)
            if name in node.kwargs:
                node.update_kwarg(name, flag)
            else:
                node.update_arg(place, flag)

    def _module_of(self, node: fx.Node) -> str:
        """Return the module whose flag decides: that which holds the layer's tensors, or that which calls it."""
        if node.target is torch.ops.aten.batch_norm.default and isinstance(node.args[3], fx.Node):
            return str(node.args[3].target).rpartition(".")[0] if node.args[3].op == "get_attr" else ""
        stack = node.meta.get("nn_module_stack") or {}
        path = str(next(reversed(list(stack.values())), ("",))[0]).partition("@")[0]
        names = path.split(".")
        prefixes = {".".join(names[:length]) for length in range(1, len(names) + 1)}
        return path if all(names) and not prefixes & self._tensor_names else ""

    @staticmethod
    def _copy_meta(copy: fx.Node, node: fx.Node) -> fx.Node:
        copy.meta = dict(node.meta)
        return copy


def _refuse(program: ExportedProgram) -> None:
    for spec in program.graph_signature.input_specs:
        if spec.kind not in (*_HELD, InputKind.USER_INPUT):
            raise ValueError(
                f"the program can't be made a flat graph: its input {spec.arg.name!r} is a {spec.kind.name}"
            )
    for result in program.graph_signature.output_specs:
        if result.kind != OutputKind.USER_OUTPUT:
            raise ValueError(
                f"the program can't be made a flat graph: its output {result.arg.name!r} is a {result.kind.name}; give "
                "what torch.export.export returned, not decomposed"
            )


def _refuse_calls(graph: fx.Graph) -> None:
    regions.refuse_unsaid(graph)
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise ValueError(
                f"the program can't be made a flat graph: it holds a region of the kind {str(node.target)!r}; the "
                "model must not use control flow in its forward"
            )
    for node in graph.nodes:
        if node.op in ("call_module", "call_method", "get_attr"):
            raise ValueError(f"the program can't be made a flat graph: it holds the {node.op} {node.target}")


def _signature(program: ExportedProgram) -> Signature:
    in_spec, out_spec = program.call_spec.in_spec, program.call_spec.out_spec
    assert in_spec is not None
    assert out_spec is not None
    positional, named = in_spec.children()
    names = _argument_names(program, positional.num_children, list(named.context))
    specs = [*positional.children(), *named.children()]
    arguments = {name: Structure.of(spec) for name, spec in zip(names, specs, strict=True)}
    inputs = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    leaves = _leaves(all_names(arguments), [values[name] for name in inputs])
    return Signature(arguments, positional.num_children, tuple(leaves), Structure.of(out_spec))


def _argument_names(program: ExportedProgram, num_positional: int, named: list[str]) -> list[str]:
    signature = program.module_call_graph[0].signature
    names = list((signature and signature.forward_arg_names) or [])[:num_positional]
    if len(names) != num_positional or len({*names, *named}) < num_positional + len(named):
        names = [f"input_{place}" for place in range(num_positional)]
    for name in (*names, *named):
        if not is_argument_name(name):
            raise ValueError(
                f"the program can't be made a module: its argument {name!r} has no name a function can have"
            )
    return [*names, *named]


def is_argument_name(name: Any) -> bool:
    """Tell whether a function can have an argument of that name beside `self`."""
    return isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name) and name != "self"


def _leaves(names: Any, values: list[Any]) -> Iterator[Input]:
    free: dict[str, str] = {}
    for name, value in zip(names, values, strict=True):
        if isinstance(value, Tensor):
            sizes = tuple(_size(size, place, free) for place, size in enumerate(value.shape))
            hints = tuple(size if isinstance(size, int) else int(size.node.hint) for size in value.shape)
            yield Input(name, value.dtype, sizes, None, hints)
        elif isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise ValueError(f"the program can't be made a module: its input {name!r} is a free number, not a tensor")
        else:
            yield Input(name, None, (), value)


def _size(size: int | SymInt, place: int, free: dict[str, str]) -> int | str:
    """Return a size, or the name of a free one: the first in the first place is the batch."""
    if isinstance(size, int):
        return size
    text = str(size)
    if text not in free:
        free[text] = "batch" if place == 0 and "batch" not in free.values() else f"free_{len(free)}"
    return free[text]
