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
from prunus.compiling import MissingCompilerError, cache, toolchain, tuning
from prunus.compiling.toolchain import Target
from prunus.errors import CompileError

MODEL = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
INPUTS = torch.randn(3, 4)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_no_compiler_is_one_clear_error(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_cc_that_does_not_start(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        prunus.compile(model, images, tune=False, target="scalar")(images), model(images).detach(), rtol=0, atol=1e-5
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
    said: list[str] = []
    prunus.compile(MODEL, INPUTS, target="scalar", say=said.append)
    assert said[1] == "building kernels for this machine, once: 0 of 10"
    assert said.index("building kernels for this machine, once: 10 of 10") == 11
    files = sorted(path.name for path in empty_cache.iterdir())
    times = {path.name: path.stat().st_mtime_ns for path in empty_cache.iterdir()}
    prunus.compile(MODEL, INPUTS, target="scalar", say=said.append)
    assert sorted(path.name for path in empty_cache.iterdir()) == files
    assert {path.name: path.stat().st_mtime_ns for path in empty_cache.iterdir()} == times
    assert {path.suffix for path in empty_cache.iterdir()} == {".so", ".sha256", ".json"}  # nothing is left lying about


def test_another_model_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    prunus.compile(MODEL, INPUTS)
    monkeypatch.setenv("CC", "/bin/false")
    other = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Softmax(1)).eval()
    images = torch.randn(5, 2, 9, 9)
    torch.testing.assert_close(prunus.compile(other, images)(images), other(images).detach(), rtol=0, atol=1e-6)


def test_a_remembered_choice_that_can_not_be_made_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning.storing, "digest", lambda *parts: "remembered-by-a-test")
    model, inputs = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval(), torch.randn(9, 1, 12, 12)
    prunus.compile(model, inputs)
    remembered = cache.private_folder() / "remembered-by-a-test.json"
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
    toolchain.build(["int answer;"], Target("scalar", (), 16, 16), lambda line: None)
    assert list(tmp_path.glob("*.so"))


def test_a_folder_that_no_program_may_run_from(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(toolchain.ctypes, "CDLL", refuse)
    with pytest.raises(CompileError, match=r"can't be loaded .*set PRUNUS_CACHE to another"):
        toolchain.build(["int answer;"], Target("scalar", (), 16, 16), lambda line: None)


def test_two_processes_build_at_once(empty_cache: Path) -> None:
    code = (
        "from prunus.compiling import toolchain; "
        "toolchain.build(['int one;', 'int two;'], toolchain.Target('scalar', (), 16, 16), print); print('done')"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].splitlines()[-1] for process in running] == ["done"] * 3
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
