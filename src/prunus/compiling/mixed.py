"""Models that hold more than a program can do: parts of their graph become programs, the rest stays in PyTorch."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase
from torch.utils import _pytree as pytree

from prunus.compiling.lowering.reader import RULES
from prunus.compiling.mixed_program import MixedProgram, Part, parts_of
from prunus.compiling.program import Program
from prunus.compiling.toolchain import MissingCompilerError
from prunus.errors import CompileError
from prunus.graph import Graph, where
from prunus.graph.calls import arguments_by_name
from prunus.graph.operations import find

# A part without one of these stays in PyTorch: calling a program would cost more than it saves.
_CONTRACTIONS = ("conv1d", "conv2d", "convolution", "linear", "addmm", "mm", "matmul", "conv_transpose1d")

# Compiles a module for inputs, as `prunus.compile` does.
Compiler = Callable[[nn.Module, tuple[Tensor, ...]], Program]


def mixed(graph: Graph, dtype: torch.dtype, compile_part: Compiler) -> MixedProgram:
    """Make programs of the parts of a graph that a program can compute, where they hold convolutions or products.

    Args:
        graph: of the model.
        dtype: what programs compute in.
        compile_part: makes a program of a part.

    Raises:
        CompileError: no part can become a program; the message says why.
    """
    for node in graph.nodes:
        arguments = arguments_by_name(node) if node.op == "call_function" and _counted(node) else {}
        if True in (arguments.get("training"), arguments.get("train")):
            raise CompileError(f"{_counted(node)} at {where(node)}: it is in training mode whatever the model's is")
    refused: dict[str, str] = {}  # node, by its name -> why it is in no program
    while True:
        module = _prepared(graph)
        support = _Support(module, graph, dtype, refused)
        partitioner = CapabilityBasedPartitioner(module, support, allows_single_node_partition=True)
        fused = partitioner.fuse_partitions(partitioner.propose_partitions())
        programs, failed = _programs(fused, graph, compile_part)
        if not failed.keys() - refused.keys():
            break
        refused |= failed
    refused |= support.refused
    if not programs:
        reasons = _reasons(module.graph.nodes, refused)
        raise CompileError(
            f"no part of the model can become a program: {'; '.join(reasons) or 'it holds no convolution or product'}"
        )
    programs = _numbered(fused, programs)
    parts = _parts(fused, programs, refused)
    for name, program in programs.items():
        fused.set_submodule(name, _Call(program))
    return MixedProgram(fused, parts, dtype, graph)


def _prepared(graph: Graph) -> fx.GraphModule:
    """Return a graph's module, where each reader has its own node of a parameter, and of the batch if it reads that.

    So no part has to be inputs a parameter, or another part's tensor for the sake of its size.
    """
    module = graph.program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    _fold_constants(module)
    for node in list(module.graph.nodes):
        is_size = node.op == "call_function" and node.target == torch.ops.aten.sym_size.int
        for user in list(node.users) if is_size or node.op == "get_attr" else ():
            source = _of_batch(user, node) if is_size else None
            if is_size and source is None:
                continue
            with module.graph.inserting_before(user):
                copy = module.graph.call_function(node.target, (source, 0)) if source else module.graph.node_copy(node)
            copy.meta = dict(node.meta)
            user.replace_input_with(node, copy)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute once what does not depend on the inputs."""
    values: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(module)
        elif _is_foldable(node) and all(source in values for source in node.all_input_nodes):
            arguments = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*arguments[0], **arguments[1])
            if isinstance(values[node], Tensor):
                name = f"constant_{node.name}"
                module.register_buffer(name, values[node])
                with module.graph.inserting_before(node):
                    folded = module.graph.get_attr(name)
                folded.meta = dict(node.meta)
                values[folded] = values[node]
                node.replace_all_uses_with(folded)


def _is_foldable(node: fx.Node) -> bool:
    """Tell whether an operation gives the same each time, and nothing is written to what it makes."""
    if node.op != "call_function":
        return False
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True  # a size
    is_random = torch.Tag.nondeterministic_seeded in target.tags
    return not is_random and not _is_written_to(node)


def _is_written_to(node: fx.Node) -> bool:
    """Tell whether an operation writes in place, or what it makes is written to by another, perhaps through a view."""
    if node.target == torch.ops.aten.detach_.default:  # it writes no number
        return False
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        return True
    return any(_is_written_to(user) for user in node.users if user.op == "call_function" and _hands_on(user))


def _hands_on(node: fx.Node) -> bool:
    """Tell whether an operation writes to what it reads, or gives a view of it."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    schema = node.target._schema
    return schema.is_mutable or any(argument.alias_info is not None for argument in schema.arguments)


def _of_batch(user: fx.Node, size: fx.Node) -> fx.Node | None:
    """Return a tensor that an operation reads whose first dimension is this size."""
    for node in user.all_input_nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.ndim and str(value.shape[0]) == str(size.meta.get("val")):
            return node
    return None


class _Support(OperatorSupportBase):
    """Which nodes may be in a program; for the others the reason is noted by their names."""

    def __init__(self, module: fx.GraphModule, graph: Graph, dtype: torch.dtype, refused: Mapping[str, str]) -> None:
        self.refused, self._dtype = dict(refused), dtype
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._batch = str(inputs[0].meta["val"].shape[0]) if graph.batch is None else str(graph.batch)

    def is_node_supported(self, submodules: Mapping[str, nn.Module], node: fx.Node) -> bool:
        """Tell whether a program may compute a node."""
        if node.name in self.refused:
            return False
        if node.op == "get_attr" or (node.op == "call_function" and not _tensors_of([node])):
            # a parameter, or a size: it goes where it is read
            return bool(node.users) and all(self.is_node_supported(submodules, user) for user in node.users)
        if node.op != "call_function":
            return False
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            return self.is_node_supported(submodules, node.args[0])
        if not isinstance(node.target, torch._ops.OpOverload):
            return False
        if why := self._refusal(node):
            self.refused[node.name] = why
        return not why

    def _refusal(self, node: fx.Node) -> str:
        if find(node.target).name not in RULES:
            return "prunus.compile doesn't know it"
        read = _tensors_of(source for source in node.all_input_nodes if source.op != "get_attr")
        if not read:
            return "it depends on the number of samples alone"
        tensors = [*_tensors_of([node]), *read]
        if not all(leaf.dtype == self._dtype for leaf in tensors):
            return f"it reads or gives other numbers than {str(self._dtype).removeprefix('torch.')}"
        first = {str(leaf.shape[0]) if leaf.ndim else "" for leaf in tensors}
        if len(first) > 1 or not all(self._holds_batch(size) for size in first):
            return "here the batch is not the first dimension"
        return ""

    def _holds_batch(self, size: str) -> bool:
        """Tell whether a size is the batch, or where that is free a multiple of it, as where tokens are rows."""
        return size == self._batch or (not self._batch.isdigit() and self._batch in size.split("*"))


def _tensors_of(nodes: Iterable[fx.Node]) -> list[Tensor]:
    leaves = [leaf for node in nodes for leaf in pytree.tree_leaves(node.meta.get("val"))]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _programs(fused: fx.GraphModule, graph: Graph, compile_part: Compiler) -> tuple[dict[str, Program], dict[str, str]]:
    """Return the programs of the parts by name; or which nodes, by their names, failed and why.

    It ends with the first part that fails: parts will be others without those nodes.
    """
    recorder = _Recorder(fused)
    with torch.no_grad():
        recorder.run(*graph.args, *graph.kwargs.values(), enable_io_processing=False)
    programs: dict[str, Program] = {}
    for name, inputs in recorder.seen.items():
        part = fused.get_submodule(name)
        assert isinstance(part, fx.GraphModule)
        if not any(_counted(node) in _CONTRACTIONS for node in part.graph.nodes):
            continue
        placeholders = [node for node in part.graph.nodes if node.op == "placeholder"]
        sizes = [node for node, value in zip(placeholders, inputs, strict=True) if not isinstance(value, Tensor)]
        if sizes:
            return {}, {user.name: "it reads a size" for node in sizes for user in node.users}
        try:
            program = compile_part(part, inputs)
            if graph.batch is None and program.fixed_batch is not None:
                raise CompileError("it mixes samples")
            programs[name] = program
        except MissingCompilerError:
            raise
        except ValueError as error:
            culprit, _, why = str(error).partition(" at ")
            blamed = [node.name for node in part.graph.nodes if _counted(node) == culprit]
            everything = [node.name for node in part.graph.nodes if node.op == "call_function"]
            return {}, dict.fromkeys(blamed or everything, why.partition(": ")[2] or str(error))
    return programs, {}


def _numbered(fused: fx.GraphModule, programs: Mapping[str, Program]) -> dict[str, Program]:
    """Name the parts that are programs by their order in the graph."""
    renamed: dict[str, Program] = {}
    for node in fused.graph.nodes:
        if node.op == "call_module" and node.target in programs:
            name = f"program_{len(renamed) + 1}"
            renamed[name] = programs[str(node.target)]
            fused.add_module(name, fused.get_submodule(str(node.target)))
            node.target = name
    fused.delete_all_unused_submodules()
    fused.recompile()
    return renamed


class _Recorder(fx.Interpreter):
    """Runs a graph and notes what its parts are inputs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, tuple[Any, ...]] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a part."""
        self.seen[str(target)] = args
        return super().call_module(target, args, kwargs)


class _Call(nn.Module):
    """A program in the place of the part that it computes."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> Any:
        """Compute it."""
        return self.program(*inputs)


def _parts(fused: fx.GraphModule, programs: Mapping[str, Program], refused: Mapping[str, str]) -> list[Part]:
    """Describe each part: its program, its operations, and why it is none."""
    nodes: dict[str, list[fx.Node]] = {}
    for node, name in parts_of(fused, programs.keys()).items():
        module = fused.get_submodule(str(node.target)) if node.op == "call_module" else None
        nodes.setdefault(name, []).extend(module.graph.nodes if isinstance(module, fx.GraphModule) else [node])
    parts = []
    for name, inner in nodes.items():
        reasons = _reasons(inner, refused)
        why = "" if name in programs else "; ".join(reasons) or "no convolution or product with weights"
        parts.append(Part(name, programs.get(name), Counter(filter(None, map(_counted, inner))), why))
    return parts


def _reasons(nodes: Iterable[fx.Node], refused: Mapping[str, str]) -> list[str]:
    """Return why operations are in no program, each reason once."""
    reasons = [(_counted(node), refused[node.name]) for node in nodes if node.name in refused]
    return list(dict.fromkeys(f"{name}: {why}" for name, why in reasons if name))


def _counted(node: fx.Node) -> str:
    """Return the name of a node's operation; nothing where it computes no tensor."""
    is_operation = isinstance(node.target, torch._ops.OpOverload) and node.target != torch.ops.aten.sym_size.int
    return find(node.target).name if is_operation else ""
