"""Rounding to 8 bits against the formula in NumPy, and what holds for any numbers."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunus.quantizing.ranges import RANGES
from prunus.quantizing.rounding import ValueScale, rounded_weight, value_scale, weight_scales

FINITE = st.floats(-1e4, 1e4, width=32)


@given(st.lists(FINITE, min_size=1, max_size=20), st.sampled_from(["uint8", "int8"]))
def test_a_number_in_the_range_moves_by_half_a_step_at_most_and_zero_not_at_all(
    numbers: list[float], kind: str
) -> None:
    value = torch.tensor([*numbers, 0.0])
    scale = value_scale(float(value.min()), float(value.max()), kind)  # type: ignore[arg-type]
    rounded = scale.rounded(value, kind)  # type: ignore[arg-type]
    assert rounded[-1] == 0
    # half a step, and as much again at the ends, since the zero point is a whole number too
    assert float((rounded - value).abs().max()) <= scale.scale * 1.001 + 1e-12


@given(st.lists(FINITE, min_size=1, max_size=20), st.floats(0.01, 10), st.integers(0, 255))
def test_a_value_is_rounded_as_quantize_linear_of_onnx_says(numbers: list[float], step: float, zero: int) -> None:
    step = float(numpy.float32(step))
    value = torch.tensor(numbers)
    scaled = value.numpy() / numpy.float32(step)
    whole = numpy.clip(numpy.rint(scaled) + zero, 0, 255)  # rint: halves to even
    expected = (whole - zero) * step
    apart = numpy.abs(ValueScale(step, zero).rounded(value, "uint8").numpy() - expected)
    is_tie = numpy.abs(scaled - numpy.floor(scaled) - 0.5) < 1e-3
    assert (apart[~is_tie] <= 1e-4 * step + 1e-6 * numpy.abs(expected[~is_tie])).all()


@given(st.integers(0, 2**32 - 1))
def test_a_weight_is_a_whole_multiple_of_its_scale_and_zeros_stay(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 3, 2, 2, generator=generator) * torch.rand(4, 1, 1, 1, generator=generator)
    weight[torch.rand(weight.shape, generator=generator) < 0.5] = 0
    factor = torch.randn(4, generator=generator)
    scales = weight_scales(weight * factor.view(-1, 1, 1, 1), torch.zeros(4), 0.1)
    rounded = rounded_weight(weight, factor, scales)
    whole = rounded * factor.view(-1, 1, 1, 1) / scales.view(-1, 1, 1, 1)
    assert float((whole - whole.round()).abs().max()) < 1e-3
    assert float(whole.abs().max()) <= 127.001
    assert bool((rounded[weight == 0] == 0).all())
    assert float((rounded - weight).abs().max()) <= float((scales / factor.abs()).max()) * 0.51


def test_a_channel_that_a_norm_multiplies_by_zero_has_weights_of_zero() -> None:
    weight = torch.ones(2, 3)
    factor = torch.tensor([0.0, 2.0])
    rounded = rounded_weight(weight, factor, weight_scales(weight * factor[:, None], torch.zeros(2), 1.0))
    assert rounded.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_the_largest_weight_of_a_channel_is_127_unless_its_bias_needs_a_larger_unit() -> None:
    weight = torch.tensor([[1.27, -0.5], [0.0, 0.0], [1e-9, 0.0]])
    scales = weight_scales(weight, torch.tensor([0.5, 1.0, 1.0]), 0.01)
    assert scales[0] == pytest.approx(0.01)
    for row, bias in ((1, 1.0), (2, 1.0)):  # a bias of 32 bits in units of the products
        assert bias / (float(scales[row]) * 0.01) <= 2**30 * 1.001


def test_gradients_go_through_where_nothing_was_cut_off() -> None:
    value = torch.tensor([-1.0, 0.26, 3.0], requires_grad=True)
    ValueScale(0.01, 0).rounded(value, "uint8").sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [0, 1, 0]


def error(samples: Tensor, name: str) -> float:
    """Return the mean squared error of rounding to the range that a method finds."""
    low, high = RANGES[name](samples, float(samples.min()), float(samples.max()), "uint8")
    return float((value_scale(low, high, "uint8").rounded(samples, "uint8") - samples).square().mean())


@given(st.integers(0, 2**32 - 1), st.floats(1, 200))
def test_the_range_of_least_squares_is_no_worse_than_all_that_was_seen(seed: int, outlier: float) -> None:
    samples = torch.randn(4096, generator=torch.Generator().manual_seed(seed))
    samples[0] = outlier
    assert error(samples, "mse") <= error(samples, "minmax") * 1.0001


def test_the_percentile_leaves_out_a_ten_thousandth() -> None:
    samples = torch.cat([torch.linspace(-1, 1, 19_998), torch.tensor([-50.0, 50.0])])
    low, high = RANGES["percentile"](samples, -50.0, 50.0, "uint8")
    assert (low, high) == pytest.approx((-1, 1), abs=1e-2)
