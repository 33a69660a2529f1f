"""Timing kernels: layers of one shape once, large ones on a part of their outputs; and which batches are compared."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import nn

import prunus
from prunus.compiling import comparing, toolchain, tuning
from prunus.compiling.batch import read_net
from prunus.compiling.engine import Trials
from prunus.compiling.kernels.calls import CallWriter
from prunus.compiling.kernels.library import library
from prunus.compiling.kernels.numbers import FLOAT
from prunus.compiling.kernels.variants import variants
from prunus.compiling.kernels.writing import Constants
from prunus.compiling.net import in_order, is_in_order, whole
from prunus.compiling.operations import Contract
from sparse_models import sparse


def test_layers_of_one_shape_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []
    measure = tuning._timed

    def count(operation: Contract, *rest: object) -> list[float]:
        timed.append(operation.name)
        return measure(operation, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "_timed", count)
    alike = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(5)]
    model = sparse(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *alike, nn.Conv2d(8, 5, 3, padding=1)), 0.8)
    images = torch.randn(3, 3, 11, 11)
    program = prunus.compile(model, images)
    assert sorted(timed) == ["0", "0", "1", "1", "6", "6"], "in blocks and singly"
    torch.testing.assert_close(program(images), model(images).detach(), rtol=0, atol=1e-5)


def test_layers_whose_zeros_lie_otherwise_are_timed_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []
    measure = tuning._timed
    monkeypatch.setattr(tuning, "_timed", lambda layer, *rest: timed.append(layer.name) or measure(layer, *rest))
    single, channels = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
    single.weight.data[torch.rand(32, 32, 3, 3) > 0.25] = 0
    channels.weight.data[:, 8:] = 0
    prunus.compile(nn.Sequential(single, nn.ReLU(), channels).eval(), torch.randn(2, 32, 12, 12))
    assert sorted(timed) == ["0", "0", "2", "2"]


def test_a_part_of_a_large_layer_is_computed_as_in_the_whole() -> None:
    model = sparse(nn.Sequential(nn.Conv2d(4, 64, 3, padding=1)), 0.5)
    net = read_net(model, torch.randn(2, 4, 40, 40))[0]
    target = toolchain.target("native")
    kernels = library(target, FLOAT, lambda line: None)
    for plan in tuning.plans_for(net, target.bytes // 4, target, FLOAT):
        contract = next(operation for operation in plan.net.operations if isinstance(operation, Contract))
        for variant in variants(contract, plan, target.registers)[:4]:
            results, fractions = [], []
            for most in (float("inf"), contract.macs * plan.mode.block / 50):
                writer = CallWriter(plan, Constants(), FLOAT, most_macs=most)
                call = writer.contraction(contract, variant)
                trials = Trials(kernels, plan.size * 4)
                memory = trials._work._bytes[trials._work._skip :][: plan.size * 4].view(numpy.float32)
                start = plan.places[contract.source.value]
                size = plan.layouts[contract.source.value].size
                memory[start : start + size] = numpy.random.default_rng(0).standard_normal(size)
                trials.prepare([call], writer.constants.data)
                trials.seconds(0, 1)
                output = plan.places[contract.output]
                results.append(memory[output : output + plan.layouts[contract.output].size].copy())
                fractions.append(call.fraction)
            all_of_it, part = results
            assert fractions[0] == 1
            assert 0 < fractions[1] < 0.3
            computed = part != 0
            assert 0 < computed.mean() < 0.5 * (all_of_it != 0).mean()
            # singly, the last vector of what is computed reaches into rows that the whole computes after it
            assert (part[computed] == all_of_it[computed]).mean() > (0.9 if plan.mode.single else 0.999)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slow_model_is_compared_for_one_sample_and_one_block(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()).eval().to(dtype)
    images = torch.randn(4, 2, 9, 9, dtype=dtype)
    compare = comparing.Expected.difference_for

    def noted(expected: comparing.Expected, size: int, *rest: object) -> float:
        sizes.append(size)
        return compare(expected, size, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(comparing.Expected, "difference_for", noted)
    monkeypatch.setattr(comparing, "_SLOW_SECONDS", 1e9)
    choice = prunus.compile(model, images, tune=False, target="sse")._parts.choice
    monkeypatch.setattr(comparing, "_SLOW_SECONDS", 0.0)
    prunus.compile(model, images, tune=False, target="sse")
    assert sizes[0] == sizes[2] == 1
    assert sizes[1] > choice.block, "a whole block and one that is not full"
    assert choice.most_single < sizes[3] <= choice.block
    assert sizes[3] > 1, "one sample alone shows nothing of what mixes them"


def test_views_of_whole_values_share_their_numbers() -> None:
    views = [whole(number, (2, 3, 4)).index for number in range(3)]
    assert all(numpy.shares_memory(views[0], view) for view in views)
    assert views[0].tolist() == numpy.arange(24).reshape(2, 3, 4).tolist()
    with pytest.raises(ValueError, match="read-only"):
        views[0][0] = 1


def test_what_is_in_order() -> None:
    index = whole(0, (2, 3, 4)).index
    for array in (index, index.copy(), index.reshape(6, 4), in_order(1), in_order(0)):
        assert is_in_order(array)
    for array in (index[::-1], index[:, ::-1], index.swapaxes(0, 1), index + 1, index[:1] * 0, index[1:]):
        assert not is_in_order(array)


def test_the_views_of_a_plain_net_share_one_array() -> None:
    layers = [layer for _ in range(4) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    net = read_net(nn.Sequential(*layers).eval(), torch.randn(2, 8, 16, 16))[0]
    views = [view.index for operation in net.operations for view in operation.views]
    assert len(views) == 4
    assert all(numpy.shares_memory(views[0], view) for view in views)
