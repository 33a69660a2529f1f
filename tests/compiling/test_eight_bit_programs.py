"""Programs in 8 bits in files, libraries and threads, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

import prunus
from eight_bits import drawn
from prunus import files
from prunus.compiling import toolchain
from prunus.compiling.building import kernels_of
from prunus.compiling.kernels.numbers import FLOAT
from prunus.compiling.net import Pointwise
from prunus.compiling.operations import QuantizedContract, Regroup
from prunus.compiling.program import Program, parts_of
from prunus.errors import CompileError, ProgramError, ScalesError


def test_a_saved_program_computes_the_same(tmp_path: Path) -> None:
    model, shape, scales = drawn("residual")
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales)
    program.save(tmp_path / "net.program")
    again = prunus.load(tmp_path / "net.program", expect=Program)
    x = torch.randn(21, *shape)
    assert torch.equal(again(x), program(x))
    kinds = [step.operation for step in again.profile().singly]
    assert kinds.count("conv") == 3
    assert kinds[0] == "quantize"


def test_a_file_of_8_bits_in_float64_is_refused(tmp_path: Path) -> None:
    model, shape, scales = drawn("residual")
    prunus.compile(model, torch.randn(4, *shape), scales=scales, tune=False).save(tmp_path / "net.program")
    tensors, metadata = files.load_with_metadata(tmp_path / "net.program")
    header = {"program": metadata["program"].replace('"float32"', '"float64"')}
    header["checksum"] = files.checksum_of(tensors, header)
    files.save_tensors(tmp_path / "forged.program", tensors, header)
    with pytest.raises(ProgramError, match="8 bits and float64"):
        prunus.load(tmp_path / "forged.program", expect=Program)


def test_a_library_computes_the_same(tmp_path: Path) -> None:
    model, shape, scales = drawn("strided")
    program = prunus.compile(model, torch.randn(4, *shape), scales=scales)
    facts = prunus.export(program, tmp_path / "net.so")
    assert facts.difference == 0


def test_infinities_and_nan_are_told_where_that_is_asked() -> None:
    model, shape, scales = drawn("residual")
    x = torch.randn(3, *shape)
    strict = prunus.compile(model, x, scales=scales, nonfinite="raise", tune=False)
    assert torch.equal(strict(x), prunus.compile(model, x, scales=scales, tune=False)(x))
    x[1, 0, 2, 3] = torch.nan
    with pytest.raises(prunus.errors.NonFiniteError):
        strict(x)


def test_threads_share_the_work() -> None:
    model, shape, scales = drawn("residual")
    x = torch.randn(37, *shape)
    alone, shared = (prunus.compile(model, x[:4], scales=scales, threads=threads) for threads in (1, 2))
    for batch in (1, 37):
        assert torch.equal(alone(x[:batch]), shared(x[:batch]))


def test_mistakes_are_told() -> None:
    model, shape, scales = drawn("residual")
    x = torch.randn(2, *shape)
    with pytest.raises(TypeError, match=r"scales must be what prunus\.quantize returned, got dict"):
        prunus.compile(model, x, scales={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"computes in 8 bits and torch\.float32, not in torch\.float64"):
        prunus.compile(model, x, scales=scales, dtype=torch.float64)
    with pytest.raises(ScalesError):
        prunus.compile(nn.Sequential(nn.Conv2d(3, 4, 3)), x, scales=scales)
    with pytest.raises(ValueError, match="give either scales or fallback"):
        prunus.compile(model, x, scales=scales, fallback=True)
    signed = prunus.quantize(model, [x, x, x, x], activations="int8", max_error=1e9)
    with pytest.raises(ScalesError, match="programs compute with uint8"):
        prunus.compile(model, x, scales=signed)


def test_a_program_that_computes_something_else_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunus.compiling.lowering import borders

    model, shape, scales = drawn("matrices")
    monkeypatch.setattr(borders, "in_words", lambda weight, right=borders.in_words: right(-1.0 * weight))
    with pytest.raises(CompileError, match="computes something else than the model"):
        prunus.compile(model, torch.randn(2, *shape), scales=scales)


def test_what_saturates_is_told_by_the_kernels_that_were_built() -> None:
    model, shape, scales = drawn("matrices")
    net = parts_of(prunus.compile(model, torch.randn(2, *shape), scales=scales)).net
    scalar = kernels_of(net, toolchain.target("scalar"), FLOAT, lambda _: None)
    assert not scalar.saturates
    try:
        avx2 = toolchain.target("avx2")
    except CompileError:
        pytest.skip("this machine has no AVX2")
    assert kernels_of(net, avx2, FLOAT, lambda _: None).saturates


BAD = [
    ({"box": (4, 1, 1)}, "makes"),
    ({"bias": numpy.full(16, 2.0**31)}, "32 bits"),
    ({"bias": numpy.full(16, 0.5)}, "whole numbers"),
    ({"weight": "too large"}, "weights"),
    ({"units": numpy.zeros(16)}, "units"),
    ({"units": numpy.full(16, 1e30)}, "32 bits"),
    ({"low": 9, "high": 3}, "limits"),
    ({"zero": 256}, "zero point"),
    ({"residual_scale": float("nan")}, "scale"),
    ({"activation": Pointwise("exp")}, "no kernel of 8 bits"),
    ({"pool": ("max", 2, 2)}, "no kernel of 8 bits"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_a_contraction_that_a_file_got_wrong_is_refused(fields: dict[str, object], message: str) -> None:
    model, shape, scales = drawn("residual")
    net = parts_of(prunus.compile(model, torch.randn(2, *shape), scales=scales, tune=False)).net
    layer = next(operation for operation in net.operations if isinstance(operation, QuantizedContract))
    layer.check()
    if fields.get("weight") == "too large":
        fields = {"weight": numpy.full(layer.weight.shape, 2.0**31)}
    with pytest.raises(ProgramError, match=message):
        replace(layer, **fields).check()  # type: ignore[arg-type]


def test_what_puts_words_together_is_checked() -> None:
    model, shape, scales = drawn("strided")
    net = parts_of(prunus.compile(model, torch.randn(2, *shape), scales=scales, tune=False)).net
    regroup = next(operation for operation in net.operations if isinstance(operation, Regroup))
    outside = regroup.picks.copy()
    outside.flat[0] = 10**6
    for fields in ({"picks": outside}, {"picks": regroup.picks[..., :3]}, {"zero": -1}):
        with pytest.raises(ProgramError):
            replace(regroup, **fields).check()  # type: ignore[arg-type]
