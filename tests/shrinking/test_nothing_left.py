"""Whatever is zero in a network, what is left does the same, and no channel is left that could go."""

from __future__ import annotations

import pytest
import torch

import prunus
from masked import apart, outputs
from zeroed_nets import IMAGES, removable_still, zeroed_net

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("seed", range(12))
def test_no_channel_is_left_that_could_go(seed: int) -> None:
    model = zeroed_net(seed)
    smaller = prunus.shrink(model, IMAGES[:1])
    for scale in (1.0, 30.0):
        assert apart(outputs(model, IMAGES * scale), outputs(smaller, IMAGES * scale)) <= 1e-12
    assert removable_still(smaller, IMAGES) == []
    assert torch.equal(model(IMAGES), zeroed_net(seed)(IMAGES))
