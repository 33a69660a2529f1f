"""Exponentials of vectors are held against float64: bounds in units in the last place, or of rounding x."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy
import pytest
import torch
import torch.nn.functional as f
from torch import Tensor, nn

import prunus
from prunus.compiling.kernels.exponentials import FUNCTIONS, MOST_ULP

pytestmark = pytest.mark.usefixtures("one_thread")

IN_TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp, "log": torch.log, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": f.silu, "mish": f.mish,
    "softplus": f.softplus, "elu": f.elu, "gelu": f.gelu, "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
}  # fmt: skip
COUNT = 1 << 12


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def numbers_of_all_sizes() -> Tensor:
    """Return random bits, which are numbers of every exponent, and numbers of the sizes that networks compute with."""
    generator = numpy.random.default_rng(0)
    bits = generator.integers(0, 1 << 32, 64 * COUNT, dtype=numpy.uint32).view(numpy.float32)
    usual = [generator.normal(0, scale, 16 * COUNT).astype(numpy.float32) for scale in (1e-3, 0.1, 1, 5, 30, 80)]
    every = numpy.concatenate([bits[~numpy.isnan(bits)], *usual])
    return torch.from_numpy(every[: len(every) // COUNT * COUNT].reshape(-1, COUNT))


def program_of(name: str, size: int) -> prunus.Program:
    return prunus.compile(Applied(IN_TORCH[name]), torch.randn(2, size), tune=False)


def test_every_function_in_vectors_is_tried() -> None:
    assert set(IN_TORCH) == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_within_their_bounds(name: str) -> None:
    x = numbers_of_all_sizes()
    expected, found = IN_TORCH[name](x.double()), program_of(name, COUNT)(x).double()
    # where a formula's own steps overflow or become denormal in float32, PyTorch's float32 loses the same
    usual = (expected.abs() < 1e38) & (expected.abs() > 1e-30) & (x.abs() < 87)
    if name in MOST_ULP:
        spacing = torch.from_numpy(numpy.spacing(expected.abs().float().numpy())).double()
        apart = ((found - expected).abs() / spacing)[usual]
        assert float(apart.max()) <= MOST_ULP[name]
    else:
        apart = ((found - expected).abs() / torch.maximum(x.double().abs(), expected.abs()))[usual]
        assert float(apart.max()) <= 4 * 2**-24


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vectors_and_what_is_left_over_agree(name: str) -> None:
    special = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 88.7, 88.8, -87.4, -103.9]
    x = torch.tensor([*special, *torch.linspace(-9, 9, 7 + 16 * 2 - len(special)).tolist()])
    program = program_of(name, len(x))
    found = torch.stack([program(x.roll(turns)[None])[0].roll(-turns) for turns in range(len(x))])
    first = found[0].expand_as(found)
    same = (found == first) | (found.isnan() & first.isnan())
    apart = (found - first).abs() / torch.maximum(first.abs(), x.abs()).clamp(min=1e-37)
    assert bool((same | (apart <= 2e-6)).all())
