"""Shrinking: a smaller model with the same outputs, by removing what provably can't matter."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, Self, TypeVar, overload, runtime_checkable

import torch
from torch import Tensor, nn

from prunus.copying import copy_model
from prunus.errors import ShrinkError
from prunus.graph import ExampleInputs, Graph, rewriting, trace
from prunus.graph.coupling import Use, couple
from prunus.graph.exported import ExportedModule
from prunus.graph.kept import Kept
from prunus.graph.rewriting import Demanded, RewriteError
from prunus.proving import training
from prunus.proving.drawing import Draw, draw
from prunus.proving.matching import MismatchError
from prunus.proving.rebuilding import RebuildError, bias_outputs, canonical_names, rebuild, rebuild_proved
from prunus.proving.trials import Checked, Trial, Trials, disagreement, gives_shapes, run_trials
from prunus.proving.verification import check_numbers, depends_on_chance, widened
from prunus.pruning.masks import Masks
from prunus.shrinking import optimizers
from prunus.shrinking.finding.constants import Constants
from prunus.shrinking.finding.removal import removable
from prunus.shrinking.stepwise import check_operations
from prunus.supported import unwrap

__all__ = ["Checked", "ShrinkError", "removable", "shrink"]

_log = logging.getLogger("prunus")

# Inputs that operations are compared on: all of them where the model runs in so many seconds, else the first.
_DRAWS = (Draw(0), Draw(6, uniform=True))
_QUICK = 0.1


@runtime_checkable
class CutAlong(Protocol):
    """An object beside a model that has numbers for its channels, such as `prunus.Scales`, and can drop some."""

    def plan_for(self, graph: Graph) -> object:
        """Raise a ValueError where it does not belong to a model of this graph."""

    def for_graph(self, graph: Graph) -> Self:
        """Return it under the keys of this graph."""

    def cut_along(self, kept: Kept, smaller: nn.Module) -> Self:
        """Return what belongs to the smaller model, or raise a ValueError."""


T = TypeVar("T", bound=CutAlong)


@overload
def shrink(
    model: nn.Module,
    example_inputs: ExampleInputs,
    masks: Mapping[str, Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    scales: None = None,
) -> nn.Module: ...


@overload
def shrink(
    model: nn.Module,
    example_inputs: ExampleInputs,
    masks: Mapping[str, Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    scales: T,
) -> tuple[nn.Module, T]: ...


def shrink(
    model: nn.Module,
    example_inputs: ExampleInputs,
    masks: Mapping[str, Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    scales: T | None = None,
) -> nn.Module | tuple[nn.Module, T]:
    """Return a smaller model with the same outputs: without the channels, neurons and heads that can't matter.

    With masks, "the same" is what the model computes with its masked weights at zero, whether or not they are yet.

    A channel can't matter if everything that carries it on to an output is zero: weights, the scale of a norm, a
    factor. Nor can it if it is constant, as all that makes it is zero: then what it gives to the layers behind is
    added to their biases (not across zero padding, where it would be wrong). This is repeated until nothing more
    can go. Zero times a channel is taken for zero: where the channel would have been NaN or infinite, the smaller
    model does not show it. Groups of a convolution may lose different channels; all that stay keep equally many.

    The smaller model is an instance of the same class. Its graph is read again and has to be the larger one's,
    operation by operation, with each size and index written in it as what is kept demands; an attribute that holds a
    size (`out_channels`, `num_heads`, ...) is changed where that takes it. Where the class's own forward can't do
    that, as it addresses channels by number or hard-codes a size, the result is an `ExportedModule`
    that runs the demanded graph and says why. Either way each changed operation is held against the larger model's by
    itself, and the outputs on up to 64 samples of several scales. The proof holds for eval mode, for the arguments
    that the example gives, and for inputs of its sizes; other sizes are tried where the model takes them, and other
    values of switches and whole numbers that the example does not give (`flip=True` for `flip=False`). In training mode
    a step has to run, and branches that only training runs have to work on the channels that they worked on before.
    A model whose code fixes the batch becomes a graph of that batch. Where nothing can go, the result is a copy, of
    which only outputs are compared. The result's attribute `checked` tells what was
    compared.

    Args:
        model: any module that torch.export can trace; it is left as it was.
        example_inputs: a tensor, a tuple of tensors, or argument names with tensors; the batch comes first.
        masks: what is pruned; None takes the zeros that the model has.
        optimizer: the model's; in the end it holds the smaller model's parameters with what is left of their state.
        scales: what `prunus.quantize` returned for the model, with inputs of the example's names, order and sizes.
            They are cut along, so that the smaller model need not be quantised again: each channel that stays is
            rounded as before. A channel that is constant loses its correction as it goes, and what it adds to a bias
            is rounded with the bias. The errors in the scales stay those that were measured on the larger model.

    Returns:
        The smaller model; with `scales`, a pair of it and its scales.

    Raises:
        TypeError: the model is no Module, or an argument is of the wrong kind.
        ValueError: the optimizer holds none of the model's parameters, or state that can't be cut.
        GraphError: the graph can't be read; the message names the operation, the module and the line.
        MaskError: the masks are not of this model.
        ScalesError: the scales belong to another model, or other operations would get 8 bits in the smaller one.
        ShrinkError: the outputs would differ, or the smaller model could not train where the larger one can.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> _ = model[2].weight.data[:, 3:].zero_()
    >>> shrink(model, torch.zeros(1, 4))
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=2, bias=True)
    )
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    parameters = dict(unwrap(model).named_parameters())
    if optimizer is not None:
        optimizers.check_owned(optimizer, parameters)
    if not isinstance(scales, CutAlong | None):
        raise TypeError(f"scales must be what prunus.quantize returned, got {type(scales).__name__}")
    masked = unwrap(model)
    if masks is not None:
        masked = copy_model(masked)
        Masks(masks).apply(masked)
    graph = trace(masked, example_inputs)
    if scales is not None:
        scales = scales.for_graph(graph)
        scales.plan_for(graph)
    coupling = couple(graph, "counted")
    kept, fixed = removable(coupling)
    kept = training.with_training_branches(kept)
    if optimizer is not None:
        optimizers.check_state(optimizer, parameters, _cuts(masked, kept))
    smaller = _smaller(masked, kept, fixed)
    smaller.train(model.training)
    smaller_scales = None if scales is None else scales.cut_along(kept, smaller)
    if optimizer is not None:
        optimizers.cut(optimizer, parameters, dict(smaller.named_parameters()), _cuts(masked, kept))
    return smaller if smaller_scales is None else (smaller, smaller_scales)


def _cuts(model: nn.Module, kept: Kept) -> optimizers.Cuts:
    """Return what stays of each parameter, by any of its names."""
    names = canonical_names(model, kept.coupling)
    parameters = dict(model.named_parameters())

    def cut(name: str) -> optimizers.Cut:
        own, shape = names.get(id(parameters[name]), name), parameters[name].shape
        left = torch.Size([kept.size(own, dim) for dim in range(len(shape))])
        return optimizers.Cut(shape, left, kept.indices.get(own, {}), lambda tensor: kept.cut(own, tensor))

    return cut


def _smaller(model: nn.Module, kept: Kept, fixed: Constants) -> nn.Module:
    """Build the smaller model in its own class, or else as a graph, and prove it."""
    graph = kept.coupling.graph
    kind = type(model).__name__
    trials = _trials(model, graph)
    example = trials.example[0].inputs
    check_numbers([value for trial in trials.example for value in trial.expected], ShrinkError)
    if not bool(kept.gone.any()) and (copy := _unchanged(model, kept, trials)) is not None:
        return copy
    biases, fresh = _biases(kept, fixed)
    try:
        cut = {name: _cut_bias(kept, use, shift) for name, (use, shift) in fresh.items()}
        demanded = rewriting.demanded(kept, biases, cut)
        for how in _DRAWS if trials.seconds < _QUICK else _DRAWS[:1]:
            check_operations(demanded, fixed.matters, draw(example, example.batch, how, trials.ranges))
    except (RewriteError, MismatchError) as error:
        if depends_on_chance(model, example.args, example.kwargs):
            raise ShrinkError(
                f"{kind} can't be shrunk: in eval mode too its outputs depend on random numbers, so they can't be "
                "compared; switch what draws them off, as F.dropout with training=self.training does"
            ) from error
        raise ShrinkError(f"{kind} can't be shrunk: {error}") from error
    named = {f"{path}.bias" if path else "bias": bias for path, bias in _layers(model, fresh).items()}
    training_biases = training.Biases(biases, {use.weight.name: cut[name] for name, (use, _) in fresh.items()})
    if graph.batch is not None:
        why = f"the forward of {kind} fixes the batch to {graph.batch}"
    elif len(named) < len(fresh):
        why = f"a layer of {kind} that is not PyTorch's own needs a bias"
    else:
        try:
            first, *others = trials.example
            smaller = rebuild_proved(model, kept, biases | named, demanded, first)
            _check_outputs(smaller, trials, others)
            _check_training(smaller, trials, kept, training_biases)
            return _with_checked(smaller, trials.checked(resized=True))
        except RebuildError as error:
            why = f"the forward of {kind} hard-codes a size or a channel's place ({error})"
    _log.info("shrink: %s: its graph is used", why)
    smaller = _as_graph(demanded, trials, why)
    _check_training(smaller, trials, kept, training_biases)
    return _with_checked(smaller, trials.checked(resized=False))


def _unchanged(model: nn.Module, kept: Kept, trials: Trials) -> nn.Module | None:
    """Return a copy of a model of which all is kept; None where its outputs differ, as the general way says why."""
    copy = rebuild(model, kept, {})
    try:
        _check_outputs(copy, trials, trials.example)
    except RebuildError:
        return None
    return _with_checked(copy, replace(trials.checked(resized=True), operations=False))


def _trials(model: nn.Module, graph: Graph) -> Trials:
    try:
        return run_trials(model, graph)
    except Exception as error:  # what can be traced may still not run, as 8-bit floats
        lines = str(error).splitlines() or [""]
        raise ShrinkError(
            f"{type(model).__name__} can't be shrunk: it does not run on inputs like the example's, "
            f"{_shown(graph.args, graph.kwargs)}: {type(error).__name__}: {lines[0]}; give an example of the dtypes "
            "and shapes that it takes"
        ) from error


def _shown(args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> str:
    inputs = (*args, *kwargs.values())
    return ", ".join(f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" for value in inputs)


def _check_outputs(smaller: nn.Module, trials: Trials, example: Sequence[Trial]) -> None:
    """Hold the outputs of a smaller model of the same class against the larger model's.

    Args:
        smaller: the smaller model.
        trials: at other sizes and with other arguments, all of which are run.
        example: those at the example's sizes that are still to be run.

    Raises:
        RebuildError: an output differs, at another size or with another argument perhaps, or the class fails where the
            larger model does not.
    """
    try:
        trials.switched = [trial for trial in trials.switched if gives_shapes(trial, smaller)]
        why = disagreement([*example, *trials.resized, *trials.switched], smaller)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        why = f"{type(error).__name__}: {lines[0]}"
    if why:
        raise RebuildError(why)


def _as_graph(demanded: Demanded, trials: Trials, why: str) -> nn.Module:
    """Return the demanded graph as a module, whose outputs on the example's sizes were held against the model's."""
    model = demanded.kept.coupling.graph.model
    kind = type(model).__name__
    try:
        smaller = demanded.module(why)
        differs = disagreement(trials.example, smaller)
    except Exception as error:
        raise ShrinkError(f"{kind} can't be shrunk: {why}, and its graph fails too: {error}") from error
    if differs and disagreement(trials.example, ExportedModule.from_program(demanded.kept.coupling.graph.program)):
        raise ShrinkError(
            f"{kind} can't be shrunk: {why}, and its graph, which torch.export reads with gradients on, computes "
            "something else than the model without them; its forward must not branch on torch.is_grad_enabled()"
        )
    if differs:
        raise ShrinkError(f"{kind} can't be shrunk: {differs}, more than rounding may make; please report this model")
    return smaller


def _check_training(smaller: nn.Module, trials: Trials, kept: Kept, biases: training.Biases) -> None:
    """Make sure that a smaller model trains as the larger one does.

    Raises:
        ShrinkError: it does not; the message names what only training reaches.
    """
    try:
        training.check_training(smaller, trials, kept, biases)
    except training.TrainingError as error:
        graph = trials.graph
        raise ShrinkError(f"{type(graph.model).__name__} can't be shrunk: {error.advice(graph)}") from error


def _with_checked(smaller: nn.Module, checked: Checked) -> nn.Module:
    """Set the attribute `checked`, unless the class has one of that name."""
    if not hasattr(type(smaller), "checked"):
        smaller.checked = checked  # type: ignore[assignment]
    return smaller


def _cut_bias(kept: Kept, use: Use, shift: Tensor) -> Tensor:
    outputs = bias_outputs(kept, use.weight.name)
    like = kept.coupling.graph.tensor(use.weight.name)
    return (shift if outputs is None else shift[outputs]).to(like.dtype).to(like.device)


def _biases(kept: Kept, fixed: Constants) -> tuple[dict[str, Tensor], dict[str, tuple[Use, Tensor]]]:
    """Return the biases that take constants up: parameter -> new content, and operation -> the bias it needs anew."""
    changed: dict[str, Tensor] = {}
    fresh: dict[str, tuple[Use, Tensor]] = {}
    for use in kept.coupling.uses:
        shift = fixed.shift(kept.coupling, use, kept.gone)
        if shift is None:
            continue
        if use.bias is None:
            fresh[use.node.name] = (use, shift)
            continue
        old = changed.get(use.bias.name, widened(kept.coupling.graph.tensor(use.bias.name).detach()))
        flat = old.reshape(-1).clone()
        flat[use.bias.indices().reshape(-1).to(flat.device)] += shift.to(flat.device)
        changed[use.bias.name] = flat.reshape(old.shape)
    return changed, fresh


def _layers(model: nn.Module, fresh: Mapping[str, tuple[Use, Tensor]]) -> dict[str, Tensor]:
    """Return the layers of torch's own classes among those that need a bias, by name."""
    shifts = {}
    for use, shift in fresh.values():
        path, _, attribute = use.weight.name.rpartition(".")
        layer = model.get_submodule(path)
        if attribute == "weight" and isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)) and layer.bias is None:
            shifts[path] = shift
    return shifts
