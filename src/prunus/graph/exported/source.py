"""A graph as one Python function: straight code, which eager calls, tracers and compilers all run well.

Nothing of the graph's own texts gets into the source but as a literal: operations and constants are reached through a
table under names made here. So a graph from a file can't smuggle code in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import fx, nn

from prunus.graph.exported.guards import guarded

FLAG = "training"  # a reference that ends so is that module's flag, not a tensor
_COUNTER = "num_batches_tracked"


def split(path: str) -> tuple[list[str], str]:
    """Return the names of the modules that lead to a tensor or flag, and its own.

    >>> split("layers.0.weight")
    (['layers', '0'], 'weight')
    """
    *modules, last = path.split(".")
    return modules, last


def holder_of(root: nn.Module, modules: list[str]) -> nn.Module:
    """Return a module within another by the names that lead to it; a name may be that of an attribute too.

    Raises:
        KeyError: there is no such module.
    """
    for part in modules:
        root = root._modules[part]  # type: ignore[assignment]
    return root


def function(graph: fx.Graph, root: nn.Module) -> Callable[[nn.Module, list[Any]], tuple[Any, ...]]:
    """Return a function that computes a graph: (module, leaves of the inputs) -> leaves of the outputs.

    Args:
        graph: placeholders, references to tensors and training flags, and calls of functions.
        root: the module that holds the tensors; each module the function is called with must hold the same ones.
    """
    writer = _Writer(root)
    writer.write(graph)
    text = "\n    ".join(["def run(module, leaves):", *writer.lines])
    code = compile(text + "\n", "<exported graph>", "exec")
    body = next(constant for constant in code.co_consts if isinstance(constant, CodeType))
    return FunctionType(body, {"__builtins__": {"slice": slice, "getattr": getattr}, **writer.table}, "run")


class _Writer:
    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.lines: list[str] = []
        self.table: dict[str, Any] = {}
        self._names: dict[fx.Node, str] = {}
        self._entries: dict[tuple[type, Any], str] = {}

    def write(self, graph: fx.Graph) -> None:
        last_uses = _last_uses(graph)
        inputs = []
        for number, node in enumerate(graph.nodes):
            self._names[node] = name = f"v{number}"
            if node.op == "placeholder":
                inputs.append(name)
                self.lines.append(f"{name} = leaves[{len(inputs) - 1}]")
            elif node.op == "get_attr":
                self.lines.append(f"{name} = {self._reference(str(node.target))}")
            elif node.op == "call_function":
                self._count_batches(node)
                self.lines.append(f"{name} = {self._call(node)}")
            else:
                assert node.op == "output", f"the graph holds a {node.op}, which it can't run"
                self.lines.append(f"return {self._argument(tuple(node.args[0]))}")
            dead = [self._names[before] for before in last_uses.get(node, ())]
            if dead and node.op != "output":
                self.lines.append(" = ".join(dead) + " = None")  # so that its memory is free, as in the model's forward

    def _call(self, node: fx.Node) -> str:
        assert callable(node.target)
        args = [self._argument(argument) for argument in node.args]
        kwargs = [f"{key!r}: {self._argument(value)}" for key, value in node.kwargs.items()]
        if kwargs:
            args.append(f"**{{{', '.join(kwargs)}}}")
        return f"{self._entry(guarded(node.target))}({', '.join(args)})"

    def _argument(self, argument: Any) -> str:
        if isinstance(argument, fx.Node):
            return self._names[argument]
        if isinstance(argument, (list, tuple)):
            inner = "".join(f"{self._argument(entry)}, " for entry in argument)
            return f"[{inner}]" if isinstance(argument, list) else f"({inner})"
        if isinstance(argument, slice):
            parts = (argument.start, argument.stop, argument.step)
            return f"slice({', '.join(map(self._argument, parts))})"
        if isinstance(argument, Mapping):
            return "{" + ", ".join(f"{key!r}: {self._argument(value)}" for key, value in argument.items()) + "}"
        plain = type(argument) in (int, bool, str, type(None))
        if plain or (type(argument) is float and math.isfinite(argument)):
            return repr(argument)
        return self._entry(argument)

    def _entry(self, value: Any) -> str:
        key = (type(value), value if value == value else "nan")
        if key not in self._entries:
            self._entries[key] = name = f"c{len(self._entries)}"
            self.table[name] = value
        return self._entries[key]

    def _reference(self, path: str) -> str:
        modules, name = split(path)
        holder = holder_of(self.root, modules)
        where = "module" + "".join(f"._modules[{part!r}]" for part in modules)
        if name == FLAG:
            return f"{where}.training"
        # A tensor may have the name of one of the exported module's own attributes, such as its graph.
        if holder is not self.root or not (hasattr(type(holder), name) or name in vars(holder)):
            return f"getattr({where}, {name!r})"
        return f"{where}.{'_parameters' if name in holder._parameters else '_buffers'}[{name!r}]"

    def _count_batches(self, node: fx.Node) -> None:
        """Count the batch, as a batch norm's module does in training; a graph that was traced in eval mode does not."""
        if node.target is not torch.ops.aten.batch_norm.default or len(node.args) < 6:
            return
        mean, flag = node.args[3], node.args[5]
        if isinstance(mean, fx.Node) and isinstance(flag, fx.Node) and mean.op == flag.op == "get_attr":
            modules, _ = split(str(mean.target))
            if _COUNTER in holder_of(self.root, modules)._buffers:
                counter = self._reference(".".join([*modules, _COUNTER]))
                self.lines.append(f"if {self._names[flag]}: {counter}.add_(1)")


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Return what each node is the last to use; a result that nobody uses is its own last use."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for used in node.all_input_nodes:
            last[used] = node
    dying: dict[fx.Node, list[fx.Node]] = {}
    for used, user in last.items():
        dying.setdefault(user, []).append(used)
    return dying
