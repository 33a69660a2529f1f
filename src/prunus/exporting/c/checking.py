"""C files built and run: they must compute what the model does; and how large the code is."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from prunus.compiling.toolchain import Compiler
from prunus.errors import CompileError
from prunus.exporting.c.source import CSource

# As a user of a microcontroller builds: strictly the language, for size.
FLAGS = ("-std=c99", "-pedantic-errors", "-Os", "-fno-asynchronous-unwind-tables")

# For how long the compiler, and the program on a few samples, may take, in seconds.
_PATIENCE = 600

Arrays = Sequence[NDArray[numpy.float32]]


@dataclass(frozen=True)
class Ran:
    """What a built net computed.

    Attributes:
        outputs: for each output (samples, numbers); None where what was built can't run on this machine.
        code_bytes: of the built functions, without the constants; None where the system has no `size`.
    """

    outputs: list[NDArray[numpy.float32]] | None
    code_bytes: int | None


def run(source: CSource, inputs: Arrays, compiler: Compiler, flags: Sequence[str] = FLAGS) -> Ran:
    """Build a net and compute samples with it, in a process of its own.

    Args:
        source: the net.
        inputs: for each input (samples, numbers), float32.
        compiler: a C compiler for this machine.
        flags: it is given.

    Raises:
        CompileError: it refuses the net, or what was built fails.
    """
    with tempfile.TemporaryDirectory(prefix="prunus-c-") as name:
        folder = Path(name)
        write(source, folder)
        (folder / "main.c").write_text(_main(source), encoding="utf-8")
        program = "check.exe" if os.name == "nt" else "check"
        _call([*compiler.command, *flags, "-c", f"{source.stem}.c", "-o", "net.o"], folder)
        _call([*compiler.command, *flags, "main.c", "net.o", "-o", program, "-lm"], folder)
        code = _code_bytes(folder / "net.o", source)
        samples = [numpy.ascontiguousarray(array, dtype=numpy.float32).reshape(len(array), -1) for array in inputs]
        numpy.concatenate(samples, axis=1).tofile(folder / "inputs")
        try:
            _call([str(folder / program), "inputs", "outputs"], folder)
        except OSError:
            return Ran(None, code)
        numbers = numpy.fromfile(folder / "outputs", dtype=numpy.float32)
    rows = numbers.reshape(len(samples[0]), -1)
    ends = numpy.cumsum(list(source.outputs.values()))[:-1]
    return Ran(numpy.split(rows, ends, axis=1), code)


def write(source: CSource, folder: Path) -> None:
    """Write both files into a folder."""
    (folder / f"{source.stem}.c").write_text(source.source, encoding="utf-8")
    (folder / f"{source.stem}.h").write_text(source.header, encoding="utf-8")


def _call(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{' '.join(command)} took more than {_PATIENCE} s over the C that was written") from error
    if done.returncode != 0:
        said = done.stderr.strip()[:2000]
        raise CompileError(f"{' '.join(command)} fails on the C that was written: {said or done.returncode}")


def _code_bytes(built: Path, source: CSource) -> int | None:
    """Return what `size` counts as text, less the constants in it."""
    if shutil.which("size") is None:
        return None
    done = subprocess.run(["size", str(built)], capture_output=True, text=True, timeout=60, check=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    if done.returncode != 0 or len(lines) != 2 or lines[0][:3] != ["text", "data", "bss"]:
        return None
    return max(int(lines[1][0]) - source.constant_bytes, 0)


def _main(source: CSource) -> str:
    """Return a program that reads samples from one file and writes what the net makes of them to another."""
    names = [*source.inputs, *source.outputs]
    places = {name: f"array{number}" for number, name in enumerate(names)}
    arrays = "\n".join(f"static float {places[n]}[{size}];" for n, size in (source.inputs | source.outputs).items())
    reads = " && ".join(
        f"fread({places[n]}, sizeof(float), {size}, from) == {size}" for n, size in source.inputs.items()
    )
    writes = " && ".join(
        f"fwrite({places[n]}, sizeof(float), {size}, to) == {size}" for n, size in source.outputs.items()
    )
    return _MAIN.format(
        stem=source.stem,
        arrays=arrays,
        reads=reads,
        writes=writes,
        run=f"{source.name}_run({', '.join(places.values())})",
    )


_MAIN = """#include <stdio.h>
#include "{stem}.h"

{arrays}

int main(int count, char **names)
{{
    FILE *from, *to;
    if (count != 3 || !(from = fopen(names[1], "rb")) || !(to = fopen(names[2], "wb"))) return 1;
    while ({reads}) {{
        {run};
        if (!({writes})) return 2;
    }}
    return fclose(to) == 0 ? 0 : 3;
}}
"""
