"""The C compiler: which one, what it builds for, and libraries built by it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prunus.compiling import cache
from prunus.errors import CompileError
from prunus.machine import machine

# For how long a compiler may take over one library, in seconds.
_PATIENCE = 600

# For all that is built.
FLAGS = ("-std=gnu99", "-O2", "-fno-math-errno", "-ffp-contract=fast", "-fPIC", "-pthread", "-w")

# name -> (flags, macro that the compiler then defines, bytes of a vector register, how many there are)
_KINDS = {
    "avx512": (("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx2", "-mfma"), "__AVX512F__", 64, 32),
    "avx2": (("-mavx2", "-mfma"), "__AVX2__", 32, 16),
    "sse": (("-msse2",), "__SSE2__", 16, 16),
    "neon": ((), "__ARM_NEON", 16, 32),
    "scalar": ((), "", 16, 16),
}
TARGETS = ("native", *_KINDS)


class MissingCompilerError(CompileError):
    """There is no C compiler that works; the message says how to get one."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler: the command that starts it, and what it calls itself."""

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Target:
    """What is built for.

    Attributes:
        name: of the kind of vector instructions.
        flags: that tell the compiler.
        bytes: of a vector register.
        registers: how many there are.
    """

    name: str
    flags: tuple[str, ...]
    bytes: int
    registers: int


def compiler() -> Compiler:
    """Return the C compiler: that which ``CC`` names, else cc, gcc or clang, else the one in the ziglang package.

    Raises:
        MissingCompilerError: there is none, or ``CC`` names one that doesn't start.
    """
    return _compiler(os.environ.get("CC", ""), os.environ.get("PATH", ""))


@functools.lru_cache(maxsize=8)
def _compiler(named: str, path: str) -> Compiler:
    if named:
        candidate = _started(tuple(shlex.split(named)))
        if candidate is None:
            raise MissingCompilerError(
                f"the C compiler that CC names, {named!r}, can't be started, or can't tell its version; set CC to "
                "another, or unset it"
            )
        return candidate
    for name in ("cc", "gcc", "clang"):
        candidate = _started((name,)) if shutil.which(name, path=path) else None
        if candidate is not None:
            return candidate
    if importlib.util.find_spec("ziglang") is not None:
        candidate = _started((sys.executable, "-m", "ziglang", "cc"))
        if candidate is not None:
            return candidate
    raise MissingCompilerError(
        "prunus.compile needs a C compiler and found none (CC is not set, and there is no cc, gcc or clang); install "
        "one, such as Debian's package gcc or Apple's command line tools, or: pip install 'prunus[compile]'"
    )


def _started(command: tuple[str, ...]) -> Compiler | None:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return Compiler(command, lines[0].strip()) if done.returncode == 0 and lines else None


def target(name: str = "native") -> Target:
    """Return what to build for: this machine, or a named kind of vector instructions; a compiler is asked once.

    Raises:
        ValueError: there is no such target.
        CompileError: the compiler can't build for it.
    """
    if name not in TARGETS:
        from prunus.registry import unknown_name

        raise unknown_name("target", name, TARGETS)
    path = cache.private_folder() / f"target-{_key(name)}.json"
    with contextlib.suppress(ValueError, KeyError, TypeError):
        kind, flags = json.loads(cache.read(path) or b"null")
        if name in ("native", kind) and all(isinstance(flag, str) for flag in flags):
            return Target(kind, tuple(flags), *_KINDS[kind][2:])
    wanted = _found_target(name)
    cache.write(path, json.dumps([wanted.name, wanted.flags]).encode())
    return wanted


def _found_target(name: str) -> Target:
    host = compiler()
    if name != "native":
        flags, macro, size, registers = _KINDS[name]
        if macro and not (macro in _macros(host, flags) and macro in _native(host)[1]):
            raise CompileError(
                f"target {name!r} can't be used: the compiler {host.version!r} doesn't know it, or this machine can't "
                "run it; leave target out to build for this machine"
            )
        return Target(name, flags, size, registers)
    native, macros = _native(host)
    kind = next((kind for kind, (_, macro, *_) in _KINDS.items() if not macro or macro in macros), "scalar")
    return Target(kind, native, *_KINDS[kind][2:])


def portable(wanted: Target) -> Target:
    """Return the same kind of vector instructions for any machine that has them, not for this one alone."""
    return Target(wanted.name, _KINDS[wanted.name][0], wanted.bytes, wanted.registers)


def _native(host: Compiler) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the flags that build for this machine, and the macros that are defined then.

    Raises:
        MissingCompilerError: the compiler takes none.
    """
    for native in (("-march=native",), ("-mcpu=native",), ()):
        macros = _macros(host, native)
        if macros:
            return native, macros
    raise MissingCompilerError(f"the C compiler {host.version!r} can't compile an empty file; set CC to one that can")


@functools.lru_cache(maxsize=64)
def _macros(host: Compiler, flags: tuple[str, ...]) -> frozenset[str]:
    """Return the macros that a compiler defines for some flags: empty where it refuses them."""
    done = subprocess.run(
        [*host.command, *flags, "-dM", "-E", "-x", "c", os.devnull],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        return frozenset()
    return frozenset(line.split()[1] for line in done.stdout.splitlines() if line.startswith("#define"))


def build(texts: Sequence[str], wanted: Target, say: Callable[[str], None]) -> list[ctypes.CDLL]:
    """Build C into libraries and load them, or load those that were built from the same texts before.

    A compiler is needed only for what has not been built. Two processes may build the same at once: each writes a file
    of its own, and puts it in place whole.

    Args:
        texts: one for each library.
        wanted: what is built for.
        say: called with a line of text as each has been built.

    Raises:
        MissingCompilerError: there is no compiler.
        CompileError: the compiler refuses a text, or the cache can't be written or loaded from.
    """
    folder = cache.private_folder()
    paths = [folder / f"{_key(text, *wanted.flags, *FLAGS)}.so" for text in texts]
    kept = [_kept(path) for path in paths]
    missing = [number for number, library in enumerate(kept) if library is None]
    if missing:
        host = compiler()
        say(f"building kernels for this machine, once: 0 of {len(texts)}")
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # the compiler is a process of its own
            contents = pool.map(lambda number: _compile(texts[number], host, wanted, folder), missing)
            for done, (number, content) in enumerate(
                zip(missing, contents, strict=True), start=len(texts) - len(missing) + 1
            ):
                cache.write_library(paths[number], content)
                kept[number] = _loaded_or_refused(content, paths[number])
                say(f"building kernels for this machine, once: {done} of {len(texts)}")
    return [library for library in kept if library is not None]


def _kept(path: Path) -> ctypes.CDLL | None:
    """Return a library that was built before; what can't be loaded is built anew."""
    content = cache.read_library(path)
    if content is not None:
        with contextlib.suppress(OSError):
            return _load(content, path)
    return None


def _loaded_or_refused(content: bytes, path: Path) -> ctypes.CDLL:
    try:
        return _load(content, path)
    except OSError as error:
        raise CompileError(
            f"the built kernels {str(path)!r} can't be loaded ({error}); if no programs may run from that folder, set "
            "PRUNUS_CACHE to another"
        ) from error


def _key(*parts: str) -> str:
    """Return a name for what is built from some parts on this machine: others may share the cache."""
    text = "\0".join([*parts, *own_flags(), platform.machine(), _features()])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


@functools.lru_cache(maxsize=1)
def _features() -> str:
    """Return what tells the processor's instructions from those of others of its name, without a compiler."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("flags", "Features", "CPU implementer", "CPU part", "model", "cpu family", "vendor_id")
        return "\n".join(sorted({line for line in lines if line.partition(":")[0].strip() in wanted}))
    return machine().processor


# (where a library is kept, SHA-256) -> the library: it is loaded once in a process, as its threads are made once.
_loaded: dict[tuple[Path, str], ctypes.CDLL] = {}


def _load(content: bytes, path: Path) -> ctypes.CDLL:
    """Load a library's content from a copy that nothing else knows of: what was checked is what is loaded."""
    key = path, hashlib.sha256(content).hexdigest()
    if key not in _loaded:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".load-", ignore_cleanup_errors=True) as folder:
            copy = Path(folder) / path.name
            copy.write_bytes(content)
            _loaded[key] = ctypes.CDLL(str(copy))
    return _loaded[key]


def own_flags() -> list[str]:
    """Return the flags that the user adds for every C program, as make and its kin do."""
    return shlex.split(os.environ.get("CFLAGS", ""))


def _compile(text: str, host: Compiler, wanted: Target, where: Path) -> bytes:
    try:
        folder_of_build = tempfile.TemporaryDirectory(dir=where, prefix=".build-")
    except OSError as error:
        raise cache.unusable(where, error) from error
    with folder_of_build as folder:
        source = Path(folder) / "kernels.c"
        source.write_text(text, encoding="utf-8")
        built = Path(folder) / "kernels.so"
        flags = (*FLAGS, "-shared", *wanted.flags, *own_flags())
        run(host, [*flags, "-o", str(built), str(source), "-lm"], "the kernels", built)
        return built.read_bytes()


def run(host: Compiler, arguments: Sequence[str], what: str, makes: Path, folder: Path | None = None) -> None:
    """Run the compiler.

    Args:
        host: the compiler.
        arguments: it is given.
        what: it works on, in words.
        makes: the file that must be there when it is done.
        folder: where it runs; None: where this process does.

    Raises:
        CompileError: it fails, or takes too long.
    """
    command = [*host.command, *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"the C compiler took more than {_PATIENCE} s over {what}") from error
    if done.returncode != 0 or not makes.is_file():
        said = done.stderr.strip()[:2000] or f"exit code {done.returncode}"
        raise CompileError(f"the C compiler {host.version!r} can't build {what}: {said}")
