"""A program beside the dense runtimes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import CompileError
from prunus.measuring.dense_comparison import DenseComparison, compare_with_dense
from prunus.measuring.times import Latency

pytestmark = pytest.mark.usefixtures("one_thread")


def of(microseconds: float) -> Latency:
    return Latency(microseconds, microseconds, microseconds, 10)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (100, "For 16 samples on 1 thread the program takes 100 µs; ONNX Runtime, the fastest of PyTorch and ONNX "
              "Runtime, takes 250 µs: 2.50 times as long."),
        (300, "For 16 samples on 1 thread the program takes 300 µs; ONNX Runtime, the fastest of PyTorch and ONNX "
              "Runtime, takes 250 µs, which is less: use that, or prune more."),
    ],
)  # fmt: skip
def test_the_fastest_dense_runtime_is_named(program: int, said: str) -> None:
    comparison = DenseComparison(16, 1, of(program), {"torch": of(400), "onnxruntime": of(250)})
    assert comparison.fastest == "onnxruntime"
    assert str(comparison) == said


def test_all_runtimes_that_are_installed_take_part() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    comparison = compare_with_dense(model, torch.randn(1, 8), batch=4, threads=1, seconds=0.01)
    assert {"torch", "onnxruntime"} <= comparison.dense_us.keys()
    assert "prunus" not in comparison.dense_us
    assert comparison.program_us.median > 0


def test_8_bits_are_those_of_the_scales() -> None:
    model, other = (nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2)) for width in (8, 9))
    batches = [torch.randn(8, 8) for _ in range(3)]
    scales = prunus.quantize(model, batches, max_error=1e9)
    comparison = compare_with_dense(model, batches[0], batch=4, threads=1, seconds=0.01, scales=scales)
    assert {"torch", "onnxruntime", "onnxruntime-int8"} <= comparison.dense_us.keys()
    with pytest.raises(CompileError, match="scales"):
        compare_with_dense(other, batches[0], batch=4, threads=1, seconds=0.01, scales=scales)


def test_a_model_that_can_not_become_a_program_is_told() -> None:
    with pytest.raises(CompileError, match="hardshrink"):
        compare_with_dense(nn.Hardshrink(), torch.randn(1, 8), batch=4, threads=1, seconds=0.01)
