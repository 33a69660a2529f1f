"""The break-even curve, with programs whose time is known."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prunus.measuring.break_even import break_even
from prunus.measuring.latency import clock
from prunus.measuring.latency.runtimes import LeftOutError

WEIGHTS = 40 * 40
QUICK = {"batch_size": 2, "seconds": 0.02}


class Clock:
    """A clock that stands still but for what is said to take time, so that no busy machine changes a result."""

    now_us = 0

    def take(self, microseconds: int) -> None:
        self.now_us += microseconds

    def perf_counter(self) -> float:
        return self.now_us / 1e6

    def perf_counter_ns(self) -> int:
        return 1000 * self.now_us


CLOCK = Clock()


class Sleepy(nn.Module):
    """A layer that takes two milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(40, 40, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        CLOCK.take(2000)
        return self.fc(x)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Let `prunus.compile` make programs of four milliseconds times the density, and note of which models."""
    seen: list[nn.Module] = []

    def compile(
        model: nn.Module, example_inputs: object, *, threads: int, scales: object = None
    ) -> Callable[[Tensor], Tensor]:
        assert torch.get_num_threads() == threads
        seen.append(model)
        wait = (4000 if scales is None else 1000) * int(model.fc.weight.count_nonzero()) // WEIGHTS

        def program(x: Tensor) -> Tensor:
            CLOCK.take(wait)
            return x @ model.fc.weight.detach().T

        return program

    importlib.import_module("prunus.exporting")  # it imports the module that is replaced
    module = types.ModuleType("prunus.compiling")
    module.__dict__["compile"] = compile
    monkeypatch.setitem(sys.modules, "prunus.compiling", module)
    monkeypatch.setattr(clock, "time", CLOCK)
    return seen


def test_programs_overtake_where_their_time_is_that_of_the_dense_model(programs: list[nn.Module]) -> None:
    model = Sleepy().train()
    before, threads = model.fc.weight.detach().clone(), torch.get_num_threads()
    found = break_even(model, torch.randn(1, 40), sparsities=(0, 0.25, 0.75), threads=2, **QUICK)
    assert (found.threads, found.batch, found.fastest) == (2, 2, "torch")
    assert [(point.sparsity, point.nonzero) for point in found.points] == [(0.0, 1600), (0.25, 1200), (0.75, 400)]
    assert found.sparsity == pytest.approx(0.5)  # 4 ms of half the weights are 2 ms, the model's
    assert [point.latency_us.median for point in found.points] == [4000, 3000, 1000]
    assert found.dense_us["torch"].runs == found.points[0].latency_us.runs >= 10
    smallest_left = [float(p.fc.weight.detach().abs()[p.fc.weight != 0].min()) for p in programs[1:]]
    assert smallest_left == [float(before.abs().flatten().sort().values[k]) for k in (400, 1200)]
    assert torch.equal(model.fc.weight, before)
    assert model.training
    assert torch.get_num_threads() == threads


def test_programs_in_8_bits_of_blocks_take_turns_where_they_are_asked_for(programs: list[nn.Module]) -> None:
    model = Sleepy()
    with torch.no_grad():
        model.fc.weight.uniform_(-1, 1)
    asked = ["torch", "prunus", "prunus-int8"]
    found = break_even(model, torch.rand(1, 40), sparsities=(0, 0.5), runtimes=asked, **QUICK)
    assert set(found.dense_us) == {"torch"}
    assert [point.latency_us.median for point in found.points] == [4000, 2000]
    assert [point.latency_us.median for point in found.in_8_bits] == [1000, 500]
    assert (found.sparsity, found.sparsity_in_8_bits) == (0.5, 0.0)
    single, in_blocks = (program.fc.weight.detach().reshape(-1, 4) == 0 for program in (programs[1], programs[-1]))
    assert (in_blocks.all(1) == in_blocks.any(1)).all()
    assert not (single.all(1) == single.any(1)).all()


def test_what_never_overtakes_has_no_break_even(programs: list[nn.Module]) -> None:
    assert break_even(Sleepy(), torch.randn(1, 40), sparsities=(0, 0.25), **QUICK).sparsity is None
    assert break_even(Sleepy(), torch.randn(1, 40), sparsities=(0.75, 0.9), **QUICK).sparsity == 0.75
    assert len(programs) == 4


def test_what_can_not_be_had_is_said(programs: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    wanted = ["torch", "openvino"]
    found = break_even(Sleepy(), torch.randn(1, 40), sparsities=(0.5, 0.9999), runtimes=wanted, **QUICK)
    assert [point.sparsity for point in found.points] == [0.5]
    assert found.dense_us.keys() == {"torch"}
    unreached, missing = found.notes
    assert unreached.startswith("sparsity 0.9999 and above: sparsity 0.9999 can't be reached")
    assert missing.startswith("latency in openvino: timing a model in OpenVINO needs the package 'openvino'")
    with pytest.raises(LeftOutError, match=r"runs in none of the other runtimes \(openvino"):
        break_even(Sleepy(), torch.randn(1, 40), sparsities=(0.5,), runtimes=["openvino"], **QUICK)
    with pytest.raises(LeftOutError, match=r"AttributeError: .* has no attribute .fc."):
        break_even(nn.Linear(40, 40), torch.randn(1, 40), sparsities=(0.5,), **QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsities": ()}, r"sparsities must rise within \[0, 1\), such as .*, got \(\)"),
        ({"sparsities": (0.5, 0.5)}, r"must rise .*, got \(0\.5, 0\.5\)"),
        ({"sparsities": (0.5, 1.0)}, "must rise within"),
        ({"threads": 0}, r"threads must be whole numbers above 0, got \[0\]"),
        ({"batch_size": 1.5}, "batch_size must be whole numbers above 0"),
        ({"runtimes": ["torsh"]}, "unknown runtime 'torsh'; did you mean 'torch'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        break_even(nn.Linear(4, 4), torch.randn(1, 4), **arguments)
