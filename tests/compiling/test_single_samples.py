"""Single samples: planes as one long row, columns as rows, strides; each call after another that left its numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.compiling import planning, toolchain, tuning
from prunus.compiling.batch import read_net
from prunus.compiling.kernels.numbers import FLOAT
from prunus.compiling.net import Net
from prunus.compiling.operations import Contract, Pool
from sparse_models import sparse

pytestmark = pytest.mark.usefixtures("one_thread")


class Excited(nn.Module):
    """Squeeze and excitation between a depthwise convolution and one of 1x1, and what it began with added."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 16, 1)
        self.each = nn.Conv2d(16, 16, kernel, stride, kernel // 2, groups=16)
        self.down, self.up = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.each(nn.functional.silu(self.first(x))))
        gate = torch.sigmoid(self.up(self.down(y.mean((2, 3), keepdim=True)).relu()))
        y = self.last(y * gate)
        return y + x if y.shape == x.shape else y


def heavy() -> nn.Module:
    """Return convolutions of many weights an output, with zeros around and without."""
    layers = [nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 1), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(12, 8, 3), nn.Conv2d(8, 8, (3, 5), padding=(1, 2), dilation=1))


MODELS = {
    "excited, 3x3": lambda: Excited(3, 1),
    "excited, 5x5": lambda: Excited(5, 1),
    "excited, stride 2": lambda: Excited(3, 2),
    "excited, stride 3": lambda: Excited(5, 3),
    "excited, wide, stride 2": lambda: Excited(7, 2),
    "heavy": heavy,
    "dilated": lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Tanh(), nn.Conv2d(8, 4, 2)),
}


@pytest.mark.parametrize("side", [(5, 5), (7, 7), (14, 14), (9, 33), (16, 16), (6, 47)])
@pytest.mark.parametrize("name", list(MODELS))
def test_planes_of_many_sizes(name: str, side: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = sparse(MODELS[name](), 0.5).eval()
    x = torch.randn(5, 8, *side)
    program = prunus.compile(model, x[:2], tune=False)
    expected = model(x)
    for _ in range(2):  # the second time over what the first left behind
        found = torch.cat([program(sample[None]) for sample in x])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def single_plan(model: nn.Module, x: Tensor) -> planning.Plan:
    net = read_net(model, x)[0]
    target = toolchain.target("native")
    return tuning.plans_for(net, target.bytes // 4, target, FLOAT)[1]


def test_what_reduces_a_plane_sees_no_gaps_between_rows() -> None:
    plan = single_plan(Excited(3, 1).eval(), torch.randn(2, 8, 14, 14))
    each = next(
        operation for operation in plan.net.operations if isinstance(operation, Contract) and operation.groups > 1
    )
    assert plan.layouts[each.output].pitch == 14
    assert each.output not in plan.along, "its source has zeros between the rows"
    assert plan.layouts[each.source.value].pitch == 15


def test_many_weights_pay_for_gaps() -> None:
    plan = single_plan(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()).eval(), torch.randn(2, 8, 7, 7))
    (contract,) = plan.net.operations
    assert contract.output in plan.along
    assert plan.layouts[contract.output].pitch == plan.layouts[0].pitch == 8


def columns() -> nn.Module:
    """Return a net of images of width one, as for sound."""
    first = [nn.Conv2d(1, 8, (9, 1), (4, 1), (4, 0)), nn.ReLU(), nn.BatchNorm2d(8), nn.MaxPool2d((2, 1))]
    second = [nn.Conv2d(8, 6, (3, 1), padding=(1, 0)), nn.SiLU(), nn.AvgPool2d((3, 1), (2, 1))]
    return nn.Sequential(*first, *second, nn.Conv2d(6, 4, (3, 1)), nn.Flatten(), nn.Linear(40, 5))


def test_columns_become_rows() -> None:
    model, x = sparse(columns(), 0.3).eval(), torch.randn(4, 1, 200, 1)
    net: Net = read_net(model, x)[0]
    boxes = [operation.box for operation in net.operations if isinstance(operation, (Contract, Pool))]
    assert all(height == 1 for _, height, _ in boxes)
    program = prunus.compile(model, x, tune=False)
    for batch in (x, x.repeat(9, 1, 1, 1)):
        torch.testing.assert_close(program(batch), model(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [2, 3, 4, 0.5, -0.5, -1, -2])
def test_powers(power: float) -> None:
    class Power(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.pow(power) + (x + 1).rsqrt()

    x = torch.rand(5, 7) + 0.1
    torch.testing.assert_close(prunus.compile(Power(), x, tune=False)(x), Power()(x))


def test_other_powers_are_refused() -> None:
    class Power(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**2.5

    with pytest.raises(prunus.CompileError, match=r"pow at .* only powers of 3, 2, 4"):
        prunus.compile(Power(), torch.rand(2, 3))


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(2), nn.MaxPool2d(2, 1, 1), nn.AdaptiveAvgPool2d((3, 1))])
@pytest.mark.parametrize("height", [2, 5])
def test_columns_that_windows_make_wider(pool: nn.Module, height: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), pool).eval()
    x = torch.randn(3, 3, height, 1)
    program = prunus.compile(model, x, tune=False)
    torch.testing.assert_close(program(x[:1]), model(x[:1]))
    torch.testing.assert_close(program(x.repeat(6, 1, 1, 1)), model(x.repeat(6, 1, 1, 1)))
