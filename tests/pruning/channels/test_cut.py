"""What prune zeroes by whole channels, shrink cuts out; where it can't, prune refuses before it zeroes a weight."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import prunus
from branching import Branching
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


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda y: y[:, 9], "aten.select has index"),
        (lambda y: y[:, 4:8] * 2, "needs channels"),
        (lambda y: y.roll(3, 1)[:, :2], "aten.roll"),
    ],
    ids=["one", "some", "rolled"],
)
def test_what_a_branch_of_training_addresses_by_number_is_not_zeroed(
    function: Callable[[Tensor], Tensor], why: str
) -> None:
    model = Branching(function)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ChannelError, match=rf"could not be trained any more .*{why}.*self\.training"):
        prunus.prune(model, 0.375, pattern="channel", example_inputs=torch.zeros(1, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_schedule_is_refused_before_training_where_a_branch_of_training_forbids_it() -> None:
    model = Branching(lambda y: y[:, 9])
    with pytest.raises(ChannelError, match="could not be trained any more"):
        prunus.Pruner(model, sparsity=0.375, steps=2, pattern="channel", example_inputs=torch.zeros(1, 8))


class Halved(Branching):
    """Halves all channels in training."""

    def __init__(self) -> None:
        super().__init__(lambda y: y * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.last(self.function(y) if self.training else y)


def test_a_branch_of_training_that_can_be_cut_along_is_no_hindrance() -> None:
    model = Halved()
    prunus.prune(model, 0.375, pattern="channel", example_inputs=torch.zeros(1, 8))
    smaller = prunus.shrink(model, torch.zeros(1, 8))
    x = torch.randn(3, 8)
    assert smaller.first.out_features == 10
    assert torch.allclose(smaller(x), model(x), rtol=0, atol=1e-6)
    assert torch.allclose(smaller.train()(x), model.train()(x), rtol=0, atol=1e-6)
