"""Operations that the table knows, in small networks: channels are followed through them, and shrinking stays right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.errors import ChannelError, GraphError

pytestmark = pytest.mark.usefixtures("one_thread")


class Between(nn.Module):
    """Puts a function between two layers."""

    def __init__(self, function: Callable[..., Tensor], first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.function, self.first, self.second = function, first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


def shrunk(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Prune half of the channels between two layers, shrink, and hold the outputs against the masked model's."""
    prunus.prune(model, 0.5, pattern="channel", example_inputs=inputs)
    smaller = prunus.shrink(model, inputs)
    more = torch.rand(5, *inputs.shape[1:], generator=torch.Generator().manual_seed(3))
    assert torch.allclose(smaller(more), model(more), rtol=1e-4, atol=1e-6)
    assert sum(p.numel() for p in smaller.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())
    return smaller


def unary(x: Tensor) -> Tensor:
    x = torch.special.expit(torch.asinh(x))
    x = torch.atanh(x * 0.5) + torch.acosh(x + 1.5) + torch.rad2deg(x) * 0.01 + torch.fix(x * 3)
    x = torch.special.log1p(x.abs()) + torch.erfinv(torch.tanh(x) * 0.5) + torch.sgn(x) + torch.special.logit(x, 0.1)
    return torch.where(torch.signbit(x) | torch.isposinf(x) | torch.isneginf(x), x, torch.exp(x * 0.1))


def binary(x: Tensor) -> Tensor:
    y = x.flip(0).tanh()
    x = torch.fmax(x, y) + torch.fmin(x, 0.3 * y) + torch.logaddexp(x, y) + torch.ldexp(x, torch.tensor(2))
    x = x + torch.float_power(x.abs() + 1, 0.5).float() + torch.special.xlogy(y, x.abs() + 1) + torch.arctan2(x, y)
    mask = (x.greater_equal(y) ^ x.not_equal(0)) & x.less_equal(3)
    return torch.where(mask, x, y) + (mask.int() << 1) + torch.isclose(x, y).int()


def in_place(x: Tensor) -> Tensor:
    return x.clone().unsqueeze_(2).transpose_(1, 2).squeeze_(1).mul_(2)


@pytest.mark.parametrize("function", [unary, binary, in_place], ids=lambda function: function.__name__)
def test_functions_of_each_element(function: Callable[[Tensor], Tensor]) -> None:
    shrunk(Between(function, nn.Linear(6, 12), nn.Linear(12, 3)), torch.rand(2, 6))


def scanned(x: Tensor) -> Tensor:
    """Take what lies along the tokens, channels apart."""
    x = torch.cummax(x, 1).values + torch.cummin(x, 1).values
    return torch.mode(x, 1).values + torch.kthvalue(x, 2, 1).values + torch.nanmedian(x, 1).values


def test_scans_and_order_statistics_over_tokens() -> None:
    shrunk(Between(scanned, nn.Linear(6, 12), nn.Linear(12, 3)), torch.rand(2, 4, 6))


def test_volumes_are_resampled_and_resized_over_all_three_dimensions() -> None:
    def resampled(x: Tensor) -> Tensor:
        axis = torch.linspace(-0.8, 0.8, 3)
        grid = torch.stack(torch.meshgrid(axis, axis, axis[:2], indexing="ij"), -1).expand(len(x), -1, -1, -1, -1)
        return F.interpolate(F.grid_sample(x, grid, align_corners=False), scale_factor=2, mode="nearest-exact")

    model = Between(resampled, nn.Conv3d(2, 8, 1), nn.Sequential(nn.Conv3d(8, 2, 1), nn.Flatten(), nn.Linear(288, 2)))
    prunus.prune(model, 0.5, pattern="channel", example_inputs=torch.rand(2, 2, 4, 4, 4), include=["first"])
    smaller = prunus.shrink(model, torch.rand(2, 2, 4, 4, 4))
    volumes = torch.rand(2, 2, 4, 4, 4)
    assert smaller.get_parameter("first.weight").shape[0] == 4
    assert torch.allclose(smaller(volumes), model(volumes), atol=1e-6)


def test_what_a_tensor_is_filled_with_is_needed() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.level, self.last = nn.Linear(4, 6), nn.Linear(6, 1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            level = self.level(self.first(x).relu()).mean()
            return self.last(x) + torch.fill(x[:, :1], level)

    model, inputs = Model(), torch.rand(2, 4)
    with torch.no_grad():
        model.level.weight[:, 3] = 0
    smaller = prunus.shrink(model, inputs)
    assert torch.allclose(smaller(inputs), model(inputs), atol=1e-6)
    assert smaller.first.out_features == 5


def test_bits_read_as_another_dtype_are_not_followed() -> None:
    model = Between(lambda x: x.view(torch.int32).float(), nn.Linear(4, 6), nn.Linear(6, 2))
    with pytest.raises(GraphError, match=r"operation aten\.view is not known"):
        prunus.prune(model, 0.5, pattern="channel", example_inputs=torch.rand(2, 4))


class Recurrent(nn.Module):
    """One step, or all of them, before a layer; perhaps behind another."""

    def __init__(self, layer: nn.Module, width: int, first: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.layer, self.head = first or nn.Identity(), layer, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        result = self.layer(self.first(x))
        return self.head(result if isinstance(result, Tensor) else result[0])


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells_are_named_as_the_reason(cell: type[nn.RNNCellBase]) -> None:
    reason = r"_cell is a single step of a recurrent layer, and prunus follows nn\.LSTM, nn\.GRU and nn\.RNN only"
    with pytest.raises(ChannelError, match=rf"'layer.weight_ih' \(aten\.\w+{reason}\)"):
        prunus.prune(Recurrent(cell(4, 6), 6), 0.5, pattern="channel", example_inputs=torch.rand(2, 4))
    model = Recurrent(cell(5, 6), 6, nn.Linear(4, 5))
    with pytest.raises(GraphError, match=reason):
        prunus.prune(model, 0.5, pattern="channel", example_inputs=torch.rand(2, 4))


def test_projections_of_recurrent_layers_are_named_as_the_reason() -> None:
    model = Recurrent(nn.LSTM(4, 6, proj_size=3, batch_first=True), 3)
    with pytest.raises(ChannelError, match=r"'layer.weight_hr_l0' \(.*recurrent layers with projections \(proj_size\)"):
        prunus.prune(model, 0.5, pattern="channel", example_inputs=torch.rand(2, 5, 4))
