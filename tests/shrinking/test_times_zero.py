"""What is multiplied by zero does not matter: each kind of zero, down to the last parameter."""

from __future__ import annotations

import copy

import pytest
import torch
from masked import apart, num_parameters, outputs
from zero_cases import CASES

import prunus

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", list(CASES))
def test_exactly_what_matters_is_left(name: str) -> None:
    case = CASES[name]
    model = case.make()
    before = copy.deepcopy(model.state_dict())
    smaller = prunus.shrink(model, case.inputs(1))
    assert num_parameters(smaller) == case.exact
    for seed, scale in ((1, 1.0), (2, 100.0)):
        inputs = case.inputs(64, seed)
        inputs = inputs * scale if inputs.is_floating_point() else inputs
        assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
