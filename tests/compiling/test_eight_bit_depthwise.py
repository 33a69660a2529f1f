"""Depthwise convolutions in 8 bits, and what else computes each channel by itself: bit for bit the slow reference."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from eight_bits import reference
from prunus.compiling import tuning
from prunus.compiling.building import assembled, kernels_of
from prunus.compiling.kernels.numbers import FLOAT, FUNCTIONS
from prunus.compiling.kernels.variants import variants
from prunus.compiling.lowering.channelwise import TABLE_FUNCTIONS
from prunus.compiling.net import Net, Operation, Pointwise, View
from prunus.compiling.operations import (
    Contract,
    Elementwise,
    Pool,
    Quantize,
    QuantizedContract,
    QuantizedDepthwise,
    QuantizedFunction,
    QuantizedMean,
    QuantizedProduct,
    Reduce,
    Regroup,
)
from prunus.compiling.program import Program, parts_of
from prunus.errors import ProgramError


def otherwise(program: Program) -> Iterator[Program]:
    """Yield programs that compute one depthwise layer in another way each."""
    parts = parts_of(program)
    kernels = kernels_of(parts.net, parts.target, FLOAT, lambda _: None)
    for plan in tuning.plans_for(parts.net, parts.choice.block, parts.target, FLOAT):
        for operation in plan.net.operations:
            if isinstance(operation, QuantizedDepthwise):
                for way in variants(operation, plan, parts.target.registers):
                    chosen = {**parts.choice.chosen, (plan.mode.name, operation.output): way}
                    choice = replace(parts.choice, chosen=chosen)
                    yield Program(parts, assembled(parts.net, choice, parts.target, FLOAT, kernels, 1))


def assert_close_to_rounded(program: Program, model: nn.Module, scales: prunus.Scales, x: Tensor) -> None:
    """Make sure that a program errs less than rounding does."""
    with torch.no_grad():
        plain = model(x)
        with prunus.Quantizer(model, scales):
            rounded = model(x)
    error = (program(x) - rounded).square().mean().sqrt()
    assert error <= 1.5 * (rounded - plain).square().mean().sqrt() + 1e-6


class Depthwise(nn.Module):
    """A layer, a depthwise one, an activation and a layer that adds up channels."""

    def __init__(self, channels: int, activation: str, **fields: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, channels, 1)
        kernel = fields.pop("kernel")
        self.second = nn.Conv2d(channels, channels, kernel, groups=channels, **fields)
        self.last = nn.Conv2d(channels, 3, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Compute the three."""
        x = self.second(F.relu(self.first(x)))
        return self.last(getattr(F, self.activation)(x) if self.activation else x)


@settings(max_examples=15, deadline=None)
@given(
    channels=st.integers(2, 13),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    more=st.tuples(st.integers(1, 12), st.integers(1, 19)),
    activation=st.sampled_from(["", "relu", "relu6", "hardswish", "hardsigmoid", "leaky_relu"]),
    low=st.floats(-3, 0),
    sparsity=st.sampled_from([0.0, 0.5, 0.9]),
    target=st.sampled_from(["native", "scalar"]),
    seed=st.integers(0, 5),
)
def test_any_depthwise_convolution_is_that_of_the_reference(
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    more: tuple[int, int],
    activation: str,
    low: float,
    sparsity: float,
    target: str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    model = Depthwise(channels, activation, kernel=kernel, stride=stride, padding=padding, dilation=dilation).eval()
    with torch.no_grad():
        model.second.weight *= torch.rand_like(model.second.weight) >= sparsity
        model.second.weight[0, 0] = 1
    sides = [gap * (side - 1) + extra for side, gap, extra in zip(kernel, dilation, more, strict=True)]
    batches = [low + (3 - low) * torch.rand(8, 2, *sides) for _ in range(3)]
    scales = prunus.quantize(model, batches, max_error=1e9)
    program = prunus.compile(model, batches[0], scales=scales, tune=False, threads=1, target=target)
    layers = [operation for operation in parts_of(program).net.operations if isinstance(operation, Contract)]
    assert [type(layer) for layer in layers] == [QuantizedContract, QuantizedDepthwise, QuantizedContract]
    x = torch.cat(batches)[:19]
    expected = reference(program, x)
    assert torch.equal(program(x), expected)
    assert torch.equal(program(x[:1]), expected[:1])
    for other in otherwise(program):
        assert torch.equal(other(x), expected)
        assert torch.equal(other(x[:1]), expected[:1])
    assert_close_to_rounded(program, model, scales, x)


class Excited(nn.Module):
    """A layer whose planes are multiplied by what their means come to, and layers that read that."""

    def __init__(self, channels: int, activation: str, *, keeps: bool, first: bool) -> None:
        super().__init__()
        self.before = nn.Conv2d(2, channels, 1)
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.last, self.other = (nn.Conv2d(channels, 3, (1, 2), padding=1) for _ in range(2))
        self.activation, self.keeps, self.first = activation, keeps, first
        for layer in (self.before, self.down):  # a layer of zeros only stays in floating point
            nn.init.constant_(layer.bias, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        """Compute them."""
        x = F.relu(self.before(x))
        mean = x.mean((2, 3), keepdim=True) if self.keeps else F.adaptive_avg_pool2d(x, 1)
        factors = F.hardsigmoid(self.up(F.relu(self.down(mean))))
        x = factors * x if self.first else x * factors
        if not self.activation:
            return self.last(x)
        return torch.cat([self.last(x), self.other(getattr(F, self.activation)(x))], 1)


@settings(max_examples=12, deadline=None)
@given(
    channels=st.integers(1, 13),
    sides=st.tuples(st.integers(1, 12), st.integers(2, 19)),
    activation=st.sampled_from(["", "silu", "gelu", "hardswish", "sigmoid", "tanh", "elu", "softplus"]),
    keeps=st.booleans(),
    first=st.booleans(),
    low=st.floats(-3, 0),
    target=st.sampled_from(["native", "scalar"]),
    seed=st.integers(0, 5),
)
def test_any_squeeze_and_excitation_is_that_of_the_reference(
    channels: int,
    sides: tuple[int, int],
    activation: str,
    keeps: bool,
    first: bool,
    low: float,
    target: str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    model = Excited(channels, activation, keeps=keeps, first=first).eval()
    batches = [low + (3 - low) * torch.rand(8, 2, *sides) for _ in range(3)]
    scales = prunus.quantize(model, batches, max_error=1e9)
    program = prunus.compile(model, batches[0], scales=scales, tune=False, threads=1, target=target)
    kinds = {type(operation) for operation in parts_of(program).net.operations}
    assert {QuantizedMean, QuantizedProduct, *([QuantizedFunction] if activation else [])} <= kinds
    assert not kinds & {Contract, Elementwise, Reduce, Pool}
    x = torch.cat(batches)[:19]
    expected = reference(program, x)
    assert torch.equal(program(x), expected)
    assert torch.equal(program(x[:1]), expected[:1])
    assert_close_to_rounded(program, model, scales, x)


class Mobile(nn.Module):
    """Two inverted residuals with squeeze-and-excitation, as of MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.wide, self.narrow = nn.Conv2d(8, 20, 1), nn.Conv2d(20, 8, 1)
        self.along, self.across = nn.Conv2d(20, 20, 5, 1, 2, groups=20), nn.Conv2d(8, 8, 3, 2, 1, groups=8)
        self.down, self.up = nn.Conv2d(20, 8, 1), nn.Conv2d(8, 20, 1)
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute them."""
        x = F.hardswish(self.stem(x))
        y = F.hardswish(self.along(F.hardswish(self.wide(x))))
        y = y * F.hardsigmoid(self.up(F.relu(self.down(y.mean((2, 3), keepdim=True)))))
        x = F.relu(self.across(self.narrow(y) + x))
        return self.last(x.mean((2, 3)))


def mobile(**options: object) -> tuple[Program, Tensor]:
    """Return a program of the mobile net, and inputs."""
    torch.manual_seed(0)
    model = Mobile().eval()
    prunus.prune(model, 0.4)
    batches = [torch.randn(16, 3, 21, 18) for _ in range(3)]
    scales = prunus.quantize(model, batches, max_error=1e9)
    return prunus.compile(model, batches[0][:4], scales=scales, **options), torch.cat(batches)  # type: ignore[return-value,arg-type]


def test_a_mobile_net_is_in_8_bits_from_input_to_classifier() -> None:
    program, x = mobile(threads=1)
    kinds = [type(operation) for operation in parts_of(program).net.operations]
    assert kinds[0] is Quantize
    assert set(kinds[1:]) <= {Regroup, QuantizedContract, QuantizedDepthwise, QuantizedMean, QuantizedProduct}
    for batch in (1, 3, 16, 37):
        assert torch.equal(program(x[:batch]), reference(program, x[:batch]).reshape(batch, -1))


def test_a_saved_mobile_net_computes_the_same(tmp_path: Path) -> None:
    program, x = mobile()
    program.save(tmp_path / "net.program")
    assert torch.equal(prunus.load(tmp_path / "net.program", expect=Program)(x), program(x))
    assert prunus.export(program, tmp_path / "net.so").difference == 0


def test_threads_share_planes() -> None:
    alone, shared = (mobile(threads=threads, tune=False) for threads in (1, 2))
    for batch in (1, 37):
        assert torch.equal(alone[0](alone[1][:batch]), shared[0](alone[1][:batch]))


@functools.lru_cache(maxsize=1)
def untuned_net() -> Net:
    return parts_of(mobile(tune=False)[0]).net


BAD = [
    (QuantizedDepthwise, {"box": (4, 1, 1)}, "makes"),
    (QuantizedDepthwise, {"groups": 1}, "groups"),
    (QuantizedDepthwise, {"bias": numpy.zeros(5)}, "bias or units"),
    (QuantizedDepthwise, {"bias": numpy.full(20, 2.0**31)}, "32 bits"),
    (QuantizedDepthwise, {"bias": numpy.full(20, 0.5)}, "whole numbers"),
    (QuantizedDepthwise, {"units": numpy.zeros(20)}, "units"),
    (QuantizedDepthwise, {"units": numpy.full(20, 1e30)}, "32 bits"),
    (QuantizedDepthwise, {"scale": 0.0}, "no kernel of 8 bits"),
    (QuantizedDepthwise, {"low": 9, "high": 3}, "limits"),
    (QuantizedDepthwise, {"zero": 256}, "zero point"),
    (QuantizedDepthwise, {"activation": Pointwise("exp")}, "no kernel of 8 bits"),
    (QuantizedDepthwise, {"pool": ("max", 2, 2)}, "no kernel of 8 bits"),
    (QuantizedMean, {"box": (4, 1, 1)}, "box"),
    (QuantizedMean, {"source_zero": -1}, "zero point"),
    (QuantizedMean, {"source": View(0, numpy.zeros((5, 4096, 4096), dtype=numpy.int64))}, "32 bits"),
    (QuantizedMean, {"source": View(0, numpy.zeros((5, 4), dtype=numpy.int64))}, "rows and columns"),
    (QuantizedProduct, {"box": (4, 11, 9)}, "box"),
    (QuantizedProduct, {"factors": View(0, numpy.zeros((21, 1, 1), dtype=numpy.int64))}, "box"),
    (QuantizedProduct, {"factors": View(0, numpy.zeros((20, 1, 2), dtype=numpy.int64))}, "factors"),
    (QuantizedProduct, {"scale": float("inf")}, "zero point"),
    (QuantizedProduct, {"source_scale": 1e300, "scale": 1e-300}, "scale"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), BAD)
def test_what_a_file_got_wrong_is_refused(kind: type[Operation], fields: dict[str, object], message: str) -> None:
    net = untuned_net()
    operation = next(operation for operation in net.operations if isinstance(operation, kind))
    operation.check()
    with pytest.raises(ProgramError, match=message):
        replace(operation, **fields).check()


@pytest.mark.parametrize("table", [numpy.zeros(255), numpy.full(256, 256.0), numpy.full(256, 0.5), numpy.full(256, -1)])
def test_a_table_that_a_file_got_wrong_is_refused(table: numpy.ndarray) -> None:
    box = 1, 2, 3
    source = View(0, numpy.arange(6).reshape(box))
    QuantizedFunction("silu", 1, box, source, 0.1, 3, 0.2, 4, numpy.zeros(256)).check()
    with pytest.raises(ProgramError, match="table"):
        QuantizedFunction("silu", 1, box, source, 0.1, 3, 0.2, 4, table).check()


class Scaled(nn.Module):
    """A layer whose channels are multiplied by an input, and layers that read both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.plain, self.last = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 3, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor, factors: Tensor) -> Tensor:
        """Compute them."""
        x = F.relu(self.first(x))
        return torch.cat([self.plain(x), self.last(x * factors[:, :, None, None])], 1)


def test_factors_that_are_not_finite() -> None:
    """NaN comes out as the least number, as from any rounding to 8 bits, and infinity as the largest."""
    torch.manual_seed(0)
    model = Scaled().eval()
    batches = [{"x": torch.randn(16, 2, 5, 7), "factors": torch.rand(16, 6)} for _ in range(2)]
    scales = prunus.quantize(model, batches, max_error=1e9)
    program = prunus.compile(model, batches[0], scales=scales, tune=False)
    assert any(isinstance(operation, QuantizedProduct) for operation in parts_of(program).net.operations)
    x, factors = batches[0]["x"], batches[0]["factors"]
    for strange, finite in ((torch.nan, 0.0), (torch.inf, 1e30), (-torch.inf, -1e30)):
        factors[:, 2] = finite
        expected = program(x, factors)
        factors[:, 2] = strange
        assert torch.equal(program(x, factors), expected)
        assert torch.equal(program(x[:1], factors[:1]), expected[:1])
    strict = prunus.compile(model, batches[1], scales=scales, tune=False, nonfinite="raise")
    with pytest.raises(prunus.errors.NonFiniteError):
        strict(x, factors)


def test_every_function_of_a_tape_may_become_a_table() -> None:
    assert TABLE_FUNCTIONS.keys() == set(FUNCTIONS)
