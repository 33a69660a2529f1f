"""The checks of a run: claims about its models, each with the measured value and its limit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunus.lab.recipe import PruneSection, Recipe
from prunus.measuring.macs import count_macs
from prunus.measuring.receipt import Check
from prunus.proving.verification import TOLERANCES, difference
from prunus.pruning.masks import Masks
from prunus.pruning.patterns import num_gone
from prunus.pruning.targets import resolve

# The tolerance for a target of whole channels, since single channels are steps.
CHANNEL_TOLERANCE = 0.02

# The tolerance of a program's outputs, relative to the largest logit, since it folds norms into weights in float32.
PROGRAM_TOLERANCE = 1e-4


def checks(
    recipe: Recipe, models: Mapping[str, nn.Module], masks: Masks, logits: Mapping[str, Tensor], example: Tensor
) -> tuple[Check, ...]:
    """Check the models of a run.

    Args:
        recipe: the recipe of the run.
        models: name -> model: ``dense``, ``pruned``, ``finetuned``, ``shrunk`` and ``packed``.
        masks: the masks of the finetuned model.
        logits: name -> the logits of the model for the test images, shape (images, classes).
        example: an input of the models.
    """
    return (
        _zeros_kept(models, masks),
        _plain_model(models),
        _channels_met(recipe.prune, models, example) if recipe.prune.channels else _met(recipe.prune, masks),
        _shrunk_equals_masked(models["shrunk"], logits),
        _loads_back(recipe.pack.codebook_bits, models, logits),
    )


def _zeros_kept(models: Mapping[str, nn.Module], masks: Masks) -> Check:
    alive = sum(_num_alive(models[name], masks) for name in ("pruned", "finetuned"))
    return Check("zeros kept", "pruned weights that are not zero after finetuning", alive, 0, alive == 0)


def _num_alive(model: nn.Module, masks: Masks) -> int:
    parameters = dict(model.named_parameters())
    return sum(int(torch.count_nonzero(parameters[name].detach()[~mask])) for name, mask in masks.items())


def _plain_model(models: Mapping[str, nn.Module]) -> Check:
    dense = models["dense"]
    changed = sum(
        len(dense.state_dict().keys() ^ models[name].state_dict().keys()) + (type(models[name]) is not type(dense))
        for name in ("pruned", "finetuned")
    )
    return Check("plain model", "state_dict keys or classes that pruning changed", changed, 0, changed == 0)


def _met(section: PruneSection, masks: Masks) -> Check:
    method = section.method()
    units = sum(method.pattern.num_units(mask.shape) for mask in masks.values())
    missed = abs(sum(num_gone(method.pattern, mask) for mask in masks.values()) - round(method.sparsity * units))
    return Check("sparsity met", "units (weights or blocks) too many or too few for the target", missed, 0, missed == 0)


def _channels_met(section: PruneSection, models: Mapping[str, nn.Module], example: Tensor) -> Check:
    """A target of whole channels is met if the shrunk model is smaller by the sparsity."""
    names = list(resolve(models["dense"], section.include, section.exclude))
    before, after = (_budget(section, models[name], names, example) for name in ("dense", "shrunk"))
    missed = abs(1 - after / before - section.sparsity)
    removed = "multiply-adds" if section.channels and section.channels.budget == "macs" else "weights"
    what = f"difference between the share of the {removed} that shrinking removed and the target"
    return Check("sparsity met", what, missed, CHANNEL_TOLERANCE, missed <= CHANNEL_TOLERANCE)


def _budget(section: PruneSection, model: nn.Module, names: list[str], example: Tensor) -> int:
    if section.channels and section.channels.budget == "macs":
        return count_macs(model, (example,)).total
    parameters = dict(model.named_parameters())
    return sum(parameters[name].numel() for name in names)


def _shrunk_equals_masked(shrunk: nn.Module, logits: Mapping[str, Tensor]) -> Check:
    """The limit is that of rounding, since the smaller model adds the same numbers in another order."""
    limit = max(TOLERANCES.get(parameter.dtype, 0.0) for parameter in shrunk.parameters())
    error = difference([logits["finetuned"]], [logits["shrunk"]])
    what = "largest difference of logits on the test images, relative to the largest logit"
    return Check("shrunk equals masked", what, error, limit, error <= limit)


def _loads_back(bits: int | None, models: Mapping[str, nn.Module], logits: Mapping[str, Tensor]) -> Check:
    before, after = models["shrunk"].state_dict(), models["packed"].state_dict()
    if bits is None:
        wrong = _num_different(before, after) + int((logits["shrunk"] != logits["packed"]).any(1).sum())
        what = "tensors of the loaded file that differ in a bit, and test images with other logits"
    else:
        exact = {name: tensor for name, tensor in before.items() if tensor.ndim < 2}
        wrong = _num_different(exact, {name: after[name] for name in exact}) + _num_crowded(after, 2**bits)
        what = f"biases and norms that differ in a bit, and weights with more than {2**bits} values beside zero"
    return Check("packed loads back", what, wrong, 0, wrong == 0)


def program_equals_packed(expected: Tensor, logits: Tensor) -> Check:
    """The limit is that of rounding, since the program adds the same numbers in another order.

    Args:
        expected: the packed model's logits for the test images, (images, classes).
        logits: the program's.
    """
    error = difference([expected], [logits])
    what = "largest difference of the compiled program's logits on the test images, relative to the largest logit"
    return Check("program equals packed", what, error, PROGRAM_TOLERANCE, error <= PROGRAM_TOLERANCE)


def _num_different(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> int:
    if before.keys() != after.keys():
        return len(before.keys() ^ after.keys())
    return sum(not _same_bits(tensor, after[name]) for name, tensor in before.items())


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return torch.equal(*(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)))


def _num_crowded(state: Mapping[str, Tensor], most: int) -> int:
    weights = (tensor for tensor in state.values() if tensor.ndim >= 2)
    return sum(len(torch.unique(weight[weight != 0])) > most for weight in weights)
