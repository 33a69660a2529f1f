"""The cache of programs: what another user could have put there is never run, and what is damaged is built anew."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from prunus.compiling import cache, toolchain
from prunus.compiling.toolchain import Target
from prunus.errors import CompileError

TEXT = "int answer(void) { return 42; }"
TARGET = Target("scalar", (), 16, 16)
BUILDING = (
    "from prunus.compiling import toolchain; "
    f"(library,) = toolchain.build([{TEXT!r}], toolchain.{TARGET!r}, lambda line: None); print(library.answer())"
)

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners and modes of files")
superuser = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the superuser may give files away"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and no temporary folder left from another test."""
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_temporary_folders", {})
    return tmp_path / "cache"


@pytest.fixture
def planted(folder: Path, tmp_path: Path) -> tuple[Callable[[], None], Path]:
    """What puts a library that writes a file when it is loaded in the place of the program, and that file."""
    trace, source, library = tmp_path / "it-ran", tmp_path / "planted.c", tmp_path / "planted.so"
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void run(void) "
        f'{{ FILE *file = fopen("{trace}", "w"); if (file) fclose(file); }}\n'
    )
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        pytest.skip("there is no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    built()
    (program,) = folder.glob("*.so")

    def plant() -> None:
        program.write_bytes(library.read_bytes())
        content = library.read_bytes()
        program.with_suffix(".sha256").write_text(f"{len(content)} {hashlib.sha256(content).hexdigest()}\n")

    return plant, trace


def built() -> None:
    """Build a library, or load the one that was built before."""
    (library,) = toolchain.build([TEXT], TARGET, lambda line: None)
    assert library.answer() == 42


def test_the_fixture_plants_a_library_that_runs(planted: tuple[Callable[[], None], Path], folder: Path) -> None:
    plant, trace = planted
    plant()
    (program,) = folder.glob("*.so")
    code = f"import ctypes; ctypes.CDLL({str(program)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert trace.exists()


@posix
@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702, 0o1777])
def test_nothing_is_loaded_from_a_folder_that_others_may_write_to(
    mode: int, planted: tuple[Callable[[], None], Path], folder: Path
) -> None:
    plant, trace = planted
    plant()
    folder.chmod(mode)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.warns(RuntimeWarning, match=r"other users may write to .*PRUNUS_CACHE"):
        built()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built()  # it is said once
    assert not trace.exists()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert stat.S_IMODE(folder.stat().st_mode) == mode


@posix
@pytest.mark.parametrize("place", ["above", "two above"])
def test_nothing_is_loaded_where_others_may_swap_the_folder(
    place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "open" / "between" / "cache"
    (tmp_path / "open" / "between").mkdir(parents=True)
    (inner.parent if place == "above" else inner.parent.parent).chmod(0o777)
    monkeypatch.setenv("PRUNUS_CACHE", str(inner))
    with pytest.warns(RuntimeWarning, match="other users may write to"):
        built()
    assert not list(inner.iterdir())
    (tmp_path / "open").chmod(0o1777)  # sticky, as /tmp: only owners rename what lies there
    (tmp_path / "open" / "between").chmod(0o1777)
    built()
    assert list(inner.glob("*.so"))


@superuser
def test_nothing_is_loaded_from_a_folder_of_another_user(
    planted: tuple[Callable[[], None], Path], folder: Path
) -> None:
    plant, trace = planted
    plant()
    os.chown(folder, 12345, 12345)
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        built()
    assert not trace.exists()


@posix
def test_a_folder_is_safe_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    assert cache.why_unsafe(tmp_path / "mine") is None
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert "belongs to another user" in str(cache.why_unsafe(tmp_path / "mine"))


@posix
def test_a_link_to_a_folder_that_others_may_write_to(
    planted: tuple[Callable[[], None], Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, trace = planted
    plant()
    shared = tmp_path / "shared"
    folder.rename(shared)
    folder.symlink_to(shared)
    link_to_folder = folder
    shared.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="other users may write to"):
        built()
    assert not trace.exists()
    assert link_to_folder.is_symlink()


@posix
def test_a_link_of_ones_own_to_a_safe_folder_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    built()
    assert list((tmp_path / "elsewhere").glob("*.so"))


@superuser
@pytest.mark.parametrize("suffix", [".so", ".sha256"])
def test_a_file_of_another_user_is_not_loaded(
    suffix: str, planted: tuple[Callable[[], None], Path], folder: Path
) -> None:
    plant, trace = planted
    plant()
    (file,) = folder.glob(f"*{suffix}")
    os.chown(file, 12345, 12345)
    built()
    assert not trace.exists()
    assert file.stat().st_uid == 0


@superuser
def test_a_link_that_another_user_made_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    os.lchown(folder, 12345, 12345)
    with pytest.warns(RuntimeWarning, match="a link that another user made"):
        built()
    assert not list((tmp_path / "elsewhere").iterdir())


@posix
@pytest.mark.parametrize("suffix", [".so", ".sha256"])
def test_a_file_that_others_may_write_to_is_not_loaded(
    suffix: str, planted: tuple[Callable[[], None], Path], folder: Path
) -> None:
    plant, trace = planted
    plant()
    (file,) = folder.glob(f"*{suffix}")
    file.chmod(0o666)
    built()
    assert not trace.exists()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@posix
def test_a_link_in_the_place_of_a_library_is_not_followed(
    planted: tuple[Callable[[], None], Path], folder: Path, tmp_path: Path
) -> None:
    plant, trace = planted
    plant()
    (program,) = folder.glob("*.so")
    program.rename(tmp_path / "library")
    program.symlink_to(tmp_path / "library")
    built()
    assert not trace.exists()
    assert not program.is_symlink()


@posix
def test_a_pipe_in_the_place_of_a_library_does_not_wait(folder: Path) -> None:
    built()
    (program,) = folder.glob("*.so")
    program.unlink()
    os.mkfifo(program)
    built()
    assert program.is_file()


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "no seal", "empty seal", "garbage seal", "cut seal"])
def test_what_is_damaged_is_built_anew(damage: str, folder: Path) -> None:
    built()
    (program,) = folder.glob("*.so")
    seal, whole = program.with_suffix(".sha256"), program.read_bytes()
    if damage == "cut":
        program.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        program.write_bytes(b"")
    elif damage == "one bit":
        program.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    elif damage == "no seal":
        seal.unlink()
    else:
        seal.write_bytes(
            {"empty seal": b"", "garbage seal": os.urandom(200), "cut seal": seal.read_bytes()[:-9]}[damage]
        )
    if damage == "cut":  # in a process that has not loaded it
        done = subprocess.run([sys.executable, "-c", BUILDING], check=True, capture_output=True, text=True)
        assert done.stdout == "42\n"
    built()
    assert cache.read_library(program) == program.read_bytes()
    assert len(program.read_bytes()) > 5000


@posix
def test_what_it_makes_is_for_the_user_alone_whatever_the_umask(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = folder / "below" / "programs"
    monkeypatch.setenv("PRUNUS_CACHE", str(inner))
    before = os.umask(0)
    try:
        built()
    finally:
        os.umask(before)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in (folder, inner.parent, inner))
    assert {stat.S_IMODE(path.stat().st_mode) for path in inner.iterdir()} == {0o600}


@posix
def test_the_default_folder_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNUS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    programs = tmp_path / "prunus" / "programs"
    programs.mkdir(parents=True)
    programs.chmod(0o777)  # as a umask of 0 made it before
    built()
    assert stat.S_IMODE(programs.stat().st_mode) == 0o700
    assert list(programs.glob("*.so"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification has such a one ignored
    assert cache.cache_folder() == Path.home() / ".cache" / "prunus" / "programs"


@posix
def test_a_choice_of_kernels_that_others_could_have_written_is_not_read(folder: Path) -> None:
    remembered = cache.private_folder() / "choice.json"
    cache.write(remembered, b"[]")
    assert cache.read(remembered) == b"[]"
    remembered.chmod(0o606)
    assert cache.read(remembered) is None
    cache.write(remembered, b"{}")
    assert stat.S_IMODE(remembered.stat().st_mode) == 0o600


@posix
def test_where_no_folder_is_safe_nothing_is_built(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary").chmod(0o777)  # without the sticky bit, others could put a folder of theirs in its place
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with pytest.warns(RuntimeWarning), pytest.raises(CompileError, match="safe from other users"):
        built()


def test_a_temporary_folder_goes_with_its_process(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    (tmp_path / "temporary").mkdir(mode=0o700)
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run([sys.executable, "-c", BUILDING], check=True, capture_output=True, text=True, env=environment)
    assert done.stderr.count("RuntimeWarning") == 1
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    ("name", "members", "is_safe"),
    [
        ("own", [], True),
        ("own", ["own"], True),
        ("own", ["own", "another"], False),
        ("users", [], False),
        (None, [], False),
    ],
)
def test_a_folder_below_one_that_a_group_may_write_to(
    name: str | None, members: list[str], is_safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def group(number: int) -> SimpleNamespace:
        if name is None:
            raise KeyError(number)
        return SimpleNamespace(gr_name=name, gr_mem=members)

    (tmp_path / "open" / "cache").mkdir(parents=True, mode=0o700)
    (tmp_path / "open").chmod(0o770)
    monkeypatch.setattr("grp.getgrgid", group)
    monkeypatch.setattr("pwd.getpwuid", lambda number: SimpleNamespace(pw_name="own"))
    assert (cache.why_unsafe(tmp_path / "open" / "cache") is None) == is_safe


def test_a_forked_process_leaves_the_temporary_folder(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    cache._remove(tmp_path / "made", os.getpid() + 1)
    assert (tmp_path / "made").is_dir()
    cache._remove(tmp_path / "made", os.getpid())
    assert not (tmp_path / "made").exists()
