"""The smaller model as an instance of its own class: parameters cut, and attributes changed where they must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.errors import GraphError
from prunus.graph import trace_made_of
from prunus.graph.coupling import Coupling
from prunus.graph.kept import Kept
from prunus.graph.rewriting import Demanded
from prunus.proving.attributes import Attribute, candidates, tell_layers
from prunus.proving.matching import MismatchError, match
from prunus.proving.trials import Trial, disagreement
from prunus.proving.verification import outputs

# Of more attributes than these no subsets are tried.
_MOST_ATTRIBUTES = 8


class RebuildError(ValueError):
    """A class whose forward can't compute the same with the smaller parameters; the message says why."""


def rebuild_proved(
    model: nn.Module, kept: Kept, biases: Mapping[str, Tensor], demanded: Demanded, trial: Trial
) -> nn.Module:
    """Return a smaller instance of a model's class whose graph is the demanded one.

    Attributes that hold an old size are changed only where the graph is another one otherwise.

    Args:
        model: the larger model.
        kept: what stays of each parameter and buffer.
        biases: new biases by name, whole.
        demanded: the graph that the smaller model must have.
        trial: inputs of the example's sizes, and what the larger model makes of them.

    Raises:
        RebuildError: no change of the attributes makes it so.
    """
    attempts = _Attempts(model, kept, biases, demanded, trial)
    smaller, why = attempts.with_attributes(())
    if smaller is not None:
        return smaller
    needed = candidates(model, kept, lambda changed: outputs(changed, trial.inputs.args, trial.inputs.kwargs))
    for chosen in _subsets(needed):
        smaller, reason = attempts.with_attributes(chosen)
        if smaller is not None:
            return _with_fewest(attempts, smaller, chosen)
        why = reason if len(chosen) == len(needed) else why
    raise RebuildError(why)


def _subsets(attributes: Sequence[Attribute]) -> Iterator[tuple[Attribute, ...]]:
    """Yield all attributes, all but one, and one alone."""
    if not attributes:
        return
    yield tuple(attributes)
    if 2 <= len(attributes) <= _MOST_ATTRIBUTES:
        yield from (_without(attributes, attribute) for attribute in attributes)
        yield from ((attribute,) for attribute in attributes if len(attributes) > 2)


def _without(attributes: Iterable[Attribute], one: Attribute) -> tuple[Attribute, ...]:
    return tuple(attribute for attribute in attributes if attribute is not one)


def _with_fewest(attempts: _Attempts, smaller: nn.Module, chosen: tuple[Attribute, ...]) -> nn.Module:
    """Let each attribute that need not change be what it was."""
    for attribute in chosen:
        fewer = _without(chosen, attribute)
        again, _ = attempts.with_attributes(fewer)
        if again is not None:
            smaller, chosen = again, fewer
    return smaller


class _Attempts:
    """Rebuilds a model with some attributes changed, and tells whether its graph is the demanded one."""

    def __init__(
        self, model: nn.Module, kept: Kept, biases: Mapping[str, Tensor], demanded: Demanded, trial: Trial
    ) -> None:
        self._model, self._kept, self._biases = model, kept, biases
        self._demanded, self._trial = demanded, trial

    def with_attributes(self, attributes: Iterable[Attribute]) -> tuple[nn.Module | None, str]:
        """Return the model, or None and why it is not what it must be."""
        smaller = rebuild(self._model, self._kept, self._biases)
        for attribute in attributes:
            attribute.write(smaller)
        try:
            why = disagreement([self._trial], smaller)
        except Exception as error:  # whatever a forward does with sizes that are new to it
            lines = str(error).splitlines() or [""]
            return None, f"{type(error).__name__}: {lines[0]}"
        if why:
            return None, why
        graph = self._kept.coupling.graph
        try:
            match(self._demanded, trace_made_of(graph, smaller))
        except (GraphError, MismatchError) as error:
            return None, str(error)
        return smaller, ""


def rebuild(model: nn.Module, kept: Kept, biases: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model with only what is kept, whose layers tell their sizes.

    Args:
        model: the model; parts that stay are copied too.
        kept: what stays of each parameter and buffer.
        biases: new biases by name, whole; they are cut like the ones they take the place of.
    """
    names = canonical_names(model, kept.coupling)
    memo: dict[int, Any] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if id(tensor) in memo or (own := names.get(id(tensor))) is None:
            continue
        whole = biases.get(name, tensor.detach()).to(tensor.dtype)
        memo[id(tensor)] = _like(tensor, kept.cut(own, whole))
    smaller = copy_model(model, memo)
    _add_biases(smaller, model, kept, biases)
    tell_layers(smaller, model, kept)
    return smaller


def canonical_names(model: nn.Module, coupling: Coupling) -> dict[int, str]:
    """Return tensor id -> the name that the graph has for it: of several names of a tied weight it knows one."""
    used = set(coupling.graph.tensors.values())
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    names = {id(tensor): name for name, tensor in reversed(named)}
    return names | {id(tensor): name for name, tensor in named if name in used}


def _like(tensor: Tensor, content: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(content, requires_grad=tensor.requires_grad)
    return content


def _add_biases(smaller: nn.Module, model: nn.Module, kept: Kept, biases: Mapping[str, Tensor]) -> None:
    """Give a bias to layers that had none."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, bias in biases.items():
        if name in parameters:
            continue
        path, _, attribute = name.rpartition(".")
        layer = smaller.get_submodule(path)
        weight = parameters[f"{path}.weight" if path else "weight"]
        outputs = bias_outputs(kept, f"{path}.weight" if path else "weight")
        content = bias if outputs is None else bias[outputs]
        setattr(layer, attribute, nn.Parameter(content.to(weight.dtype).to(weight.device)))


def bias_outputs(kept: Kept, weight: str) -> Tensor | None:
    """Return which outputs of a weight stay, as indices; None where all do."""
    use = next(use for use in kept.coupling.uses if use.weight.name == weight)
    if use.outputs is None:
        return None
    return (~kept.gone[kept.coupling.class_of[use.outputs]]).nonzero().flatten()
