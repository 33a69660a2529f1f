"""Training mode: what only it reaches is cut along, and a smaller model has to train where the larger one does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.coupling import couple
from prunus.graph import Graph, GraphError, trace_training
from prunus.shrinking.kept import Kept, keep
from prunus.shrinking.proving.drawing import Inputs
from prunus.shrinking.verification import tensors
from prunus.tracing import fused_attention_off


def unreached(graph: Graph) -> list[str]:
    """Return the parameters that the graph does not use: those of branches that run in training only, or never."""
    used = {
        graph.tensors[node.name]
        for node in graph.nodes
        if node.op == "placeholder" and node.users and node.name in graph.tensors
    }
    names = {id(graph.tensor(name)) for name in used}
    return [
        name for name, parameter in graph.model.named_parameters() if name not in used and id(parameter) not in names
    ]


def with_training_branches(kept: Kept) -> Kept:
    """Let parameters that only a training-mode forward reaches lose what the layers that they read from have lost.

    The model is read once more, in training mode. Auxiliary heads, as GoogLeNet's, lose the inputs that go; what they
    compute without them is not asked to be equal, as no output of eval mode depends on it.

    Returns:
        What is kept, with those parameters; unchanged where training mode can't be read or couples otherwise.
    """
    graph = kept.coupling.graph
    if not kept.indices or not unreached(graph):
        return kept
    try:
        coupling = couple(trace_training(graph.model, graph.example_inputs))
    except GraphError:
        return kept
    gone = torch.zeros(coupling.num_classes, dtype=torch.bool)
    for axis in kept.coupling.axes:
        if axis in coupling.axes:
            gone[coupling.axis_classes(axis)[kept.gone[kept.coupling.axis_classes(axis)]]] = True
    again = keep(coupling, gone)
    own = {name: by_dim for name, by_dim in again.indices.items() if name not in unreached(graph)}
    if not _equal(own, kept.indices):
        return kept
    return replace(kept, indices=again.indices)


def _equal(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)


@dataclass(frozen=True)
class Step:
    """One forward and one backward of a copy of a model in training mode.

    Attributes:
        outputs: how many tensors the forward gave.
        error: why it could not be done; empty where it could.
    """

    outputs: int = 0
    error: str = ""


def step(model: nn.Module, inputs: Inputs) -> Step:
    """Run one forward and one backward of a copy of a model in training mode."""
    try:
        trained = copy_model(model).train()
        with torch.enable_grad(), torch.random.fork_rng(devices=[]), fused_attention_off():
            results = tensors(trained(*inputs.args, **inputs.kwargs))
            losses = [value.abs().mean() for value in results if value.requires_grad]
            if losses:
                torch.stack([loss.double() for loss in losses]).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a forward raises
        lines = str(error).splitlines() or [""]
        return Step(error=f"{type(error).__name__}: {lines[0]}")
    return Step(len(results))
