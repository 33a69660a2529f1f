"""Random networks: shrunk, they do what they did with zeros in them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunus
from masked import apart, num_parameters, outputs, zero_at_random, zero_everywhere
from prunus.errors import ChannelError
from random_nets import Drawn, random_nets


@settings(max_examples=8, deadline=None)
@given(drawn=random_nets(max_stages=3), sparsity=st.sampled_from([0.5, 0.9, 0.99]))
def test_random_zeros(drawn: Drawn, sparsity: float) -> None:
    model = drawn.make()
    zero_at_random(model, sparsity, torch.Generator().manual_seed(drawn.seed))
    smaller = prunus.shrink(model, drawn.example_inputs(1))
    inputs = drawn.example_inputs(3)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-10


@settings(max_examples=10, deadline=None)
@given(drawn=random_nets(max_stages=3))
def test_zeros_of_every_kind(drawn: Drawn) -> None:
    model = drawn.make()
    zero_everywhere(model, torch.Generator().manual_seed(drawn.seed))
    smaller = prunus.shrink(model, drawn.example_inputs(1))
    for scale in (1.0, 30.0):
        inputs = drawn.example_inputs(3) * scale
        assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-10


@settings(max_examples=6, deadline=None)
@given(drawn=random_nets(max_stages=3))
def test_half_the_channels(drawn: Drawn) -> None:
    model = drawn.make()
    try:
        prunus.prune(model, 0.5, pattern="channel", example_inputs=drawn.example_inputs())
    except ChannelError:  # few channels: steps too large
        return
    smaller = prunus.shrink(model, drawn.example_inputs())
    inputs = drawn.example_inputs(3)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-10
    assert num_parameters(smaller) < num_parameters(model)
