"""Programs in 8 bits: bit for bit what a slow reference computes, and close to the model as PyTorch rounds it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from eight_bits import NETS, drawn, reference
from prunus.compiling import tuning
from prunus.compiling.building import assembled, kernels_of
from prunus.compiling.kernels.numbers import FLOAT
from prunus.compiling.kernels.variants import variants
from prunus.compiling.operations import Contract, Join, Quantize, QuantizedContract, Regroup
from prunus.compiling.program import Program, parts_of


# the others have activations or layers in floating point, whose last bits the reference does not know
@pytest.mark.parametrize("name", [name for name in NETS if name not in ("shuffled", "grouped", "matrices", "cut off")])
@pytest.mark.parametrize("target", ["native", "scalar"])
def test_every_bit_is_that_of_the_reference(name: str, target: str) -> None:
    model, shape, scales = drawn(name)
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, target=target, threads=1)
    for batch in (1, 3, 16, 37):
        x = 2 * torch.randn(batch, *shape)
        assert torch.equal(program(x), reference(program, x).reshape(batch, -1))


@pytest.mark.parametrize("name", NETS)
def test_close_to_the_rounded_model(name: str) -> None:
    model, shape, scales = drawn(name)
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False)
    assert program.difference is not None
    assert program.difference < 0.05
    x = torch.randn(64, *shape)
    with torch.no_grad():
        plain = model(x)
        with prunus.Quantizer(model, scales):
            rounded = model(x)
    error = (program(x) - rounded).square().mean().sqrt()
    assert error <= 1.5 * (rounded - plain).square().mean().sqrt() + 1e-6


@pytest.mark.parametrize("name", ["residual", "strided", "joined", "rows", "columns", "cut off"])
def test_all_layers_are_computed_in_8_bits(name: str) -> None:
    model, shape, scales = drawn(name)
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False)
    layers = [operation for operation in parts_of(program).net.operations if isinstance(operation, Contract)]
    assert len(layers) == sum(isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear)) for m in model.modules())
    assert all(isinstance(layer, QuantizedContract) for layer in layers)


def test_only_the_borders_are_in_floating_point() -> None:
    model, shape, scales = drawn("strided")
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False)
    kinds = [type(operation) for operation in parts_of(program).net.operations]
    assert kinds[0] is Quantize
    assert set(kinds[1:]) <= {QuantizedContract, Regroup}


def test_a_shortcut_that_pads_channels_is_copied_in_words() -> None:
    model, shape, scales = drawn("padded")
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False)
    operations = parts_of(program).net.operations
    first, second = (n for n, each in enumerate(operations) if isinstance(each, QuantizedContract) and each.box[1] > 1)
    assert [type(operation) for operation in operations[first + 1 : second]] == [Join]
    assert isinstance(operations[second], QuantizedContract)
    assert operations[second].residual is not None


@pytest.mark.parametrize("name", ["residual", "strided", "rows", "joined"])
def test_every_way_to_compute_a_layer_gives_the_same_bits(name: str) -> None:
    model, shape, scales = drawn(name, sparsity=0.5)
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False, threads=1)
    parts = parts_of(program)
    kernels = kernels_of(parts.net, parts.target, FLOAT, lambda _: None)
    x = torch.randn(2 * parts.choice.block + 3, *shape)
    expected = reference(program, x).reshape(len(x), -1)
    tried = set()
    for plan in tuning.plans_for(parts.net, parts.choice.block, parts.target, FLOAT):
        for operation in plan.net.operations:
            if not isinstance(operation, QuantizedContract):
                continue
            for way in variants(operation, plan, parts.target.registers)[:12]:
                chosen = {**parts.choice.chosen, (plan.mode.name, operation.output): way}
                choice = replace(parts.choice, chosen=chosen)
                other = Program(parts, assembled(parts.net, choice, parts.target, FLOAT, kernels, 1))
                assert torch.equal(other(x), expected), (operation.name, plan.mode.name, str(way))
                tried.add((plan.mode.name, way))
    assert len(tried) > 15


def test_products_that_exceed_16_bits_are_exact() -> None:
    """Without VNNI, pairs of products are added in 16 bits, where they would be cut off."""
    layer = nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0] * 8, [-1.0] * 8, [1.0, -1.0] * 4, [1.0, 0.25] * 4]))
    x = torch.cat([torch.full((40, 8), 10.0), torch.zeros(40, 8), 10 * torch.rand(40, 8)])
    scales = prunus.quantize(layer, list(x.split(30)), ranges="minmax", max_error=1e9)
    program = prunus.compile(layer, x[:2], scales=scales)
    assert torch.equal(program(x), reference(program, x).reshape(len(x), -1))
    assert program(x[:1])[0, 0] == pytest.approx(80, rel=1e-2)
    assert program(x[:1])[0, 1] == pytest.approx(-80, rel=1e-2)


class Branches(nn.Module):
    """A convolution, and what may follow it, in front of a layer that adds up channels."""

    def __init__(self, first: nn.Conv2d, ending: str) -> None:
        super().__init__()
        self.first, self.ending = first, ending
        self.second = nn.Conv2d(first.out_channels, first.out_channels, 1)
        self.last = nn.Conv2d(first.out_channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the three."""
        x = F.relu(self.first(x))
        if self.ending == "pool":
            x = F.max_pool2d(x, (min(2, x.shape[2]), min(2, x.shape[3])))
        if self.ending == "sum":
            x = F.relu(x + self.second(x))
        return self.last(x)


SIDES = st.tuples(st.integers(1, 12), st.integers(1, 19))


@settings(max_examples=20, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    more=SIDES,
    ending=st.sampled_from(["", "pool", "sum"]),
    low=st.floats(-3, 0),
    sparsity=st.sampled_from([0.0, 0.5, 0.9]),
    seed=st.integers(0, 5),
)
@example((1, 1), (1, 3), (1, 3), (0, 0), (4, 2), "", 0.0, 0.0, 3)
@example((1, 8), (1, 3), (1, 3), (0, 0), (4, 2), "sum", 0.0, 0.0, 3)
def test_any_convolution_is_that_of_the_reference(
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    more: tuple[int, int],
    ending: str,
    low: float,
    sparsity: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    first = nn.Conv2d(*channels, kernel, stride, padding)
    model = Branches(first, ending).eval()
    with torch.no_grad():
        first.weight *= torch.rand_like(first.weight) >= sparsity
        first.weight[0, 0] = 1  # a layer of zeros only stays in floating point
    sides = [side + extra for side, extra in zip(kernel, more, strict=True)]
    batches = [low + (3 - low) * torch.rand(8, channels[0], *sides) for _ in range(3)]
    scales = prunus.quantize(model, batches, max_error=1e9)
    program = prunus.compile(model, batches[0], scales=scales, tune=False, threads=1)
    for x in (batches[0][:1], torch.cat(batches)):
        assert torch.equal(program(x), reference(program, x))
