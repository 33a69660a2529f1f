"""A model of which parts are programs, and what is told of the parts."""

from __future__ import annotations

import itertools
import textwrap
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from prunus import tables
from prunus.compiling.program import Program
from prunus.errors import ProgramError
from prunus.graph import Graph

_ROUNDS = 5
_WHY_WIDTH = 100  # `parts` has all of it
_IN_TORCH = "torch_"


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
                row.part.name,
                f"{row.microseconds:,.0f}",
                f"{row.share:.0%}",
                "program" if row.part.program else "PyTorch",
                _listed(row.part.operations),
                textwrap.shorten(row.part.why, _WHY_WIDTH, placeholder=" ..."),
            )
            for row in self.times
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
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._by_position, self._by_name = [node.name for node in inputs][: len(graph.args)], list(graph.kwargs)
        self._like = [node.meta["val"] for node in inputs]

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
            TypeError: names or number of the inputs differ from the model's, or an input is no tensor.
            ProgramError: an input has another shape, number type or number of samples than it takes.
        """
        names = [*self._by_position, *self._by_name]
        received = dict(zip(names, args, strict=False)) | dict(kwargs)
        if len(args) + len(kwargs) != len(names) or received.keys() != set(names):
            call = ", ".join([*map(str, range(len(args))), *kwargs]) or "none"
            raise TypeError(f"the program takes the inputs {', '.join(names)}, got {call}")
        inputs = [received[name] for name in names]
        if not all(isinstance(value, Tensor) for value in inputs):
            raise TypeError(f"inputs must be tensors, got {', '.join(type(value).__name__ for value in inputs)}")
        for name, value, like in zip(names, inputs, self._like, strict=True):
            if value.ndim == 0 or value.shape[1:] != like.shape[1:] or value.dtype != like.dtype:
                raise ProgramError(
                    f"input {name!r} must be of the shape (batch, {', '.join(map(str, like.shape[1:]))}) and of "
                    f"{like.dtype}, got {tuple(value.shape)} of {value.dtype}"
                )
        batches = {len(value) for value in inputs}
        if len(batches) > 1 or (self.fixed_batch is not None and batches != {self.fixed_batch}):
            wanted = "of one batch size" if self.fixed_batch is None else f"of {self.fixed_batch} samples only"
            raise ProgramError(f"inputs must be {wanted}, got {[len(value) for value in inputs]}")
        return inputs

    def profile(self, *args: Any, **kwargs: Any) -> MixedProfile:
        """Return how long each part takes for these inputs: it is measured now, the least of five runs."""
        inputs = self._bound(args, kwargs)
        part_of = parts_of(self._module, {part.name for part in self.parts if part.program})
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


def parts_of(module: fx.GraphModule, compiled: Collection[str]) -> dict[fx.Node, str]:
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


def _listed(operations: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in operations.items())
