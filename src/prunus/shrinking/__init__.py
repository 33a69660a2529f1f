"""Shrinking: a smaller model with the same outputs, by removing what provably can't matter."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunus.coupling import Use, couple
from prunus.graph import ExampleInputs, trace
from prunus.masks import Masks
from prunus.shrinking import optimizers, rewriting, verification
from prunus.shrinking.constants import Constants
from prunus.shrinking.kept import Kept
from prunus.shrinking.modules import bias_outputs, canonical_names, rebuild
from prunus.shrinking.removal import removable
from prunus.targets import unwrap

__all__ = ["ShrinkError", "removable", "shrink"]

_log = logging.getLogger("prunus")


class ShrinkError(ValueError):
    """A model that could not be shrunk to one with the same outputs; it was left as it was."""


def shrink(
    model: nn.Module,
    example_inputs: ExampleInputs,
    masks: Mapping[str, Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> nn.Module:
    """Return a smaller model with the same outputs: without the channels, neurons and heads that can't matter.

    A channel can't matter if everything that carries it on to an output is zero: weights, the scale of a norm, a
    factor. Nor can it if it is constant, as all that makes it is zero: then what it gives to the layers behind is
    added to their biases (not across zero padding, where it would be wrong). This is repeated until nothing more
    can go. Zero times a channel is taken for zero: where the channel would have been NaN or infinite, the smaller
    model does not show it. Groups of a convolution may lose different channels; all that stay keep equally many.
    The smaller model is an instance of the same class, with attributes (`out_channels`, `num_heads`, ...) of the
    new sizes; where the class's own forward hard-codes a size, it is a `prunus.exported.ExportedModule`, which says
    why. Either way its outputs on random inputs were found equal to the masked model's.

    Args:
        model: any module that torch.export can trace; it is left as it was.
        example_inputs: a tensor, a tuple of tensors, or argument names with tensors; the batch comes first.
        masks: what is pruned; None takes the zeros that the model has.
        optimizer: the model's; in the end it holds the smaller model's parameters with what is left of their state.

    Raises:
        TypeError: the model is no Module, or an argument is of the wrong kind.
        GraphError: the graph can't be read; the message names the operation, the module and the line.
        MaskError: the masks are not of this model.
        ShrinkError: the outputs would differ.

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
    masked = unwrap(model)
    if masks is not None:
        masked = copy.deepcopy(masked)
        Masks(masks).apply(masked)
    coupling = couple(trace(masked, example_inputs), "counted")
    kept, fixed = removable(coupling)
    smaller = _smaller(masked, kept, fixed)
    smaller.train(model.training)
    if optimizer is not None:
        names = canonical_names(masked, coupling)
        own = {name: names.get(id(tensor), name) for name, tensor in masked.named_parameters()}
        optimizers.cut(
            optimizer, parameters, dict(smaller.named_parameters()), lambda name, tensor: kept.cut(own[name], tensor)
        )
    return smaller


def _smaller(model: nn.Module, kept: Kept, fixed: Constants) -> nn.Module:
    """Build the smaller model in its own class, or else as a graph, and hold its outputs against the model's."""
    graph = kept.coupling.graph
    args, kwargs = verification.random_like(graph.args, graph.kwargs)
    expected = verification.outputs(model, args, kwargs)
    limit = verification.tolerance(expected)
    biases, fresh = _biases(kept, fixed)
    named = {f"{path}.bias" if path else "bias": bias for path, bias in _layers(model, fresh).items()}
    why = ""
    for ancestors in (False, True):
        try:
            smaller = rebuild(model, kept, biases | named, ancestors=ancestors)
            apart = verification.difference(expected, verification.outputs(smaller, args, kwargs))
        except Exception as error:  # whatever a forward does with sizes that are new to it
            lines = str(error).splitlines() or [""]
            why = why or f"{type(error).__name__}: {lines[0]}"
            continue
        if apart <= limit and len(named) == len(fresh):
            return smaller
        why = why or f"its outputs would differ by {apart:.1e}"
    _log.info("shrink: the forward of %s hard-codes a size (%s): its graph is used", type(model).__name__, why)
    return _as_graph(model, kept, biases, fresh, why, (expected, limit, args, kwargs))


def _as_graph(
    model: nn.Module,
    kept: Kept,
    biases: Mapping[str, Tensor],
    fresh: Mapping[str, tuple[Use, Tensor]],
    why: str,
    check: tuple[list[Tensor], float, tuple[Tensor, ...], dict[str, Tensor]],
) -> nn.Module:
    expected, limit, args, kwargs = check
    cut = {name: _cut_bias(kept, use, shift) for name, (use, shift) in fresh.items()}
    reason = f"the forward of {type(model).__name__} hard-codes a size ({why})"
    try:
        smaller = rewriting.rewrite(kept, biases, cut, reason)
        apart = verification.difference(expected, verification.outputs(smaller, args, kwargs))
    except Exception as error:
        raise ShrinkError(
            f"{type(model).__name__} can't be shrunk: {reason}, and its graph fails too: {error}"
        ) from error
    if apart > limit:
        raise ShrinkError(
            f"{type(model).__name__} can't be shrunk: its outputs would differ by {apart:.1e} of the largest, more "
            f"than the {limit:.0e} that rounding may make; please report this model"
        )
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
        old = changed.get(use.bias.name, kept.coupling.graph.tensor(use.bias.name).detach().double())
        flat = old.reshape(-1).clone()
        flat[use.bias.indices().reshape(-1).to(flat.device)] += shift.to(flat.device)
        changed[use.bias.name] = flat.reshape(old.shape)
    return changed, fresh


def _layers(model: nn.Module, fresh: Mapping[str, tuple[Use, Tensor]]) -> dict[str, Tensor]:
    """Return the layers of torch's own classes among those that need a bias, by name."""
    found = {}
    for use, shift in fresh.values():
        path, _, attribute = use.weight.name.rpartition(".")
        layer = model.get_submodule(path)
        if attribute == "weight" and isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)) and layer.bias is None:
            found[path] = shift
    return found
