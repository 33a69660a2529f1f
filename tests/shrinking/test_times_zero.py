"""What is multiplied by zero does not matter: each kind of zero, down to the last parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
import prunus.shrinking
from masked import apart, num_parameters, outputs
from prunus.graph import trace
from prunus.graph.coupling import couple
from zero_cases import CASES, Net, random_numbers, zero

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


def _written_into(net: Net, x: Tensor) -> Tensor:
    y = net.first(x)
    y[:, 1].add_(x[:, 0])
    return net.head(y)


def _view_written_into(net: Net, x: Tensor) -> Tensor:
    y = net.first(x)
    view = y[:, 1:3]
    view.mul_(net.gate[1:3])
    view.add_(x[:, :2])
    return net.head(torch.tanh(y))


def _read_before_and_after(net: Net, x: Tensor) -> Tensor:
    y = net.first(x)
    z = y * 2
    y.mul_(net.gate)
    return net.head(z + y)


def _counts_its_calls(net: Net, x: Tensor) -> Tensor:
    net.gate.add_(1.0)
    return net.head(net.first(x) * net.gate)


def _adds_the_batch_size(net: Net, x: Tensor) -> Tensor:
    return net.head(torch.tanh(net.first(x) * net.gate + x.shape[0]))


def _divides_zero(net: Net, x: Tensor) -> Tensor:
    return net.head((net.first(x) * net.gate) / net.second(x))


def _two_zeros(net: Net, x: Tensor) -> Tensor:
    return net.head((net.first(x) * net.gate) * (net.second(x) * net.gate) + net.gate * net.second(x))


def _zero_is_squared(net: Net, x: Tensor) -> Tensor:
    y = net.first(x) * net.gate
    return net.head(y * y + torch.exp(y))


def _compared(net: Net, x: Tensor) -> Tensor:
    y = net.first(x) * net.gate
    return net.head((y > net.second(x)).to(x.dtype) + torch.where(y == 0, net.second(x), y))


def _sorted(net: Net, x: Tensor) -> Tensor:
    return net.head((net.first(x) * net.gate).sort(1).values)


def _summed_over_tokens(net: Net, x: Tensor) -> Tensor:
    tokens = x[:, None].expand(-1, 3, -1)
    return net.head(torch.cumsum(net.first(tokens) * net.gate + 0.5, 1).sum(1))


def _padded_and_summed(net: Net, x: Tensor) -> Tensor:
    tokens = x[:, None].expand(-1, 3, -1)
    y = F.pad(torch.sigmoid(net.first(tokens) * net.gate), (0, 0, 2, 1))
    return net.head(F.avg_pool1d(y.transpose(1, 2), 3, padding=1).sum(2))


def _attends_with_a_mask(net: Net, x: Tensor) -> Tensor:
    tokens = torch.stack([x, x.flip(1), x * 2], 1)
    query, value = net.second(tokens), net.first(tokens) * net.gate + 0.25
    mask = torch.zeros(3, 3, dtype=torch.bool).fill_diagonal_(True)
    mask[2] = False
    return net.head(F.scaled_dot_product_attention(query, query, value, mask).nan_to_num().sum(1))


def _twice_by_one_head(net: Net, x: Tensor) -> Tensor:
    y = net.first(x) * net.gate
    return net.head(y) + net.head(torch.exp(y))


@pytest.mark.parametrize(
    "forward",
    [
        _written_into,
        _view_written_into,
        _read_before_and_after,
        _counts_its_calls,
        _adds_the_batch_size,
        _divides_zero,
        _two_zeros,
        _zero_is_squared,
        _compared,
        _sorted,
        _summed_over_tokens,
        _padded_and_summed,
        _attends_with_a_mask,
        _twice_by_one_head,
    ],
)
def test_a_zero_is_no_reason_where_something_else_changes_it(forward: Callable[..., Tensor]) -> None:
    layers = {"first": nn.Linear(6, 8), "second": nn.Linear(6, 8), "head": nn.Linear(8, 3)}
    model = random_numbers(Net(forward, **layers, gate=torch.ones(8)))
    zero(model.gate, 1, 2, 5)
    zero(model.first.weight, 1, 6)
    zero(model.first.bias, 1)
    smaller = prunus.shrink(model, torch.randn(1, 6, dtype=torch.float64))
    for num_samples in (1, 3, 5):
        inputs = torch.randn(num_samples, 6, dtype=torch.float64)
        assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12


@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_a_strange_factor_is_no_zero(strange: float) -> None:
    def gated(net: Net, x: Tensor) -> Tensor:
        return net.head((net.first(x) * net.gate).nan_to_num(2.0, 3.0, 4.0))

    model = random_numbers(Net(gated, first=nn.Linear(6, 8), head=nn.Linear(8, 3), gate=torch.ones(8)))
    zero(model.first.weight, 1)
    zero(model.first.bias, 1)
    model.gate[1] = strange
    smaller = prunus.shrink(model, torch.randn(1, 6, dtype=torch.float64))
    inputs = torch.randn(4, 6, dtype=torch.float64)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12


def test_a_dropout_that_is_always_on_keeps_zeros_only() -> None:
    layers = {"first": nn.Linear(6, 8), "head": nn.Linear(8, 3)}
    model = random_numbers(Net(lambda net, x: net.head(F.dropout(net.first(x), 0.5, True)), **layers))
    zero(model.first.weight, 1, 2)
    zero(model.first.bias, 1)
    kept, constants = prunus.shrinking.removable(
        couple(trace(model, torch.zeros(1, 6, dtype=torch.float64)), "counted")
    )
    assert kept.size("head.weight", 1) == 7
    assert all(constants.shift(kept.coupling, use, kept.gone) is None for use in kept.coupling.uses)


def test_zeros_that_any_view_writes_over_are_no_zeros() -> None:
    def scaled(net: Net, x: Tensor) -> Tensor:
        scales = net.table.clone()
        torch.as_strided(scales, (8,), (2,)).add_(1.0)
        return net.head(net.first(x) * scales[:, 0])

    model = random_numbers(Net(scaled, first=nn.Linear(6, 8), head=nn.Linear(8, 3)))
    model.register_buffer("table", torch.zeros(8, 2, dtype=torch.float64))
    smaller = prunus.shrink(model, torch.randn(1, 6, dtype=torch.float64))
    inputs = torch.randn(3, 6, dtype=torch.float64)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: F.avg_pool2d(x, 2, divisor_override=3),
        lambda net, x: F.avg_pool2d(x, 3, padding=1),
        lambda net, x: F.lp_pool2d(x, 2, 2),
        lambda net, x: F.grid_sample(x, net.grid.expand(x.shape[0], 4, 4, 2), align_corners=False),
    ],
    ids=["divisor", "padding", "powers", "grid"],
)
def test_a_constant_is_another_number_behind(function: Callable[..., Tensor]) -> None:
    def pooled(net: Net, x: Tensor) -> Tensor:
        return net.head(function(net, net.first(x)).mean((2, 3)))

    images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = random_numbers(Net(pooled, first=nn.Conv2d(3, 8, 1), head=nn.Linear(8, 3)))
    model.register_buffer("grid", torch.linspace(-2, 2, 32).reshape(1, 4, 4, 2).double())
    zero(model.first.weight, 1, 2)
    smaller = prunus.shrink(model, images[:1])
    assert apart(outputs(model, images), outputs(smaller, images)) <= 1e-12


def _attends_over_queries(net: Net, x: Tensor) -> Tensor:
    tokens = torch.stack([x, x.flip(1), x * 2], 1)
    query, value = net.second(tokens), net.first(tokens)
    return net.head((torch.softmax(query @ query.transpose(1, 2), 1) @ value)[:, 0].tanh())


def _a_computed_bias(net: Net, x: Tensor) -> Tensor:
    return F.linear(net.first(x), net.head.weight, net.head.bias * 2)


def _a_bias_of_two(net: Net, x: Tensor) -> Tensor:
    return F.linear(net.first(x), net.head.weight, net.head.bias + net.gate[:3])


def _a_bias_that_is_multiplied(net: Net, x: Tensor) -> Tensor:
    return torch.addmm(net.head.bias, net.first(x), net.head.weight.T, beta=0.5, alpha=3.0)


def _a_product_that_is_multiplied(net: Net, x: Tensor) -> Tensor:
    return torch.addmm(net.head.bias, net.first(x), net.head.weight.T, alpha=3.0)


@pytest.mark.parametrize(
    "forward",
    [
        _attends_over_queries,
        _a_computed_bias,
        _a_bias_of_two,
        _a_bias_that_is_multiplied,
        _a_product_that_is_multiplied,
    ],
)
def test_a_constant_is_no_reason_where_it_becomes_another_number(forward: Callable[..., Tensor]) -> None:
    layers = {"first": nn.Linear(6, 8), "second": nn.Linear(6, 8), "head": nn.Linear(8, 3)}
    model = random_numbers(Net(forward, **layers, gate=torch.ones(8)))
    zero(model.first.weight, 1, 6)
    smaller = prunus.shrink(model, torch.randn(1, 6, dtype=torch.float64))
    for num_samples in (1, 3, 5):
        inputs = torch.randn(num_samples, 6, dtype=torch.float64)
        assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12


def test_a_constant_times_a_number() -> None:
    def scaled(net: Net, x: Tensor) -> Tensor:
        y = torch.addmm(net.second.bias, net.first(x), net.second.weight.T, beta=0.5, alpha=3.0)
        return net.head(torch.tanh(y))

    layers = {"first": nn.Linear(6, 4), "second": nn.Linear(4, 8), "head": nn.Linear(8, 3)}
    model = random_numbers(Net(scaled, **layers))
    zero(model.first.weight, 1)  # a constant, which the third unit behind is made of, and no other
    zero(model.second.weight.T, 1)
    zero(model.second.weight, 2, 5)
    model.second.weight.data[2, 1] = 1
    inputs = torch.randn(5, 6, dtype=torch.float64)
    smaller = prunus.shrink(model, inputs[:1])
    assert smaller.state_dict()["second.weight"].shape == (6, 3)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12


def test_a_first_state_that_is_not_zero() -> None:
    def started(net: Net, x: Tensor) -> Tensor:
        return net.head(net.layer(x, net.first(x[:, 0]).tanh()[None])[0])

    layers = {"first": nn.Linear(6, 8), "layer": nn.GRU(6, 8, batch_first=True), "head": nn.Linear(8, 3)}
    model = random_numbers(Net(started, **layers))
    for parameter in model.layer.parameters():
        parameter.data.view(3, 8, -1)[:, :3] = 0
    inputs = torch.randn(4, 5, 6, dtype=torch.float64)
    smaller = prunus.shrink(model, inputs[:1])
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12


def test_what_gives_the_first_state_of_a_recurrent_layer_is_needed() -> None:
    def started(net: Net, x: Tensor) -> Tensor:
        return net.head(net.layer(x, net.first(net.stem(x[:, 0]).tanh()).tanh()[None])[0])

    layers = {"stem": nn.Linear(6, 7), "first": nn.Linear(7, 8), "layer": nn.GRU(6, 8, batch_first=True)}
    model = random_numbers(Net(started, **layers, head=nn.Linear(8, 3)))
    for parameter in model.layer.parameters():
        parameter.data.view(3, 8, -1)[:, :3] = 0  # but their states don't start at zero
    zero(model.first.weight.T, 2)
    inputs = torch.randn(4, 5, 6, dtype=torch.float64)
    smaller = prunus.shrink(model, inputs[:1])
    assert (smaller.stem.out_features, smaller.layer.hidden_size) == (6, 8)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12


@pytest.mark.parametrize(("biases", "left"), [((-1.0, 0.5), 5), ((-1.0, 1.5), 8), ((1.0, -1.5), 5)])
def test_units_of_a_relu_are_zero_where_both_biases_sum_to_no_more(biases: tuple[float, float], left: int) -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(net.layer(x)[0])

    layer = nn.RNN(6, 8, nonlinearity="relu", batch_first=True)
    model = random_numbers(Net(run, layer=layer, head=nn.Linear(8, 3)))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[:3] = 0
        layer.bias_ih_l0[:3], layer.bias_hh_l0[:3] = biases
    inputs = torch.randn(4, 5, 6, dtype=torch.float64)
    smaller = prunus.shrink(model, inputs[:1])
    assert smaller.layer.hidden_size == left
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12
