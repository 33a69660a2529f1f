"""What of a graph gets 8 bits, which values share a scale, and what tells graphs apart."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.graph import trace
from prunus.quantizing.planning import Plan, graph_hash, plan


def planned(model: nn.Module, *shape: int) -> Plan:
    """Return the plan of a model."""
    return plan(trace(model.eval(), torch.zeros(2, *shape)), {})


class Block(nn.Module):
    """A residual block with BatchNorm, a pooled shortcut, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 3, 8, 8) to (n, 2)."""
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(x + self.second(x))
        return self.last(F.max_pool2d(x, 8).flatten(1))


def test_the_terms_of_a_sum_have_one_scale_and_a_pooled_value_none_of_its_own() -> None:
    own = planned(Block(), 3, 8, 8)
    names = {own.keys[node] for node in own.values}
    assert names == {"/x", "/relu#0", "second/conv2d#0", "/relu#1"}
    (group,) = own.sums
    assert {own.keys[node] for node in group} == {"/relu#0", "second/conv2d#0", "/relu#1"}
    assert own.layers.keys() == {"first/conv2d#0", "second/conv2d#0", "last/linear#0"}
    assert own.keys[own.layers["first/conv2d#0"].tail] == "norm/batch_norm#0"
    assert own.keys[own.layers["last/linear#0"].source] == "/relu#1"


def test_what_is_concatenated_has_one_scale_and_one_zero_point() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.last = nn.Linear(4, 3), nn.Linear(4, 5), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([self.left(x), F.relu(self.right(x))], 1))

    own = planned(Beside(), 4)
    joined = {own.keys[node] for node in own.values if own.keys[own.joined[node]] == "/cat#0"}
    assert joined == {"left/linear#0", "/relu#0", "/cat#0"}


def test_layers_that_cannot_get_8_bits_are_named_with_the_reason() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.tied = nn.ConvTranspose2d(3, 4, 2, 2), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x).mean((2, 3))
            return self.tied(F.relu(self.tied(x)))

    own = planned(Odd(), 3, 4, 4)
    assert not own.layers
    assert own.in_float["up/conv_transpose2d#0"] == "transposed convolutions stay in float"
    assert own.in_float["tied/linear#0"].startswith("its weight or bias is shared, or no parameter")


def test_a_value_that_is_written_over_while_it_is_read_elsewhere_stays_in_float() -> None:
    class Overwritten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            half = y[:, :2]
            y.mul_(2)
            return self.second(y) + self.third(torch.cat([half, half], 1))

    own = planned(Overwritten(), 4)
    assert "written over in place" in own.in_float["first/linear#0"]


def test_the_hash_tells_sizes_apart_but_neither_batches_nor_precision_nor_weights() -> None:
    model = Block().eval()
    first = graph_hash(trace(model, torch.zeros(2, 3, 8, 8)))
    assert first == graph_hash(trace(Block().eval(), torch.zeros(5, 3, 8, 8)))
    assert first == graph_hash(trace(copy.deepcopy(model).double(), torch.zeros(1, 3, 8, 8).double()))
    wider = Block().eval()
    wider.second, wider.last = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Linear(8, 2)
    assert first != graph_hash(trace(wider, torch.zeros(2, 3, 8, 8)))
    assert first != graph_hash(trace(model, torch.zeros(2, 3, 8, 8)).__class__(*_of_larger(model)))


def _of_larger(model: nn.Module) -> tuple[object, ...]:
    graph = trace(nn.Sequential(nn.AdaptiveAvgPool2d(8), model), torch.zeros(2, 3, 16, 16))
    return graph.program, graph.model, graph.args, graph.kwargs, graph.tensors
