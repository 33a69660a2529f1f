"""Models that hold more than a program can do: parts of their graph become programs, the rest stays in PyTorch."""

from __future__ import annotations

import itertools
import operator
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase
from torch.utils import _pytree as pytree

from prunus import tables
from prunus.compiling.lowering.reader import RULES
from prunus.compiling.program import Program
from prunus.compiling.toolchain import MissingCompilerError
from prunus.errors import CompileError, ProgramError
from prunus.graph import Graph, where
from prunus.graph.calls import arguments_by_name
from prunus.graph.operations import find

# What makes a part worth a program: elsewhere a call of its own costs more than it saves.
_CONTRACTIONS = ("conv1d", "conv2d", "convolution", "linear", "addmm", "mm", "matmul", "conv_transpose1d")
_ROUNDS = 5
_IN_TORCH = "torch_"

# Compiles a module for inputs, as `prunus.compile` does.
Compiler = Callable[[nn.Module, tuple[Tensor, ...]], Program]


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        name: of the part, in the order of the model's graph.
        program: what computes it; None where PyTorch does.
        operations: how often each operation occurs in it.
        why: why it is no program; empty for those that are.
    """

    name: str
    program: Program | None
    operations: Mapping[str, int]
    why: str = ""


@dataclass(frozen=True)
class PartTime:
    """How long a part takes.

    Attributes:
        part: which.
        microseconds: of a call.
        share: of the time of all parts, in [0, 1].
    """

    part: Part
    microseconds: float
    share: float


@dataclass(frozen=True)
class MixedProfile:
    """The parts of a mixed program with their times, for a batch of `samples`."""

    samples: int
    times: tuple[PartTime, ...]

    def __str__(self) -> str:
        rows = tuple(
            (
                time.part.name,
                f"{time.microseconds:,.0f}",
                f"{time.share:.0%}",
                "program" if time.part.program else "PyTorch",
                _listed(time.part.operations),
                time.part.why,
            )
            for time in self.times
        )
        head = ("part", "us", "share", "computed by", "operations", "why")
        return str(tables.Table(head, rows, words=(3, 4, 5)))


class MixedProgram:
    """A model of which parts are programs; the rest stays in PyTorch. It computes on the CPU, without gradients.

    Call it as the model, with tensors. `parts` tells what became a program, and why the rest did not.

    Attributes:
        parts: in the order of the model's graph.
        dtype: what its programs compute in.
        difference: the largest difference to the model when it was compiled, relative to the largest output.
        fixed_batch: the only batch size it takes; None if it takes any.
    """

    def __init__(self, module: fx.GraphModule, parts: Sequence[Part], dtype: torch.dtype, graph: Graph) -> None:
        self._module, self.parts = module, tuple(parts)
        self.dtype, self.fixed_batch = dtype, graph.batch
        self.difference: float | None = None
        names = [node.name for node in module.graph.nodes if node.op == "placeholder"]
        self._by_position, self._by_name = names[: len(graph.args)], list(graph.kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs of a batch, as the model does.

        Raises:
            TypeError, ProgramError: an input is not what the model was traced with.
        """
        inputs = self._bound(args, kwargs)
        count = len(self._by_position)
        with torch.no_grad():
            return self._module(*inputs[:count], **dict(zip(self._by_name, inputs[count:], strict=True)))

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Return the inputs in the order of the graph.

        Raises:
            TypeError: they are others than the model's, or no tensors.
            ProgramError: they have another number of samples than it takes.
        """
        names = [*self._by_position, *self._by_name]
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        if len(args) + len(kwargs) != len(names) or given.keys() != set(names):
            told = ", ".join([*map(str, range(len(args))), *kwargs]) or "none"
            raise TypeError(f"the program takes the inputs {', '.join(names)}, got {told}")
        inputs = [given[name] for name in names]
        if not all(isinstance(value, Tensor) for value in inputs):
            raise TypeError(f"inputs must be tensors, got {', '.join(type(value).__name__ for value in inputs)}")
        if self.fixed_batch is not None and any(len(value) != self.fixed_batch for value in inputs):
            raise ProgramError(
                f"the program takes batches of {self.fixed_batch} only, as the model's code holds the number of "
                f"samples; got {', '.join(str(len(value)) for value in inputs)}"
            )
        return inputs

    def profile(self, *args: Any, **kwargs: Any) -> MixedProfile:
        """Return how long each part takes for these inputs: it is measured now, the least of five runs."""
        inputs = self._bound(args, kwargs)
        part_of = _parts_of(self._module, {part.name for part in self.parts if part.program})
        least: dict[str, float] = {}
        with torch.no_grad():
            for _ in range(_ROUNDS):
                timer = _Timer(self._module, part_of)
                timer.run(*inputs, enable_io_processing=False)
                least = {name: min(least.get(name, seconds), seconds) for name, seconds in timer.seconds.items()}
        total = sum(least.values()) or 1.0
        times = [PartTime(part, 1e6 * least[part.name], least[part.name] / total) for part in self.parts]
        return MixedProfile(len(inputs[0]), tuple(times))

    def __repr__(self) -> str:
        compiled = sum(part.program is not None for part in self.parts)
        return f"MixedProgram({compiled} of {len(self.parts)} parts are programs)"


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
        if node.op == "call_function" and _counted(node) and arguments_by_name(node).get("training") is True:
            raise CompileError(f"{_counted(node)} at {where(node)}: it is in training mode; call model.eval() before")
    refused: dict[str, str] = {}  # node, by its name -> why it is in no program
    while True:
        module = _prepared(graph)
        support = _Support(module, graph, refused)
        partitioner = CapabilityBasedPartitioner(module, support, allows_single_node_partition=True)
        fused = partitioner.fuse_partitions(partitioner.propose_partitions())
        programs, failed = _programs(fused, graph, compile_part)
        refused |= failed
        if not failed:
            break
    refused |= support.refused
    if not programs:
        told = _told(module.graph.nodes, refused)
        raise CompileError(
            f"no part of the model can become a program: {'; '.join(told) or 'it holds no convolution or product'}"
        )
    programs = _numbered(fused, programs)
    parts = _parts(fused, programs, refused)
    for name, program in programs.items():
        fused.set_submodule(name, _Call(program))
    return MixedProgram(fused, parts, dtype, graph)


def _prepared(graph: Graph) -> fx.GraphModule:
    """Return a graph's module, where each reader has its own node of a parameter, and of the batch if it reads that.

    So no part has to be given a parameter, or another part's tensor for the sake of its size.
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
                own = module.graph.call_function(node.target, (source, 0)) if source else module.graph.node_copy(node)
            own.meta = dict(node.meta)
            user.replace_input_with(node, own)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute once what does not depend on the inputs."""
    known: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            known[node] = operator.attrgetter(str(node.target))(module)
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            arguments = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*arguments[0], **arguments[1])
            if isinstance(known[node], Tensor):
                name = f"constant_{node.name}"
                module.register_buffer(name, known[node])
                with module.graph.inserting_before(node):
                    folded = module.graph.get_attr(name)
                folded.meta = dict(node.meta)
                known[folded] = known[node]
                node.replace_all_uses_with(folded)


def _of_batch(user: fx.Node, size: fx.Node) -> fx.Node | None:
    """Return a tensor that an operation reads whose first dimension is this size."""
    for node in user.all_input_nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.ndim and str(value.shape[0]) == str(size.meta.get("val")):
            return node
    return None


class _Support(OperatorSupportBase):
    """Which nodes may be in a program; for the others the reason is noted by their names."""

    def __init__(self, module: fx.GraphModule, graph: Graph, refused: Mapping[str, str]) -> None:
        self.refused = dict(refused)
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._batch = str(inputs[0].meta["val"].shape[0]) if graph.batch is None else str(graph.batch)

    def is_node_supported(self, submodules: Mapping[str, nn.Module], node: fx.Node) -> bool:
        """Tell whether a program may compute a node."""
        if node.op == "get_attr" or (node.op == "call_function" and not _tensors_of([node])):
            # a parameter, or a size: it goes where it is read
            return bool(node.users) and all(self.is_node_supported(submodules, user) for user in node.users)
        if node.op != "call_function":
            return False
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            return self.is_node_supported(submodules, node.args[0])
        if not isinstance(node.target, torch._ops.OpOverload):
            return False
        if node.name not in self.refused and (why := self._refusal(node)):
            self.refused[node.name] = why
        return node.name not in self.refused

    def _refusal(self, node: fx.Node) -> str:
        if find(node.target).name not in RULES:
            return "prunus.compile doesn't know it"
        read = _tensors_of(source for source in node.all_input_nodes if source.op != "get_attr")
        if not read:
            return "it depends on the number of samples alone"
        tensors = [*_tensors_of([node]), *read]
        if not all(leaf.is_floating_point() for leaf in tensors):
            return "it has to do with other than floating point numbers"
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
    for name, given in recorder.seen.items():
        part = fused.get_submodule(name)
        assert isinstance(part, fx.GraphModule)
        if not any(_counted(node) in _CONTRACTIONS for node in part.graph.nodes):
            continue
        sizes = [node for node, value in zip(part.graph.nodes, given, strict=False) if not isinstance(value, Tensor)]
        if sizes:
            return {}, {user.name: "it is given a size" for node in sizes for user in node.users}
        try:
            program = compile_part(part, given)
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
    """Runs a graph and notes what its parts are given."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, tuple[Any, ...]] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a part."""
        self.seen[str(target)] = args
        return super().call_module(target, args, kwargs)


class _Timer(fx.Interpreter):
    """Runs a graph and adds up the seconds of each part."""

    def __init__(self, module: fx.GraphModule, part_of: Mapping[fx.Node, str]) -> None:
        super().__init__(module)
        self._part_of = part_of
        self.seconds: dict[str, float] = dict.fromkeys(part_of.values(), 0.0)

    def run_node(self, node: fx.Node) -> Any:
        """Run a node and note how long it took."""
        start = time.perf_counter()
        result = super().run_node(node)
        if node in self._part_of:
            self.seconds[self._part_of[node]] += time.perf_counter() - start
        return result


class _Call(nn.Module):
    """A program in the place of the part that it computes."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> Any:
        """Compute it."""
        return self.program(*inputs)


def _parts(fused: fx.GraphModule, programs: Mapping[str, Program], refused: Mapping[str, str]) -> list[Part]:
    """Return what is told of each part."""
    nodes: dict[str, list[fx.Node]] = {}
    for node, name in _parts_of(fused, programs.keys()).items():
        inner = fused.get_submodule(str(node.target)) if node.op == "call_module" else None
        nodes.setdefault(name, []).extend(inner.graph.nodes if isinstance(inner, fx.GraphModule) else [node])
    parts = []
    for name, own in nodes.items():
        told = _told(own, refused)
        why = "" if name in programs else "; ".join(told) or "no convolution or product with weights"
        parts.append(Part(name, programs.get(name), Counter(filter(None, map(_counted, own))), why))
    return parts


def _told(nodes: Iterable[fx.Node], refused: Mapping[str, str]) -> list[str]:
    """Return why operations are in no program, each reason once."""
    reasons = [(_counted(node), refused[node.name]) for node in nodes if node.name in refused]
    return list(dict.fromkeys(f"{name}: {why}" for name, why in reasons if name))


def _parts_of(module: fx.GraphModule, compiled: Collection[str]) -> dict[fx.Node, str]:
    """Return the part of each node: a program's own, or that of all that PyTorch computes in a row."""
    part_of: dict[fx.Node, str] = {}
    numbers, before = itertools.count(1), ""
    for node in module.graph.nodes:
        if node.op == "call_module" and str(node.target) in compiled:
            before = str(node.target)
        elif node.op in ("call_function", "call_module"):
            before = before if before.startswith(_IN_TORCH) else f"{_IN_TORCH}{next(numbers)}"
        else:
            continue
        part_of[node] = before
    return part_of


def _counted(node: fx.Node) -> str:
    """Return the name of a node's operation; nothing where it computes no tensor."""
    is_operation = isinstance(node.target, torch._ops.OpOverload) and node.target != torch.ops.aten.sym_size.int
    return find(node.target).name if is_operation else ""


def _listed(operations: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in operations.items())
