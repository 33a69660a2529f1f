"""Channels that are constant: what they give to the layer behind joins its bias, where that is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import prunus
from masked import apart, outputs

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def filled(*layers: nn.Module) -> nn.Sequential:
    """Return a sequence of layers in eval mode whose parameters and statistics are random numbers."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *(each for each in model.buffers() if each.is_floating_point())):
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.1)
    return model


@torch.no_grad()
def silence(layer: nn.Module, *rows: int, bias: float | None = None) -> None:
    """Set rows of a layer's weight to zero, and their biases to a number."""
    for row in rows:
        layer.weight[row] = 0  # type: ignore[index, operator]
        if bias is not None:
            layer.bias[row] = bias  # type: ignore[index, operator]


def test_the_bias_behind_takes_up_a_constant_by_hand() -> None:
    model = filled(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    silence(model[0], 1, bias=5.0)
    silence(model[0], 2, bias=-5.0)
    smaller = prunus.shrink(model, torch.zeros(1, 3, dtype=torch.float64))
    assert smaller[0].out_features == smaller[2].in_features == 2
    assert torch.allclose(smaller[2].bias, model[2].bias + 5 * model[2].weight[:, 1], rtol=1e-12)
    assert torch.equal(smaller[0].weight, model[0].weight[[0, 3]])
    assert torch.equal(smaller[2].weight, model[2].weight[:, [0, 3]])


def test_a_constant_is_folded_into_a_convolution_without_padding() -> None:
    model = filled(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    silence(model[0], 1)
    smaller = prunus.shrink(model, IMAGES)
    assert smaller[0].out_channels == smaller[2].in_channels == 3
    assert apart(outputs(model, IMAGES), outputs(smaller, IMAGES)) <= 1e-12


@pytest.mark.parametrize("padding", [1, (0, 1), "same"])
def test_a_constant_is_not_folded_across_zero_padding(padding: int | tuple[int, int] | str) -> None:
    model = filled(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=padding))
    silence(model[0], 1)
    smaller = prunus.shrink(model, IMAGES)
    assert smaller[0].out_channels == 4
    silence(model[0], 1, bias=-2.0)  # through ReLU it is zero, as the padding is
    smaller = prunus.shrink(model, IMAGES)
    assert smaller[0].out_channels == 3
    assert apart(outputs(model, IMAGES), outputs(smaller, IMAGES)) <= 1e-12


def test_a_constant_is_not_folded_into_a_transposed_convolution() -> None:
    model = filled(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 3, stride=2))
    silence(model[0], 1)
    assert prunus.shrink(model, IMAGES)[0].out_channels == 4


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Hardswish, nn.Softplus])
def test_through_norm_and_activation_into_a_layer_without_bias(activation: Callable[[], nn.Module]) -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), activation(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    model = filled(*layers, nn.Linear(16, 2, bias=False))
    silence(model[0], 0, 3)
    smaller = prunus.shrink(model, IMAGES)
    assert (smaller[0].out_channels, smaller[1].num_features, smaller[5].in_features) == (2, 2, 8)
    assert model[5].bias is None
    norm = model[1]
    value = (model[0].bias - norm.running_mean) * (norm.running_var + norm.eps).rsqrt() * norm.weight + norm.bias
    value = model[2](value)
    expected = sum(value[channel] * model[5].weight[:, 4 * channel : 4 * channel + 4].sum(1) for channel in (0, 3))
    assert torch.allclose(smaller[5].bias, expected, rtol=1e-12)
    assert apart(outputs(model, IMAGES), outputs(smaller, IMAGES)) <= 1e-12


def test_chains_go_to_a_fixed_point() -> None:
    model = filled(*(layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.Tanh())), nn.Linear(4, 2))
    with torch.no_grad():
        silence(model[0], 1)  # constant; then a unit behind that hangs on nothing else; then another
        for layer in (model[2], model[4]):
            layer.weight[2] = 0
        model[2].weight[2, 1] = 1.0
        model[4].weight[2, 2] = 1.0
        model[6].weight[:, 3] = 0  # feeds nothing; then what feeds only that
        model[4].weight[:, 0] = 0
        model[4].weight[3, 0] = 1.0
    smaller = prunus.shrink(model, torch.zeros(1, 4, dtype=torch.float64))
    assert [smaller[index].out_features for index in (0, 2, 4)] == [3, 2, 2]
    inputs = IMAGES[:, 0, 0, :4]
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12


def test_a_channel_that_is_added_to_the_input_is_no_constant() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.head = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.branch(x))

    model = filled(Residual())
    silence(model[0].branch, 0, 1, 2)
    assert prunus.shrink(model, torch.zeros(1, 4, dtype=torch.float64))[0].stem.out_features == 3
    silence(model[0].stem, 1)
    smaller = prunus.shrink(model, torch.zeros(1, 4, dtype=torch.float64))
    assert smaller[0].branch.in_features == smaller[0].branch.out_features == 2


def test_a_model_of_dead_channels_keeps_one_of_each() -> None:
    model = filled(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(20, 2))
    for parameter in model.parameters():
        parameter.data.zero_()
    smaller = prunus.shrink(model, IMAGES)
    assert (smaller[0].out_channels, smaller[1].num_features, smaller[3].out_channels) == (1, 1, 1)
    assert torch.equal(smaller(IMAGES), torch.zeros(2, 2, dtype=torch.float64))


def test_a_bias_that_is_read_elsewhere_takes_no_constant_up() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.second(self.first(x).tanh())) * self.second.bias)

    model = filled(Tied())
    silence(model[0].first, 1)
    inputs = IMAGES[:, 0, 0, :3]
    smaller = prunus.shrink(model, inputs)
    assert type(smaller) is nn.Sequential
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-12


@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_strange_weights_are_not_nothing(strange: float) -> None:
    model = filled(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    silence(model[0], 1, 2, bias=0.0)
    with torch.no_grad():
        model[2].weight[0, 1] = strange  # 0 * NaN and 0 * inf are NaN
    smaller = prunus.shrink(model, torch.zeros(1, 3, dtype=torch.float64))
    inputs = torch.ones(2, 3, dtype=torch.float64)
    (expected,), (found,) = outputs(model, inputs), outputs(smaller, inputs)
    assert expected[:, 0].isnan().all()
    assert torch.allclose(found, expected, rtol=1e-12, equal_nan=True)
