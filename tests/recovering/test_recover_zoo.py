"""Recovering every network of the zoo."""

from __future__ import annotations

import inspect

import pytest
import torch

import prunus
from prunus.proving.verification import tensors
from zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_the_outputs_are_hardly_farther_from_the_dense_ones_if_at_all_and_the_masks_hold(name: str) -> None:
    case = ZOO[name]
    model, pruned, dense = case.make(), case.make(), case.make()
    weights = [key for key, parameter in model.named_parameters() if parameter.ndim > 1]
    masks = prunus.prune(pruned, 0.5, include=weights, scope="uniform")
    inputs = case.inputs(8)
    if isinstance(inputs, tuple):
        inputs = dict(zip(inspect.signature(model.forward).parameters, inputs, strict=False))
    result = prunus.recover(model, masks, [inputs])
    result.masks.check(model)
    assert result.masks == masks
    assert result.layers or result.not_refitted
    args, kwargs = case.arguments(8)
    with torch.no_grad():
        before, after, wanted = (tensors(own(*args, **kwargs)) for own in (pruned, model, dense))
    errors = [
        sum(float((one.double() - two.double()).square().sum()) for one, two in zip(own, wanted, strict=True))
        for own in (before, after)
    ]
    assert errors[1] <= errors[0] * 1.3  # six samples are few, and two decide how far they are trusted
