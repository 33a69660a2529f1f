"""What prune zeroes by whole channels, shrink cuts out; where it can't, prune refuses before it zeroes a weight."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import ChannelError
from topologies import TOPOLOGIES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def separate_attention() -> Iterator[None]:
    """Keep attention layers from their fused operation, whose rounding is its own."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize("name", list(TOPOLOGIES))
def test_what_is_zeroed_is_cut_out(name: str) -> None:
    topology = TOPOLOGIES[name]
    model = topology.model()
    total = sum(parameter.numel() for parameter in model.parameters())
    prunus.prune(model, topology.sparsity, pattern="channel", example_inputs=topology.inputs(2))
    smaller = prunus.shrink(model, topology.inputs(1))
    assert sum(parameter.numel() for parameter in smaller.parameters()) < (1.06 - topology.sparsity) * total
    for batch in (1, 3):
        inputs = topology.inputs(batch)
        assert torch.allclose(smaller(*inputs), model(*inputs), rtol=0, atol=1e-10)


class Written(nn.Module):
    """Writes to memory that is read through another view later: a selection of channels can't stand for that view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.first(x))
        view = y[:, ::3]
        y.add_(1)
        return self.last(view)


def test_what_could_not_be_cut_out_is_refused_and_nothing_is_zeroed() -> None:
    torch.manual_seed(0)
    model = Written()
    before = copy.deepcopy(model.state_dict())
    inputs = torch.randn(2, 3, 4, 4)
    with pytest.raises(
        ChannelError, match=r"not cut out of the model: aten\.add_.* in the model itself, .*test_cut\.py"
    ):
        prunus.prune(model, 0.6, pattern="channel", criterion="random", example_inputs=inputs)
    with pytest.raises(ChannelError, match="not cut out of the model"):
        prunus.Pruner(model, 0.6, steps=4, pattern="channel", criterion="random", example_inputs=inputs)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_bias_joined_from_parts_goes_with_its_outputs() -> None:
    topology = TOPOLOGIES["rotary block"]
    model = topology.model()
    masks = prunus.prune(model, topology.sparsity, pattern="channel", example_inputs=topology.inputs(2))
    heads = masks["1.q_bias"].reshape(2, 8)
    assert heads.any(1).tolist() == heads.all(1).tolist()
    assert torch.equal(masks["1.q_bias"], masks["1.v_bias"])
    assert torch.equal(masks["1.q_bias"], masks["1.qkv.weight"][:16].any(1))
