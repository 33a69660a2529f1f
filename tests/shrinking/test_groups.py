"""Grouped convolutions: each group loses what it can, those that stay keep equally many, and whole groups go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import prunus
from grouped import IMAGES, by_row, make
from masked import apart, num_parameters, outputs
from prunus.graph.exported import ExportedModule
from zero_cases import Net, random_numbers

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_the_fullest_group_says_how_many_stay(seed: int, groups: int, transposed: bool) -> None:
    generator = torch.Generator().manual_seed(100 * seed + groups)
    inputs, made = groups * 4, groups * 5
    model = make(groups, inputs, made, transposed)
    # what a group's inputs and outputs do: feed nothing, or hold a constant; in one group all of it
    dead_in, dead_out = (torch.rand(groups, size, generator=generator) < 0.5 for size in (4, 5))
    dead_out[0] = True
    constant = torch.rand(groups, 4, generator=generator) < 0.5
    with torch.no_grad():
        weight = by_row(model[2].weight, groups, transposed)
        weight.movedim(2, 1)[dead_in & ~constant] = 0
        if not transposed:  # a constant can't go into a transposed convolution's bias
            model[0].weight[(dead_in & constant).flatten()] = 0
        else:
            weight.movedim(2, 1)[dead_in] = 0
        model[7].weight[:, dead_out.flatten()] = 0
    smaller = prunus.shrink(model, IMAGES[:1])
    stays_out = torch.where(dead_in.all(1), 0, (~dead_out).sum(1))  # without inputs a group is constant
    stays_in = torch.where(stays_out > 0, (~dead_in).sum(1), 0)
    stay = int((stays_out > 0).sum())
    if stay == 0:
        stay, num_in, num_out = 1, 1, 1
    else:
        num_in, num_out = int(stays_in.max()), int(stays_out.max())
    expected = stay * (num_in * 4 + num_out * (num_in * 9 + 1 + 2 + 5)) + 5
    assert num_parameters(smaller) == expected
    assert (smaller[2].groups, smaller[2].in_channels, smaller[2].out_channels) == (stay, stay * num_in, stay * num_out)
    for scale in (1.0, 20.0):
        assert apart(outputs(model, IMAGES * scale), outputs(smaller, IMAGES * scale)) <= 1e-12


def test_an_optimizer_follows_the_rows() -> None:
    model = make(4, 16, 20, False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(IMAGES).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        by_row(model[2].weight, 4, False)[0, :, 1] = 0
        by_row(model[2].weight, 4, False)[1, :, 3] = 0
        by_row(model[2].weight, 4, False)[2:, :, 0] = 0
    before = optimizer.state[model[2].weight]["momentum_buffer"].clone()
    smaller = prunus.shrink(model, IMAGES[:1], optimizer=optimizer)
    after = optimizer.state[smaller[2].weight]["momentum_buffer"]
    for group, out in enumerate((1, 3, 0, 0)):
        columns = [column for column in range(4) if column != out]
        assert torch.equal(after[5 * group : 5 * group + 5], before[5 * group : 5 * group + 5][:, columns])


def test_a_forward_that_holds_sizes_becomes_a_graph_with_the_new_groups() -> None:
    def reshaped(net: Net, x: Tensor) -> Tensor:
        x = net.body_(x).reshape(x.shape[0], 20, 16)
        return net.head(x.mean(2))

    body = make(4, 16, 20, False)[:5]
    model = random_numbers(Net(reshaped, body_=body, head=nn.Linear(20, 3)))
    with torch.no_grad():
        model.head.weight[:, [0, 6, 7, 13, *range(15, 20)]] = 0
    smaller = prunus.shrink(model, IMAGES[:1])
    assert isinstance(smaller, ExportedModule)
    assert num_parameters(smaller) == 12 * (3 + 1) + 12 * (4 * 9 + 1 + 2) + (12 * 3 + 3)
    assert apart(outputs(model, IMAGES), outputs(smaller, IMAGES)) <= 1e-12


def test_one_layer_used_twice_loses_the_same_both_times() -> None:
    def twice(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.head(net.grouped(torch.tanh(net.grouped(x))).mean((2, 3)))

    layers = {"stem": nn.Conv2d(3, 8, 1), "grouped": nn.Conv2d(8, 8, 1, groups=2), "head": nn.Linear(8, 3)}
    model = random_numbers(Net(twice, **layers))
    with torch.no_grad():
        model.grouped.weight[:4, 1] = 0
        model.grouped.weight[4:, 2] = 0
        model.head.weight[:, [1, 6]] = 0
    smaller = prunus.shrink(model, IMAGES[:1])
    assert num_parameters(smaller) == 6 * (3 + 1) + 6 * (3 + 1) + (6 * 3 + 3)
    assert apart(outputs(model, IMAGES), outputs(smaller, IMAGES)) <= 1e-12


def test_a_weight_that_is_read_in_another_way_stays_whole() -> None:
    def penalised(net: Net, x: Tensor) -> Tensor:
        x = net.grouped(net.stem(x))
        return net.head(x.mean((2, 3))) + net.grouped.weight.square().sum()

    layers = {"stem": nn.Conv2d(3, 8, 1), "grouped": nn.Conv2d(8, 8, 1, groups=2), "head": nn.Linear(8, 3)}
    model = random_numbers(Net(penalised, **layers))
    with torch.no_grad():
        model.head.weight[:, [1, 6]] = 0
    smaller = prunus.shrink(model, IMAGES[:1])
    assert apart(outputs(model, IMAGES), outputs(smaller, IMAGES)) <= 1e-12
