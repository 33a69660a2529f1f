"""What `recover` checks before any work: the models, the masks, and the pattern that masks are chosen by."""

from __future__ import annotations

from torch import nn

from prunus.errors import MaskError
from prunus.pruning import patterns
from prunus.pruning.masks import Masks
from prunus.pruning.patterns import Channels, Pattern, Unstructured, holds
from prunus.supported import check_values, unwrap


def check_models(model: nn.Module, masks: Masks, dense: nn.Module | None) -> nn.Module:
    """Return the dense model, which is the model itself where it is not pruned yet.

    Raises:
        TypeError: `dense` is not a module.
        ValueError: nothing holds the weights that were pruned, or `dense` is another model.
        MaskError: the masks don't fit the model, or prune nothing.
    """
    for name, parameter in model.named_parameters():
        check_values(name, parameter)
    pruned = _is_pruned(model, masks)
    if not masks or masks.num_pruned == 0:
        raise MaskError("the masks prune nothing, so there is nothing to recover; prunus.prune returns masks")
    if dense is None:
        if pruned:
            raise ValueError(
                "the model is pruned already, and the weights that it lost are needed: give the model from before too, "
                "as dense, or that model alone: recover prunes it by the masks"
            )
        return model
    if not isinstance(dense, nn.Module):
        raise TypeError(f"dense must be the torch.nn.Module from before it was pruned, got {type(dense).__name__}")
    teacher = unwrap(dense)
    if _memory(teacher) & _memory(model):
        raise ValueError(
            "dense is the model itself or shares tensors with it; give a copy of it from before it was pruned, or "
            "leave dense out"
        )
    shapes = [
        {name: f"{tuple(value.shape)} {value.dtype} on {value.device}" for name, value in own.state_dict().items()}
        for own in (model, teacher)
    ]
    if shapes[0] != shapes[1]:
        names = [name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name)]
        own, theirs = (of_one.get(names[0], "missing") for of_one in shapes)
        raise ValueError(
            "dense must be the same model before it was pruned, with the same names, shapes, types and devices; "
            f"{names[0]!r} is {theirs} there and {own} in the model"
        )
    if _is_pruned(teacher, masks):
        raise ValueError("dense is pruned by the masks as well; give the model from before it was pruned")
    return teacher


def _memory(model: nn.Module) -> set[int]:
    return {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}


def _is_pruned(model: nn.Module, masks: Masks) -> bool:
    """Tell whether the weights that masks remove are all zero.

    Raises:
        MaskError: the masks don't fit the model.
    """
    return not any(
        bool((parameter.detach()[~mask.to(parameter.device)] != 0).any()) for parameter, mask in masks.pairs(model)
    )


def check_pattern(choose: bool | str | Pattern, masks: Masks) -> Pattern | None:
    """Return the pattern of the masks to choose; None where these stay.

    Raises:
        TypeError: it is neither true or false nor a pattern.
        ValueError: there is no such pattern, or a mask does not hold it.
    """
    if isinstance(choose, bool):
        return Unstructured() if choose else None
    if not isinstance(choose, str) and not hasattr(choose, "pool"):
        raise TypeError(f"choose must be True, False, the name of a pattern or a Pattern, got {choose!r}")
    pattern = patterns.resolve(choose)
    if isinstance(pattern, Channels):
        raise ValueError(
            "whole channels can't be chosen layer by layer, as other layers are coupled with them; leave choose out"
        )
    for name, mask in masks.items():
        if mask.ndim > 1 and not bool(mask.all()) and not holds(pattern, mask):
            raise ValueError(
                f"the mask of {name!r} is not of pattern {pattern.name}, of which as many units would be chosen as it "
                f"keeps; give masks of prunus.prune(..., pattern={pattern.name!r}), or the pattern that these have"
            )
    return pattern
