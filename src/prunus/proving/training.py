"""Training mode: what only it reaches is cut along, and a smaller model has to train where the larger one does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from prunus.copying import copy_model
from prunus.errors import GraphError
from prunus.files import content_hash
from prunus.forward import devices_of, undisturbed
from prunus.graph import Graph, trace_training
from prunus.graph.calls import arguments_by_name
from prunus.graph.coupling import Coupling, couple
from prunus.graph.exported import ExportedModule
from prunus.graph.free_sizes import NotedCalls
from prunus.graph.kept import Kept, keep
from prunus.graph.rewriting import RewriteError, demanded
from prunus.graph.tracing import fused_attention_off
from prunus.proving.attributes import noting_mode
from prunus.proving.drawing import Inputs
from prunus.proving.matching import MismatchError, match
from prunus.proving.trials import Trials
from prunus.proving.verification import difference, difference_where_finite, tensors

# Outputs of training mode that differ by less are the same: a norm over few samples makes much of rounding.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Biases:
    """The biases that take constants up.

    Attributes:
        whole: parameter -> what takes its place, whole.
        new: weight -> a bias for the layer that had none, cut already.
    """

    whole: Mapping[str, Tensor]
    new: Mapping[str, Tensor]


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

    Auxiliary heads, as GoogLeNet's, lose the inputs that go; what they compute without them is not asked to be equal,
    as no output of eval mode depends on it.

    Returns:
        What is kept, with those parameters; unchanged where training mode can't be read or couples otherwise.
    """
    if not kept.indices or not unreached(kept.coupling.graph):
        return kept
    try:
        again = _in_training(kept)
    except GraphError:
        return kept
    return kept if again is None else replace(kept, indices=again.indices, columns=again.columns, training=again)


def _in_training(kept: Kept) -> Kept | None:
    """Read a model once more, in training mode, and return what is kept of it; None where that would be other parts.

    Raises:
        GraphError: training mode can't be read.
    """
    graph = kept.coupling.graph
    coupling = couple(trace_training(graph.model, graph.example_inputs), "counted")
    again, others = keep(coupling, carried(kept.gone, kept.coupling, coupling)), unreached(graph)
    for whole, cut in ((kept.indices, again.indices), (kept.columns, again.columns)):
        if not _equal(*({name: own for name, own in chosen.items() if name not in others} for chosen in (whole, cut))):
            return None
    return again


def carried(gone: Tensor, coupling: Coupling, other: Coupling) -> Tensor:
    """Translate the classes that go from one coupling of a model to another, such as that of training mode.

    Args:
        gone: bool per class of `coupling`.
        coupling: one coupling.
        other: another, of the same parameters.

    Returns:
        bool per class of `other`.
    """
    others = torch.zeros(other.num_classes, dtype=torch.bool)
    for axis in coupling.axes:
        if axis in other.axes:
            others[other.axis_classes(axis)[gone[coupling.axis_classes(axis)]]] = True
    return others


def _equal(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)


class TrainingError(ValueError):
    """A smaller model that would not train as the larger one does; the message says why."""

    def advice(self, graph: Graph) -> str:
        """Say what could be done about it; the graph is the larger model's."""
        names = _only_trained(graph)
        layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
        named = f"{', '.join(map(repr, layers[:3]))}{' and others' if len(layers) > 3 else ''}"
        return (
            f"it could not be trained any more ({self}); take what only training runs, "
            f"{f'{named} or ' if named else ''}a branch by self.training, off the model first, or leave the layers "
            "whole that it reads"
        )


def _only_trained(graph: Graph) -> list[str]:
    """Return the parameters that a graph of eval mode does not use and that of training mode does."""
    names = unreached(graph)
    try:
        trained = trace_training(graph.model, graph.example_inputs) if names else graph
    except GraphError:
        return names
    never = set(unreached(trained))
    return [name for name in names if name not in never]


def check_training(smaller: nn.Module, trials: Trials, kept: Kept, biases: Biases) -> None:
    """Make sure that a smaller model trains where the larger one does, in branches that only training runs too.

    One forward and one backward have to run. Where a branch runs in training only, the graph of training mode is read
    off both models: the smaller one's has to be the one that is demanded. So a head may lose inputs that go, but no
    branch works on other channels than before. Outputs are compared where neither chance nor the batch's own mean
    makes them differ.

    Args:
        smaller: the smaller model.
        trials: what the larger model was tried on.
        kept: what stays of it.
        biases: the biases that take constants up.

    Raises:
        TrainingError: it would not.
    """
    graph, inputs = kept.coupling.graph, trials.example[0].inputs
    after = step(smaller, inputs)
    is_graph = isinstance(smaller, ExportedModule)
    # Its code is the larger one's: where it runs and does not ask its mode, there is nothing else to see.
    if not after.error and not is_graph and not unreached(graph) and not after.asks_its_mode:
        return
    steps = _both(step(graph.model, inputs), after)
    if steps is None or is_graph or not (unreached(graph) or _differs(graph, inputs)):
        return
    expected, actual = (one.outputs for one in steps)
    by_chance = steps[0].is_random or difference(expected, step(graph.model, inputs, seed=1).outputs) > 0
    differs = not by_chance and difference_where_finite(expected, actual) > _TOLERANCE
    try:
        rebuilt = check_branches(smaller, kept, biases)
    except GraphError as error:
        if differs:
            raise TrainingError("its outputs of training mode would be others") from error
        return  # nothing else can be seen
    if differs and not unreached(graph) and not any("batch_norm" in str(node.target) for node in rebuilt.nodes):
        raise TrainingError("in training mode channels that go hold constants that a layer would miss")


def check_steps(model: nn.Module, smaller: nn.Module, inputs: Inputs) -> tuple[Step, Step] | None:
    """Take a step in training mode with both models; None where the larger one can't.

    Raises:
        TrainingError: the smaller one can't.
    """
    return _both(step(model, inputs), step(smaller, inputs))


def _both(before: Step, after: Step) -> tuple[Step, Step] | None:
    """Return the steps of the larger and the smaller model; None where the larger one's failed.

    Raises:
        TrainingError: only the smaller one's failed.
    """
    if before.error:
        return None
    if after.error or len(after.outputs) != len(before.outputs):
        raise TrainingError(after.error or "its training gives more outputs than its graph in eval mode")
    return before, after


def check_branches(smaller: nn.Module, kept: Kept, biases: Biases) -> Graph:
    """Hold the graph of training mode of a smaller model against the one that is demanded, and return it.

    Raises:
        GraphError: training mode can't be read.
        TrainingError: it is another one.
    """
    graph = kept.coupling.graph
    again, rebuilt = _in_training(kept), trace_training(smaller, graph.example_inputs)
    if again is None:
        raise TrainingError("what only training runs needs channels that would go")
    uses = again.coupling.uses
    new = {use.node.name: biases.new[use.weight.name] for use in uses if use.weight.name in biases.new}
    try:
        match(demanded(again, biases.whole, new), rebuilt)
    except (MismatchError, RewriteError) as error:
        raise TrainingError(f"in training mode {error}") from error
    return rebuilt


def has_branch(graph: Graph, inputs: Inputs) -> bool:
    """Tell whether a model does something in training that its graph of eval mode does not hold."""
    return bool(unreached(graph)) or (_asks_its_mode(graph.model, inputs) and _differs(graph, inputs))


def _differs(graph: Graph, inputs: Inputs) -> bool:
    """Tell whether training mode calls other functions than eval mode, or can't be read."""
    try:
        # a graph does not hold what no output shows, as a loss that is kept as an attribute
        if _functions(graph.model, inputs, train=False) != _functions(graph.model, inputs, train=True):
            return True
        return _calls(graph) != _calls(trace_training(graph.model, graph.example_inputs))
    except Exception:  # whatever a forward raises in training, as a norm over a single sample does
        return True


def _functions(model: nn.Module, inputs: Inputs, *, train: bool) -> list[str]:
    """Return the functions that a copy of a model calls in one of its modes.

    Raises:
        Exception: whatever its forward raises.
    """
    copy = copy_model(model).train(train)
    cuda = [device for device in devices_of(model) if device.type == "cuda"]
    args, kwargs = [value.clone() for value in inputs.args], {k: v.clone() for k, v in inputs.kwargs.items()}
    with torch.no_grad(), torch.random.fork_rng(cuda), fused_attention_off(), NotedCalls(floating_point=True) as noting:
        copy(*args, **kwargs)
    return list(noting.called)


# Arguments of operations that tell the mode.
_MODES = ("training", "train")


def _calls(graph: Graph) -> list[str]:
    """Return what is called on what depends on the inputs, with all arguments but the mode, in order."""
    names: dict[fx.Node, str] = {}
    calls: list[str] = []
    own = {name for name, _ in (*graph.model.named_parameters(), *graph.model.named_buffers())}
    for node in graph.nodes:
        if node.op == "placeholder":
            name = graph.tensors.get(node.name)
            is_constant = name is not None and name not in own
            names[node] = content_hash({"": graph.tensor(name)}) if name and is_constant else name or "input"
        elif node.op in ("call_function", "output"):
            call = f"{node.target} {fx.node.map_arg(_arguments(node), lambda source: names[source])}"
            depends = any(names[source].startswith("input") for source in node.all_input_nodes)
            calls += [call] if depends else []
            names[node] = f"input {len(calls)}" if depends else f"constant {hash(call)}"
    return calls


def _arguments(node: fx.Node) -> Any:
    """Return the arguments of a call; those of an operation by name, without the mode."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.args
    return {name: value for name, value in arguments_by_name(node).items() if name not in _MODES}


def _asks_its_mode(model: nn.Module, inputs: Inputs) -> bool:
    args, kwargs = [value.clone() for value in inputs.args], {k: v.clone() for k, v in inputs.kwargs.items()}
    with undisturbed(model), torch.no_grad(), fused_attention_off(), noting_mode(model) as askers:
        model(*args, **kwargs)
    return bool(askers)


@dataclass(frozen=True)
class Step:
    """One forward and one backward of a copy of a model in training mode.

    Attributes:
        outputs: the tensors that the forward gave.
        error: why it could not be done; empty where it could.
        is_random: whether the forward drew random numbers, perhaps without an effect on these outputs.
        asks_its_mode: whether code that is not PyTorch's own asked in the forward whether it is training.
    """

    outputs: list[Tensor]
    error: str = ""
    is_random: bool = False
    asks_its_mode: bool = True


def step(model: nn.Module, inputs: Inputs, seed: int = 0) -> Step:
    """Run one forward and one backward of a copy of a model in training mode; the seed is that of dropout."""
    cuda = [device for device in devices_of(model) if device.type == "cuda"]
    try:
        trained = copy_model(model).train()
        with torch.enable_grad(), torch.random.fork_rng(cuda), fused_attention_off():
            torch.manual_seed(seed)
            states = _random_states(cuda)
            args, kwargs = [value.clone() for value in inputs.args], {k: v.clone() for k, v in inputs.kwargs.items()}
            with noting_mode(trained) as askers:
                results = tensors(trained(*args, **kwargs))
            is_random = any(not torch.equal(*pair) for pair in zip(states, _random_states(cuda), strict=True))
            losses = [value.abs().mean() for value in results if value.requires_grad]
            if losses:
                torch.stack([loss.double() for loss in losses]).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a forward raises
        lines = str(error).splitlines() or [""]
        return Step([], f"{type(error).__name__}: {lines[0]}")
    return Step([value.detach() for value in results], is_random=is_random, asks_its_mode=bool(askers))


def _random_states(cuda: list[torch.device]) -> list[Tensor]:
    return [torch.random.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]
