"""Infinities, NaN, overflows, denormals and zeros come out of programs and of exported C as they do in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy
import pytest
import torch
import torch.nn.functional as f
from torch import Tensor, nn

import prunus
from prunus.compiling.toolchain import compiler
from prunus.errors import CompileError
from prunus.exporting.c import checking
from prunus.exporting.c.export import translate

INF, NAN = math.inf, math.nan

Functions = Mapping[str, Callable[[Tensor], Tensor]]

ACTIVATIONS: Functions = {
    "relu": f.relu, "relu6": f.relu6, "silu": f.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "elu": f.elu,
    "mish": f.mish,
    "gelu": f.gelu, "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"), "elu_half": lambda x: f.elu(x, 0.5),
    "hardswish": f.hardswish, "hardsigmoid": f.hardsigmoid, "hardtanh": f.hardtanh, "softplus": f.softplus,
    "leaky_relu": f.leaky_relu, "leaky_relu_falling": lambda x: f.leaky_relu(x, -0.3),
    "leaky_relu_0": lambda x: f.leaky_relu(x, 0.0), "prelu": lambda x: f.prelu(x, torch.full((1,), 0.2, dtype=x.dtype)),
    "clamp": lambda x: x.clamp(-0.5, 0.75), "clamp_crossed": lambda x: x.clamp(1, -1), "glu": f.glu,
    "clamp_min": lambda x: x.clamp(min=0.1), "clamp_max": lambda x: x.clamp(max=0.1),
    "clamp_open": lambda x: x.clamp(-INF, INF),
}  # fmt: skip
ARITHMETIC: Functions = {
    "exp": torch.exp, "sqrt": torch.sqrt, "neg": torch.neg, "abs": torch.abs, "square": torch.square,
    "reciprocal": torch.reciprocal, "times_0": lambda x: x * 0, "plus": lambda x: x + 1, "minus": lambda x: x - 1,
    "from": lambda x: 1 - x, "from_inf": lambda x: INF - x, "by_3": lambda x: x / 3, "by_0": lambda x: x / 0,
    "over": lambda x: 1 / x, "over_0": lambda x: 0 / x, "over_inf": lambda x: INF / x,
    "maximum": lambda x: torch.maximum(x, x.flip(1)), "minimum": lambda x: torch.minimum(x, x.flip(1)),
    "product": lambda x: x * x.flip(1), "quotient": lambda x: x / x.flip(1), "difference": lambda x: x - x.flip(1),
    "maximum_half": lambda x: torch.maximum(x, torch.full((1,), 0.5, dtype=x.dtype)),
    "maximum_nan": lambda x: torch.maximum(x, torch.full((1,), NAN, dtype=x.dtype)),
    "minimum_half": lambda x: torch.minimum(x, torch.full((1,), 0.5, dtype=x.dtype)),
}  # fmt: skip
NUMBERS = [
    INF, -INF, NAN, 1e38, -1e38, 3e38, -3e38, 1e-45, -1e-45, 1e-38, -0.0, 0.0, 16777217.0, 2.0**31, 88.0, 89.0, -88.0,
    -104.0, -3.0, 3.0, 6.0, 20.0, 21.0, 1e4, -1e4, 1e10, -1e10, 1e19, -1e19, 0.5, -0.5, -1e-8, 9.0, -13.5, 1e-20, 2.2,
]  # fmt: skip
WIDE = [1e300, -1e300, 5e-324, 1.7e308, 710.0, -745.0]


def vector(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype)


def kernel(x: Tensor) -> Tensor:
    return vector([1.0, 0.5, 0.25, -0.5], x).reshape(1, 1, 2, 2)


ROWWISE: Functions = {
    "softmax": lambda x: x.softmax(-1), "log_softmax": lambda x: x.log_softmax(-1), "mean": lambda x: x.mean(-1),
    "sum": lambda x: x.sum(-1), "amax": lambda x: x.amax(-1), "amin": lambda x: x.amin(-1),
    "layer_norm": lambda x: f.layer_norm(x, (4,)), "layer_norm_eps_0": lambda x: f.layer_norm(x, (4,), eps=0.0),
    "layer_norm_scaled": lambda x: f.layer_norm(x, (4,), vector([1, 0, 2, -1], x), vector([0, 1, 2, 3], x)),
    "rms_norm": lambda x: f.rms_norm(x, (4,), vector([1, 0, 2, -1], x), 1e-6),
    "group_norm": lambda x: f.group_norm(x.reshape(-1, 4, 1), 2),
    "batch_norm": lambda x: f.batch_norm(
        x, vector([0, 1, 2, 1e3], x), vector([1, 0, 1e-10, 1e10], x), vector([1, 0, 2, -1], x), vector([0, 1, 2, 3], x)
    ),
    "prelu": lambda x: f.prelu(x, vector([0.25, 0, -1, 2], x)),
    "max_pool1d": lambda x: f.max_pool1d(x[:, None], 3, 1, 1), "max_pool": lambda x: f.max_pool2d(square(x), 2),
    "max_pool_padded": lambda x: f.max_pool2d(square(x), 2, 1, 1),
    "adaptive_max": lambda x: f.adaptive_max_pool2d(square(x), 1), "avg_pool1d": lambda x: f.avg_pool1d(x[:, None], 2),
    "avg_pool": lambda x: f.avg_pool2d(square(x), 2), "avg_pool_padded": lambda x: f.avg_pool2d(square(x), 2, 1, 1),
    "avg_pool_inside": lambda x: f.avg_pool2d(square(x), 2, 1, 1, count_include_pad=False),
    "adaptive_avg": lambda x: f.adaptive_avg_pool2d(square(x), 1),
    "linear": lambda x: f.linear(x, vector([1, 0.5, 0.25, -0.5, 1e-3, 1, -1, 0.25], x).reshape(2, 4)),
    "conv": lambda x: f.conv2d(square(x), kernel(x), padding=1),
    "conv_relu_pool": lambda x: f.max_pool2d(f.relu(f.conv2d(square(x), kernel(x), padding=1)), 3),
    "conv_avg_pool": lambda x: f.avg_pool2d(f.conv2d(square(x), kernel(x), padding=1), 3),
    "conv_pool_hardtanh": lambda x: f.hardtanh(f.max_pool2d(f.conv2d(square(x), kernel(x), padding=1), 3)),
}  # fmt: skip
# No sum overflows in one order and not in another, and no norm's sum of squares does: see the test of these.
ROWS = [
    [1, 2, 3, 4], [INF, 1, 2, 3], [-INF, 1, 2, 3], [NAN, 1, 2, 3], [1, 2, 3, NAN], [INF, INF, 1, 2], [-INF] * 4,
    [INF] * 4, [INF, -INF, 0, 1], [NAN] * 4, [NAN, INF, -INF, 1], [INF, NAN, 1, 2], [1e-45, 2e-45, 0, 1e-44],
    [1e-30, 2e-30, 3e-30, -4e-30], [0.0] * 4, [-0.0] * 4, [-0.0, 0, -0.0, 0], [1e4, 1e4 + 1, 1e4 + 2, 1e4 + 3],
    [1e6, 1e6 + 1, 1e6 + 2, 1e6 + 1], [16777216, 16777218, 16777220, 1], [-100, 0, 100, 88], [-1e4, 0, 0, 0],
    [88, 89, 90, 100], [1e10, -1e10, 1, 2], [1e17, 2e17, -1e17, 0],
]  # fmt: skip
HUGE_ROWS = [[1e38] * 4, [-1e38] * 4, [1e38, -1e38, 1e38, -1e38], [1e30, 1, 2, 3], [-1e38, 0, 0, 1], [1e38, 0, 0, 0]]
NORMS = ("layer_norm", "layer_norm_eps_0", "layer_norm_scaled", "rms_norm", "group_norm")


def square(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, 2, 2)


class All(nn.Module):
    """Every function of a table, each an output."""

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return each result by its name."""
        return {name: function(x) for name, function in self.functions.items()}


def expected_of(functions: Functions, x: Tensor) -> dict[str, Tensor]:
    """Return PyTorch's results; gelu one by one, as for several numbers it may take oneDNN's, which is NaN at inf.

    That with tanh is of double precision: in float32 PyTorch's is off by 1e-5 below zero.
    """
    expected = All(functions)(x)
    if "gelu" in expected:
        expected["gelu"] = torch.stack([f.gelu(number) for number in x.reshape(-1, 1)]).reshape(x.shape)
        expected["gelu_tanh"] = f.gelu(x.double(), approximate="tanh").to(x.dtype)
    return expected


def computed(functions: Functions, x: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return what a program makes of whole blocks and of single samples, and in float32 what C makes."""
    model = All(functions).eval()
    program = prunus.compile(model, torch.randn_like(x), tune=False)
    singly = [program(sample[None]) for sample in x]
    ways = {"blocks": program(x), "singly": {name: torch.cat([one[name] for one in singly]) for name in functions}}
    if x.dtype == torch.float32:
        ran = checking.run(translate(model, torch.randn_like(x)), [numpy.asarray(x)], compiler())
        assert ran.outputs is not None
        arrays = zip(functions, ran.outputs, strict=True)
        ways["C"] = {name: torch.from_numpy(array.copy()).reshape(ways["blocks"][name].shape) for name, array in arrays}
    return ways


def assert_same(found: Tensor, expected: Tensor, limit: float, about: str, summed: Tensor | None = None) -> None:
    """Assert that numbers are equal, NaN to NaN and infinities to themselves, but for rounding in each row.

    What is a sum may differ by the rounding of what is summed, which another order makes.
    """
    assert found.shape == expected.shape, about
    one, other = expected.double().reshape(len(expected), -1), found.double().reshape(len(found), -1)
    same = (one == other) | (one.isnan() & other.isnan())
    largest = one.masked_fill(~one.isfinite(), 0).abs().amax(1, keepdim=True).clamp(min=1e-36)
    if summed is not None:
        finite = summed.double().masked_fill(~summed.isfinite(), 0).abs().amax(1, keepdim=True)
        largest = torch.maximum(largest, finite)
    near = one.isfinite() & other.isfinite() & ((one - other).abs() <= limit * largest)
    wrong = (~(same | near)).nonzero().tolist()
    assert not wrong, f"{about}: {[(row, float(one[row, at]), float(other[row, at])) for row, at in wrong[:5]]}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("functions", [ACTIVATIONS, ARITHMETIC], ids=["activations", "arithmetic"])
def test_functions_of_special_numbers(functions: Functions, dtype: torch.dtype) -> None:
    values = torch.tensor(NUMBERS + (WIDE if dtype == torch.float64 else []), dtype=torch.float64).to(dtype)
    x = torch.stack([values.roll(shift) for shift in range(19)])  # each in every lane of a block, or beside one
    limit = 3e-6 if dtype == torch.float32 else 1e-13
    expected = expected_of(functions, x)
    for way, found in computed(functions, x).items():
        for name in functions:
            # one number a row, so that each is held against itself
            assert_same(found[name].reshape(-1, 1), expected[name].reshape(-1, 1), limit, f"{name} {way}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_special_numbers(dtype: torch.dtype) -> None:
    x = torch.tensor(ROWS, dtype=torch.float64).to(dtype)
    expected = expected_of(ROWWISE, x)
    for way, found in computed(ROWWISE, x).items():
        for name in ROWWISE:
            # group_norm of PyTorch multiplies before it subtracts the mean, so it loses the digits of that
            limit = (1e-5 if dtype == torch.float32 else 1e-13) * (1e3 if name == "group_norm" else 1)
            assert_same(found[name], expected[name], limit, f"{name} {way}", x if "avg" in name else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_huge_numbers(dtype: torch.dtype) -> None:
    """Where a norm's variance overflows, PyTorch has NaN or 0, by the row's length; a program always has NaN."""
    x = torch.tensor(HUGE_ROWS, dtype=torch.float64).to(dtype)
    functions = {
        name: ROWWISE[name] for name in ROWWISE if "conv" not in name and name not in ("linear", "sum", "mean")
    }
    functions = {name: function for name, function in functions.items() if "avg" not in name}
    expected = expected_of(functions, x)
    for way, found in computed(functions, x).items():
        for name in functions:
            if dtype == torch.float64 and name == "group_norm":
                continue  # PyTorch's loses all digits
            if dtype == torch.float32 and name in NORMS and name != "rms_norm":
                overflowed = (x.double().var(1, unbiased=False) > 3e38)[:, None].expand(-1, 4)
                values = found[name].reshape(-1, 4)
                if name != "group_norm":
                    assert bool(values[overflowed].isnan().all()), f"{name} {way}"
                continue
            assert_same(found[name], expected[name], 1e-5 if dtype == torch.float32 else 1e-12, f"{name} {way}")


@pytest.mark.parametrize("limits", [(NAN, 1.0), (-1.0, NAN), (NAN, None)])
def test_a_limit_of_nan_is_refused(limits: tuple[float, float | None]) -> None:
    with pytest.raises(CompileError, match="its limit is NaN"):
        prunus.compile(All({"clamp": lambda x: x.clamp(*limits)}).eval(), torch.randn(2, 3), tune=False)


def test_constants_of_nan_in_c() -> None:
    constant = torch.tensor([NAN, 1.0, NAN, INF])
    x = torch.randn(2, 4)
    found = computed({"sum": lambda x: x + constant, "padded": lambda x: f.pad(x, (1, 2), value=-INF)}, x)
    for outputs in found.values():
        torch.testing.assert_close(outputs["sum"], x + constant, equal_nan=True)
        torch.testing.assert_close(outputs["padded"], f.pad(x, (1, 2), value=-INF))
