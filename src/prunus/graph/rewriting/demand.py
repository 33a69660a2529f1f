"""The graph of what is kept: every operation proven to compute the original's result, restricted to what stays.

`demanded(kept, biases, new_biases)` returns a `Demanded`, made on a copy; the graph that was read stays as it was:

    graph        the operations in the program's order; parameters, buffers and constants are placeholders, as there
    names        placeholder's name -> name of the parameter, buffer or constant
    tensors      name -> content, ties kept; made when first asked for, so a rehearsal on shapes takes no memory
    origin       node -> the node of the original graph whose result, restricted, it computes
    moved        nodes that became `index_select`: no argument of the original operation would do
    renumbered   nodes that hold an index, as it is after the cut: a restriction of the original's they are not
    replaced     names of the tensors among them
    restricted   (node, what its origin computed) -> what the node must compute
    module       an `ExportedModule` that runs it

Each node's ``meta["val"]`` has the shape that was demanded, for the example inputs. A node without an origin was added:
it scales a size, holds an index, or is one of several operations that stand for one of the original.

What moves elements is proven by `moving`, its literals are guessed by `fitting`; what computes is checked by
`aligning`; what is written to in place by `writing`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from prunus.graph.coupling import Value, one_thread
from prunus.graph.exported import ExportedModule
from prunus.graph.kept import Kept
from prunus.graph.rewriting.assembling import Assembly
from prunus.graph.rewriting.extents import Extents, RewriteError

__all__ = ["Demanded", "RewriteError", "demanded", "rewrite"]


@dataclass(frozen=True, eq=False)
class Demanded:
    """The graph that is demanded of a smaller model; the module's docstring says what each attribute is."""

    kept: Kept
    graph: fx.Graph
    names: dict[str, str]
    origin: dict[fx.Node, fx.Node]
    moved: frozenset[fx.Node]
    renumbered: frozenset[fx.Node]
    contents: Mapping[str, Tensor]
    added: Mapping[str, Tensor]
    extents: Extents = field(repr=False)

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Content by name: what is left of the program's tensors, with ties, and what was added."""
        program = self.kept.coupling.graph.program
        held = {**program.state_dict, **program.constants}
        own = {id(held[name]): name for name in self._names_used() if name in held}
        cut: dict[int, Tensor] = {}
        tensors = {}
        for name, tensor in held.items():
            if isinstance(tensor, Tensor):
                if id(tensor) not in cut:
                    cut[id(tensor)] = self._cut(own.get(id(tensor), name), tensor)
                tensors[name] = cut[id(tensor)]
        return tensors | dict(self.added)

    def _names_used(self) -> list[str]:
        """Return the names of tensors: of a tied one the name that the graph uses comes last."""
        used = {self.names[node.name]: bool(node.users) for node in self.graph.nodes if node.name in self.names}
        return sorted(used, key=lambda name: used[name])

    def _cut(self, name: str, tensor: Tensor) -> Tensor:
        whole = self.contents.get(name, tensor.detach()).to(tensor.dtype)
        content = whole.clone() if name in self.replaced else self.kept.cut(name, whole)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(content, requires_grad=tensor.requires_grad)
        return content

    @property
    def replaced(self) -> frozenset[str]:
        """Names of indices whose contents are as they are after the cut."""
        holders = {node.name for node in self.renumbered if node.op == "placeholder"}
        return frozenset(name for holder, name in self.names.items() if holder in holders)

    def restricted(self, node: fx.Node, result: Tensor) -> Tensor:
        """Return what a node must compute.

        Args:
            node: one with an origin, of this graph.
            result: what the origin computed; the batch may be another multiple of the example's.
        """
        value = self.kept.coupling.values.get(self.origin[node])
        if not isinstance(value, Value):
            return result
        for dim, mask in enumerate(self.extents.of(value)):
            if mask is None:
                continue
            if result.shape[dim] != len(mask):  # it hangs on the batch: samples lie one after the other
                mask = mask[: len(mask) // self.kept.coupling.graph.num_samples]
                mask = mask.repeat(result.shape[dim] // len(mask))
            result = result.index_select(dim, mask.nonzero().flatten().to(result.device))
        return result

    def module(self, why: str) -> ExportedModule:
        """Return a module that runs the graph; why the model's own class could not be kept is for it to tell."""
        program = self.kept.coupling.graph.program
        signature = program.graph_signature
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        old = {spec.arg.name: spec for spec in signature.input_specs}
        specs = [_spec(node, self.origin.get(node), old, self.names, self.added) for node in placeholders]
        tensors = self.tensors
        constants = {name for name, tensor in self.added.items() if not isinstance(tensor, nn.Parameter)}
        constants |= program.constants.keys() - program.state_dict.keys()
        stand_in: Any = SimpleNamespace(
            graph=self.graph,
            graph_module=SimpleNamespace(graph=self.graph, **dict(program.graph_module.named_children())),
            graph_signature=SimpleNamespace(input_specs=specs, output_specs=signature.output_specs),
            call_spec=program.call_spec,
            module_call_graph=program.module_call_graph,
            state_dict={name: tensor for name, tensor in tensors.items() if name not in constants},
            constants={name: tensors[name] for name in tensors if name in constants or name in program.constants},
        )
        return ExportedModule.from_program(stand_in, why)


def _spec(
    node: fx.Node,
    origin: fx.Node | None,
    old: Mapping[str, InputSpec],
    names: Mapping[str, str],
    added: Mapping[str, Tensor],
) -> InputSpec:
    argument = TensorArgument(name=node.name)
    if origin is None:
        is_parameter = isinstance(added[names[node.name]], nn.Parameter)
        kind = InputKind.PARAMETER if is_parameter else InputKind.CONSTANT_TENSOR
        return InputSpec(kind, argument, names[node.name])
    spec = old[origin.name]
    return replace(spec, arg=argument) if isinstance(spec.arg, TensorArgument) else spec


def demanded(kept: Kept, biases: Mapping[str, Tensor], new_biases: Mapping[str, Tensor]) -> Demanded:
    """Return the graph that computes what the original computes, on what is kept.

    Args:
        kept: what stays.
        biases: parameter -> what takes its place, whole.
        new_biases: operation of the original -> a bias that it had not, cut already.

    Raises:
        RewriteError: an operation can't be computed on what is kept; the message names it, its module and its line.
    """
    assembly = Assembly(kept, new_biases)
    with one_thread():
        assembly.run()
    return Demanded(
        kept=kept,
        graph=assembly.graph,
        names=assembly.names,
        origin=assembly.origin,
        moved=frozenset(assembly.moved),
        renumbered=frozenset(assembly.renumbered),
        contents={**biases, **assembly.contents},
        added=assembly.added,
        extents=assembly.extents,
    )


def rewrite(kept: Kept, biases: Mapping[str, Tensor], new_biases: Mapping[str, Tensor], why: str) -> ExportedModule:
    """Return a module that runs the graph of what is kept; arguments and errors as in `demanded`.

    Args:
        kept: what stays.
        biases: parameter -> what takes its place, whole.
        new_biases: operation -> a bias that it had not, cut already.
        why: why the model's own class could not be kept, for the module to tell.
    """
    return demanded(kept, biases, new_biases).module(why)
