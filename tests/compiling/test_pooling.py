"""Pooling of single samples, line by line in vectors: held against PyTorch over sizes, strides, paddings and ends."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as f
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.compiling.kernels.lines import LONGEST, regular
from prunus.compiling.net import Windows

pytestmark = pytest.mark.usefixtures("one_thread")

pairs = st.tuples(st.integers(1, 4), st.integers(1, 5))


def singly(model: nn.Module, x: Tensor) -> Tensor:
    program = prunus.compile(model.eval(), x[:2], tune=False)
    return torch.cat([program(sample[None]) for sample in x])


@settings(max_examples=60, deadline=None)
@given(
    size=pairs, stride=pairs, rows=st.integers(5, 20), columns=st.integers(5, 70), ceil=st.booleans(),
    padded=st.booleans(), dilation=st.integers(1, 2), average=st.sampled_from(["", "inside", "all"]),
    channels=st.integers(1, 3),
)  # fmt: skip
def test_windows(
    size: tuple[int, int], stride: tuple[int, int], rows: int, columns: int, ceil: bool, padded: bool, dilation: int,
    average: str, channels: int,
) -> None:  # fmt: skip
    padding = (size[0] // 2, size[1] // 2) if padded else (0, 0)
    assume(rows + 2 * padding[0] >= size[0] and columns + 2 * padding[1] > dilation * (size[1] - 1))
    pool: nn.Module = nn.MaxPool2d(size, stride, padding, (1, dilation), ceil_mode=ceil)
    if average:
        pool = nn.AvgPool2d(size, stride, padding, ceil_mode=ceil, count_include_pad=average == "all")
    x = torch.randn(3, channels, rows, columns)
    x[0, 0, 1, 2], x[1, 0, 0, 3] = torch.nan, -torch.inf
    torch.testing.assert_close(singly(pool, x), pool(x), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_lines_too_long_for_the_line_are_taken_one_by_one() -> None:
    x = torch.randn(2, 1, 3, LONGEST + 50)
    for pool in (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d((3, 4))):
        torch.testing.assert_close(singly(pool, x), pool(x))


def test_adaptive_windows_of_several_sizes() -> None:
    x = torch.randn(3, 2, 9, 11)
    for pool in (nn.AdaptiveAvgPool2d((4, 5)), nn.AdaptiveMaxPool2d((2, 3)), nn.AdaptiveAvgPool2d(1)):
        torch.testing.assert_close(singly(pool, x), pool(x))


@pytest.mark.parametrize(
    ("size", "stride", "before", "count", "side"), [(3, 2, 1, 4, 8), (2, 1, 0, 6, 7), (3, 2, 1, 2, 4)]
)
def test_windows_are_told_from_their_ends(size: int, stride: int, before: int, count: int, side: int) -> None:
    begins = [place * stride - before for place in range(count)]
    ends = tuple(min(side, begin + size) for begin in begins)
    windows = Windows(tuple(max(0, begin) for begin in begins), ends, 1, (1,) * count)
    assert regular(windows, side) == (size, stride, before)
    assert regular(Windows(windows.start, windows.stop, 2, windows.divisors), side) is None


class Rows(nn.Module):
    """What runs over the elements of rows, as one output."""

    def forward(self, x: Tensor) -> Tensor:
        sums = torch.stack([x.mean(-1), x.sum(-1), x.amax(-1), x.amin(-1)], -1)
        normed = f.layer_norm(x, x.shape[-1:]), f.rms_norm(x, x.shape[-1:])
        return torch.cat([sums, x.softmax(-1), x.log_softmax(-1), *normed], -1)


@pytest.mark.parametrize("length", [1, 3, 15, 16, 17, 64, 75])
def test_rows_of_single_samples(length: int) -> None:
    x = 3 * torch.randn(3, 5, length)
    torch.testing.assert_close(singly(Rows(), x), Rows()(x), rtol=1e-4, atol=1e-5)
    turned = torch.randn(3, length, 4)  # the elements of a row do not lie side by side
    model = nn.Sequential(Turned(), Rows())
    torch.testing.assert_close(singly(model, turned), model(turned), rtol=1e-4, atol=1e-5)


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


@pytest.mark.parametrize("mean", [0, 100])
@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)])
def test_sums_of_long_rows_lose_few_digits(norm: nn.Module, mean: int) -> None:
    x = torch.randn(17, 4, 64, 64, generator=torch.Generator().manual_seed(0)) + mean
    exact = norm.double()(x.double()).detach()
    program = prunus.compile(norm.float().eval(), x, tune=False)
    for found in (program(x), torch.cat([program(sample[None]) for sample in x])):
        assert float((found - exact).abs().max() / exact.abs().max()) < 2e-5
