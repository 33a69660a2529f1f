"""The C compiler: found, missing, failing; the cache under several processes and where it can't be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.compiling import MissingCompilerError, toolchain
from prunus.errors import CompileError

MODEL = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
INPUTS = torch.randn(3, 4)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_no_compiler_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    toolchain._compiler.cache_clear()
    try:
        with pytest.raises(
            MissingCompilerError, match=r"needs a C compiler and found none .* pip install 'prunus\[compile\]'"
        ):
            prunus.compile(MODEL, INPUTS)
    finally:
        toolchain._compiler.cache_clear()


def test_cc_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler --fast")
    with pytest.raises(MissingCompilerError, match="CC names, 'no-such-compiler --fast', can't be started"):
        prunus.compile(MODEL, INPUTS)


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_each_compiler_builds_the_same(name: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("CC", name)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(196, 3)
    ).eval()
    images = torch.randn(9, 1, 14, 14)
    torch.testing.assert_close(
        prunus.compile(model, images, tune=False)(images), model(images).detach(), rtol=0, atol=1e-5
    )


def test_ziglang_builds_where_there_is_no_other(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ziglang", reason="the package ziglang is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    toolchain._compiler.cache_clear()
    try:
        assert "ziglang" in toolchain.compiler().command
        torch.testing.assert_close(prunus.compile(MODEL, INPUTS, tune=False)(INPUTS), MODEL(INPUTS).detach())
    finally:
        toolchain._compiler.cache_clear()


def test_the_second_time_nothing_is_built(empty_cache: Path) -> None:
    prunus.compile(MODEL, INPUTS)
    files = sorted(path.name for path in empty_cache.iterdir())
    times = {path.name: path.stat().st_mtime_ns for path in empty_cache.iterdir()}
    prunus.compile(MODEL, INPUTS)
    assert sorted(path.name for path in empty_cache.iterdir()) == files
    assert {path.name: path.stat().st_mtime_ns for path in empty_cache.iterdir()} == times
    assert {path.suffix for path in empty_cache.iterdir()} == {".so", ".sha256", ".json"}  # nothing is left lying about


def test_a_damaged_library_is_built_anew(empty_cache: Path) -> None:
    code = (
        "import torch, prunus; from torch import nn; torch.manual_seed(0); m = nn.Linear(4, 3).eval(); "
        "x = torch.ones(2, 4); print(float((prunus.compile(m, x, tune=False)(x) - m(x)).abs().max()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    (library,) = empty_cache.glob("*.so")
    library.write_bytes(b"damaged")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 1e-5
    assert library.stat().st_size > 1000


def test_a_remembered_choice_that_can_not_be_made_is_measured_anew(empty_cache: Path) -> None:
    model, inputs = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval(), torch.randn(9, 1, 12, 12)
    prunus.compile(model, inputs)
    (remembered,) = empty_cache.glob("*.json")
    good = json.loads(remembered.read_text())
    huge = [[mode, number, rows, [999, 999], *rest] for mode, number, rows, _, *rest in good["chosen"]]
    bad: list[object] = [None, [], {"block": 8}, good | {"chosen": []}, good | {"chosen": huge}]
    for tree in (*bad, good | {"block": 10**6}, good | {"most_single": -1}):
        remembered.write_text(json.dumps(tree))
        torch.testing.assert_close(prunus.compile(model, inputs)(inputs), model(inputs).detach(), rtol=0, atol=1e-5)
        assert json.loads(remembered.read_text()).keys() == good.keys()
        assert json.loads(remembered.read_text()) != tree


def test_a_cache_in_the_folder_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", ".")
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(prunus.compile(MODEL, INPUTS, tune=False)(INPUTS), MODEL(INPUTS).detach())


def test_a_folder_that_no_program_may_run_from(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(toolchain.ctypes, "CDLL", refuse)
    with pytest.raises(CompileError, match=r"can't be loaded .*set PRUNUS_CACHE to another"):
        prunus.compile(MODEL, INPUTS, tune=False)


def test_two_processes_build_at_once(empty_cache: Path) -> None:
    code = (
        "import torch, prunus; from torch import nn; torch.manual_seed(0); "
        "prunus.compile(nn.Conv2d(3, 8, 3), torch.ones(2, 3, 9, 9)); print('done')"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["done"] * 3
    assert all(not path.name.startswith(".") for path in empty_cache.iterdir())


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may write anywhere")
def test_a_cache_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CompileError, match="set PRUNUS_CACHE"):
        prunus.compile(MODEL, INPUTS, tune=False)


def test_a_cache_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CompileError, match="set PRUNUS_CACHE"):
        prunus.compile(MODEL, INPUTS, tune=False)
