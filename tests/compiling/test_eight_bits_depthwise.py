"""Depthwise convolutions in 8 bits, and what else computes each channel by itself: bit for bit the slow reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from integer_reference import computed
from prunus.compiling import tuning
from prunus.compiling.building import assembled, kernels_of
from prunus.compiling.kernels.numbers import FLOAT
from prunus.compiling.kernels.variants import variants
from prunus.compiling.operations import (
    Contract,
    Elementwise,
    Pool,
    QuantizedContract,
    QuantizedDepthwise,
    QuantizedFunction,
    QuantizedMean,
    QuantizedProduct,
    Reduce,
)
from prunus.compiling.program import Program, parts_of


def reference(program: Program, x: Tensor) -> Tensor:
    """Return what the slow reference makes of one input."""
    net = parts_of(program).net
    (output,) = computed(net, {next(iter(net.inputs)): x.numpy()})
    return torch.from_numpy(output)


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


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=25, deadline=None)
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
