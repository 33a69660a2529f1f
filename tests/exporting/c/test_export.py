"""`prunus.export` and the command to C: what is written, said and refused."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from embedded_nets import why_not
from prunus.compiling.toolchain import MissingCompilerError
from prunus.exporting.c import c_cost, export

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))


def test_two_files_that_a_c_program_takes(model: nn.Module, tmp_path: Path) -> None:
    if why_not("gcc") is not None:
        pytest.skip("there is no gcc")
    facts = prunus.export(model, tmp_path / "my-net.c", torch.randn(1, 6))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my-net.c", "my-net.h"]
    assert facts.format == "c"
    assert facts.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert facts.difference is not None
    assert facts.difference < 1e-6
    assert facts.c is not None
    weights = 4 * (6 * 9 + 9 + 9 * 4 + 4)
    assert (facts.c.name, facts.c.constant_bytes, facts.c.ram_bytes) == ("my_net", weights, 4 * 9)
    assert c_cost(model, torch.randn(1, 6)) == (weights, 4 * 9)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "net.so", "my-net.c", "-lm"], cwd=tmp_path, check=True)
    x, y = np.arange(6, dtype=np.float32), np.empty(4, dtype=np.float32)
    net = ctypes.CDLL(str(tmp_path / "net.so"))
    net.my_net_run(x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p))
    np.testing.assert_allclose(y, model(torch.from_numpy(x)[None])[0].detach(), rtol=1e-5, atol=1e-6)


def test_scales_give_weights_of_8_bits(model: nn.Module, tmp_path: Path) -> None:
    scales = prunus.quantize(model, [torch.randn(64, 6)])
    facts = prunus.export(model, tmp_path / "net.c", torch.randn(1, 6), scales=scales)
    assert facts.c is not None
    assert facts.c.constant_bytes == (6 * 9 + 9 * 4) + 4 * 2 * (9 + 4), "a byte a weight; a scale and a bias an output"
    assert facts.difference is None or facts.difference < 1e-5, "it is held against the model with rounded weights"
    assert "int8 with a scale for each output" in (tmp_path / "net.c").read_text()
    partly = prunus.quantize(model, [torch.randn(64, 6)], in_float=["2"])
    facts = prunus.export(model, tmp_path / "net.c", torch.randn(1, 6), scales=partly)
    assert facts.c is not None
    assert facts.c.constant_bytes == 6 * 9 + 4 * 9 * 4 + 4 * (2 * 9 + 4)


def test_norms_are_folded_into_weights_of_8_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    model = nn.Sequential(nn.Conv2d(2, 8, 3, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    for _ in range(5):
        model(torch.randn(32, 2, 6, 6))
    nn.init.uniform_(norm.weight, -2, 2)
    scales = prunus.quantize(model.eval(), [torch.randn(64, 2, 6, 6)])
    facts = prunus.export(model, tmp_path / "net.c", torch.randn(1, 2, 6, 6), scales=scales)
    assert facts.c is not None
    assert facts.c.constant_bytes == 8 * 2 * 9 + 128 * 3 + 4 * 2 * (8 + 3)


def test_half_precision_and_a_packed_file(model: nn.Module, tmp_path: Path) -> None:
    prunus.export(model.half(), tmp_path / "half.c", torch.randn(1, 6).half())
    prunus.save(model.float(), tmp_path / "net.prunus", example_inputs=torch.randn(2, 6))
    facts = prunus.export(tmp_path / "net.prunus", tmp_path / "net.c")
    assert facts.c is not None


def test_without_a_compiler_it_says_that_it_was_not_checked(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingCompilerError("found none")

    monkeypatch.setattr(export, "compiler", missing)
    facts = prunus.export(model, tmp_path / "net.c", torch.randn(1, 6))
    assert facts.c is not None
    assert (facts.difference, facts.c.code_bytes, facts.c.checked) == (None, None, "found none")


def test_c_that_computes_something_else_is_not_written(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why_not("gcc") is not None:
        pytest.skip("there is no gcc")
    (tmp_path / "net.c").write_text("the old file")
    other = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
    read_net = export.read_net
    monkeypatch.setattr(export, "read_net", lambda _, inputs: read_net(other, inputs))
    with pytest.raises(prunus.ExportError, match=r"computes something else: .* differ from the model's by \d"):
        prunus.export(model, tmp_path / "net.c", torch.randn(1, 6))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old file"]


def test_mistakes_are_told_before_anything_is_written(model: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(1, 6)
    for path, message in (
        ("net", r"two files are written, NAME.c and NAME.h; .* such as net.c, got '.*net'"),
        ("math.c", r"math.h is the name of a header of C itself"),
    ):
        with pytest.raises(ValueError, match=message):
            prunus.export(model, tmp_path / path, x, format="c")
    with pytest.raises(TypeError, match=r"what prunus\.quantize returned, got int"):
        prunus.export(model, tmp_path / "net.c", x, scales=8)  # type: ignore[arg-type]
    with pytest.raises(prunus.ExportError, match="can't be exported to C: conv3d at"):
        prunus.export(nn.Conv3d(1, 1, 2), tmp_path / "net.c", torch.randn(1, 1, 4, 4, 4))
    assert list(tmp_path.iterdir()) == []
