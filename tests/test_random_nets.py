"""Every network that the strategy draws runs, depends on its inputs, and is built the same each time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from random_nets import CLASSES, STAGES, Drawn, Stage, Unit, random_nets

pytestmark = pytest.mark.usefixtures("one_thread")
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@given(random_nets())
@settings(SLOW, max_examples=40)
def test_rows_are_independent_and_depend_on_the_input(drawn: Drawn) -> None:
    model, again = drawn.make(), drawn.make()
    with torch.no_grad():
        outputs = model(drawn.example_inputs(3))
        assert outputs.shape == (3, CLASSES)
        torch.testing.assert_close(model(drawn.example_inputs(3)[:2]), outputs[:2])
        torch.testing.assert_close(again(drawn.example_inputs(3)), outputs, rtol=0, atol=0)
    assert outputs.isfinite().all()


@pytest.mark.parametrize("kind", STAGES)
@given(groups=st.sampled_from(["one", "two", "each"]))
@settings(SLOW, max_examples=3)
def test_each_kind_of_stage_is_drawn_with_the_groups_it_names(kind: str, groups: str) -> None:
    units = (Unit(width=8), Unit(width=8, groups=groups))
    model = Drawn((Stage("chain", (Unit(width=8),)), Stage(kind, units)), "mean", 0, seed=0).make()
    wanted = {"one": 1, "two": 2, "each": 8}[groups]
    found = {module.groups for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert wanted in found
