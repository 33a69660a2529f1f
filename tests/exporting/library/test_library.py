"""Programs outside Python: built into C and C++ programs, they compute what the model does."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import CompileError, ExportError
from prunus.exporting import library

pytestmark = pytest.mark.usefixtures("one_thread")

WAYS = {
    "c": ("main.c", ["cc", "-std=c99"]),
    "c++": ("main.cpp", ["c++", "-std=c++98"]),
}


def small() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 9, 5)).eval()
    prunus.prune(model, 0.8)
    return model


class Two(nn.Module):
    """Takes two inputs, gives two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = nn.Linear(6, 4), nn.Linear(3, 4)

    def forward(self, batch: Tensor, new: Tensor) -> dict[str, Tensor]:
        y = self.one(batch) + self.other(new)
        return {"sum": y, "softmax": y.softmax(1)}


@pytest.mark.parametrize("way", list(WAYS))
def test_a_program_of_another_language_computes_what_the_model_does(way: str, tmp_path: Path) -> None:
    name, command = WAYS[way]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    model, example = small(), torch.zeros(2, 3, 8, 8)
    facts = prunus.export(model, tmp_path / "net.so", example)
    assert facts.format == "so"
    assert facts.bytes == (tmp_path / "net.so").stat().st_size
    assert facts.difference is not None
    assert facts.difference < 1e-6
    (tmp_path / name).write_text(_MAIN)
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic-errors"]
    subprocess.run(
        [*command, *strict, name, "net.so", "-Wl,-rpath,.", "-o", "main"], cwd=tmp_path, check=True, timeout=300
    )
    for batch in (1, 5, 21):
        images = torch.randn(batch, 3, 8, 8)
        images.numpy().tofile(tmp_path / "images")
        subprocess.run(["./main", str(batch), "images", "outputs"], cwd=tmp_path, check=True, timeout=300)
        outputs = torch.from_numpy(numpy.fromfile(tmp_path / "outputs", dtype=numpy.float32)).reshape(batch, 5)
        assert torch.allclose(outputs, model(images), rtol=0, atol=1e-5)


_MAIN = """#include <stdio.h>
#include <stdlib.h>
#include "net.h"

int main(int count, char **words)
{
    struct net_program *program;
    const char *problem = net_create(&program, 2);
    size_t batch = count == 4 ? (size_t)atol(words[1]) : 0;
    size_t size = batch * net_input0_size, made = batch * net_output0_size;
    float *images = (float *)malloc(size * sizeof(float)), *logits = (float *)malloc(made * sizeof(float));
    const void *inputs[net_num_inputs];
    void *outputs[net_num_outputs];
    FILE *from = fopen(words[2], "rb"), *to = fopen(words[3], "wb");
    inputs[0] = images;
    outputs[0] = logits;
    if (!from || !to || fread(images, sizeof(float), size, from) != size) return 1;
    if (!problem) problem = net_run(program, inputs, outputs, (long)batch);
    if (problem) { puts(problem); return 2; }
    if (fwrite(logits, sizeof(float), made, to) != made) return 3;
    net_free(program);
    return fclose(to);
}
"""


def loaded(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def test_several_inputs_and_outputs_in_double_precision(tmp_path: Path) -> None:
    model = Two().double().eval()
    inputs = torch.randn(7, 6).double(), torch.randn(7, 3).double()
    program = prunus.compile(model, inputs)
    prunus.export(program, tmp_path / "two.so")
    header = (tmp_path / "two.h").read_text()
    assert " * inputs[0], batch_2: double[batch][6]\n * inputs[1], new_2: double[batch][3]\n" in header
    assert " * outputs[0], sum: double[batch][4]\n * outputs[1], softmax: double[batch][4]\n" in header
    outputs = library.run(loaded(tmp_path / "two.so"), "two", inputs, [(7, 4), (7, 4)], torch.float64)
    for one, other in zip(outputs, model(*inputs).values(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


class Tokens(nn.Module):
    """Looks up tokens, and scales images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.last = nn.Embedding(50, 6), nn.Linear(6, 4)

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        return self.last(self.table(tokens).mean(1) + image.float().mean((1, 2), keepdim=True)[:, 0] / 255)


def test_whole_numbers_are_taken(tmp_path: Path) -> None:
    model = Tokens().eval()
    inputs = torch.randint(0, 50, (21, 7)), torch.randint(0, 256, (21, 3, 3), dtype=torch.uint8)
    prunus.export(model, tmp_path / "net.so", inputs)
    header = (tmp_path / "net.h").read_text()
    assert " * inputs[0], tokens: int64_t[batch][7]\n * inputs[1], image: uint8_t[batch][3][3]\n" in header
    (outputs,) = library.run(loaded(tmp_path / "net.so"), "net", inputs, [(21, 4)])
    assert torch.allclose(outputs, model(*inputs), rtol=0, atol=1e-5)
    inputs[0][20, 6] = 50
    with pytest.raises(ExportError, match="none of a row of the table"):
        library.run(loaded(tmp_path / "net.so"), "net", inputs, [(21, 4)])


def test_a_program_from_a_file_is_exported(tmp_path: Path) -> None:
    model, images = small(), torch.randn(3, 3, 8, 8)
    prunus.compile(model, images).save(tmp_path / "net.program")
    facts = prunus.export(tmp_path / "net.program", tmp_path / "net.so")
    assert facts.state_bytes is None
    (outputs,) = library.run(loaded(tmp_path / "net.so"), "net", [images], [(3, 5)])
    assert torch.allclose(outputs, model(images), rtol=0, atol=1e-5)


def test_only_what_is_called_can_be_seen(tmp_path: Path) -> None:
    prunus.export(small(), tmp_path / "net.so", torch.zeros(2, 3, 8, 8))
    if shutil.which("nm") is None:
        pytest.skip("there is no nm")
    told = subprocess.run(
        ["nm", "-D", "--defined-only", "net.so"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
    )
    assert {line.split()[-1] for line in told.stdout.splitlines()} == {"net_create", "net_run", "net_free"}


def test_wrong_arguments_are_said_in_a_sentence(tmp_path: Path) -> None:
    prunus.export(small(), tmp_path / "net.so", torch.zeros(2, 3, 8, 8))
    net, program = loaded(tmp_path / "net.so"), ctypes.c_void_p()
    net.net_create.restype = net.net_run.restype = ctypes.c_char_p
    assert net.net_create(None, ctypes.c_long(1)).startswith(b"there is no place for the program")
    for threads in (0, -1, 1025):
        assert net.net_create(ctypes.byref(program), ctypes.c_long(threads)) == b"threads must be from 1 to 1024"
        assert program.value is None
    assert net.net_create(ctypes.byref(program), ctypes.c_long(1024)) is None
    numbers = (ctypes.c_float * 192)()
    arrays, none = (ctypes.c_void_p * 1)(ctypes.addressof(numbers)), (ctypes.c_void_p * 1)()
    calls: list[tuple[tuple[object, object, object, int], bytes | None]] = [
        ((None, arrays, arrays, 1), b"there is no program: net_create makes one"),
        ((program, arrays, arrays, -1), b"batch must not be negative"),
        ((program, None, arrays, 1), b"inputs and outputs must be arrays of pointers"),
        ((program, none, arrays, 1), b"a pointer of inputs is null"),
        ((program, arrays, none, 1), b"a pointer of outputs is null"),
        ((program, None, None, 0), None),
        ((program, arrays, arrays, 1), None),
    ]
    for (who, inputs, outputs, batch), expected in calls:
        assert net.net_run(who, inputs, outputs, ctypes.c_long(batch)) == expected
    net.net_free(program)
    net.net_free(None)


class Pinned(nn.Module):
    """Holds the number of samples."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.reshape(2, 12)).sum(1, keepdim=True)


def test_a_pinned_batch_is_asked_for(tmp_path: Path) -> None:
    program = prunus.compile(Pinned(), torch.randn(2, 3, 4))
    prunus.export(program, tmp_path / "net.so")
    assert "a batch of 2. " in (tmp_path / "net.h").read_text()
    with pytest.raises(ExportError, match="it takes batches of 2 only"):
        library.run(loaded(tmp_path / "net.so"), "net", [torch.zeros(3, 3, 4)], [(3, 1)])


def test_infinities_are_told_where_the_program_looks_for_them(tmp_path: Path) -> None:
    program = prunus.compile(small(), torch.zeros(2, 3, 8, 8), nonfinite="raise")
    prunus.export(program, tmp_path / "net.so")
    images = torch.zeros(2, 3, 8, 8)
    images[1, 0, 0, 0] = torch.inf
    with pytest.raises(ExportError, match="a layer was to read an infinity or NaN"):
        library.run(loaded(tmp_path / "net.so"), "net", [images], [(2, 5)])


def test_several_threads_each_have_a_program(tmp_path: Path) -> None:
    model, images = small(), torch.randn(4, 37, 3, 8, 8)
    prunus.export(model, tmp_path / "net.so", torch.zeros(2, 3, 8, 8))
    net = loaded(tmp_path / "net.so")
    outputs: dict[int, Tensor] = {}

    def work(number: int) -> None:
        for _ in range(20):
            (outputs[number],) = library.run(net, "net", [images[number]], [(37, 5)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in range(4):
        assert torch.allclose(outputs[number], model(images[number]), rtol=0, atol=1e-5)


def test_a_processor_without_the_instructions_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = prunus.compile(small(), torch.zeros(2, 3, 8, 8))
    if program._parts.target.name not in ("avx512", "avx2", "sse"):
        pytest.skip("only x86-64 processors are asked")
    monkeypatch.setitem(library._KINDS, program._parts.target.name, (("avx5124vnniw",), "what none has"))
    with pytest.raises(ExportError, match="this processor lacks what the program was built for: what none has"):
        prunus.export(program, tmp_path / "net.so")
    assert not list(tmp_path.iterdir())


def test_a_library_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "run", lambda *arguments: [torch.ones(shape) for shape in arguments[3]])
    with pytest.raises(ExportError, match="the library computes something else"):
        prunus.export(small(), tmp_path / "net.so", torch.zeros(2, 3, 8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda to: prunus.export(small(), to / "math.so", torch.zeros(2, 3, 8, 8)), ValueError, "math.h is the name"),
        (lambda to: prunus.export(small(), to / "net", torch.zeros(2, 3, 8, 8), format="so"), ValueError, "NAME.so"),
        (lambda to: prunus.export(small(), to / "два.so", torch.zeros(2, 3, 8, 8)), ValueError, "no letter or digit"),
        (lambda to: prunus.export(small(), to / "net.so"), ValueError, "give example_inputs"),
        (lambda to: prunus.export(3, to / "net.so"), TypeError, "a Program or a file, got int"),
        (lambda to: prunus.export(nn.Hardshrink(), to / "net.so", torch.zeros(2, 3)), CompileError, "hardshrink"),
        (
            lambda to: prunus.export(
                prunus.compile(nn.Sequential(nn.Linear(3, 3), nn.Hardshrink()), torch.zeros(2, 3), fallback=True),
                to / "net.so",
            ),
            TypeError,
            "parts that stay in PyTorch",
        ),
        (
            lambda to: prunus.export(
                prunus.compile(small(), torch.zeros(2, 3, 8, 8)), to / "net.so", torch.zeros(2, 3, 8, 8)
            ),
            ValueError,
            "leave out example_inputs",
        ),
        (
            lambda to: prunus.export(prunus.compile(small(), torch.zeros(2, 3, 8, 8)), to / "net.onnx"),
            TypeError,
            "as a library, such as net.so",
        ),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    call: Callable[[Path], object], error: type[Exception], match: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=match):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = prunus.compile(small(), torch.zeros(2, 3, 8, 8))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompileError, match="no-such-compiler"):
        prunus.export(program, tmp_path / "net.so")
    assert not list(tmp_path.iterdir())


def test_a_library_that_was_closed_leaves_its_threads_in_peace(tmp_path: Path) -> None:
    prunus.export(prunus.compile(small(), torch.zeros(2, 3, 8, 8), threads=2), tmp_path / "net.so")
    if shutil.which("cc") is None:
        pytest.skip("there is no cc")
    (tmp_path / "main.c").write_text(_CLOSES)
    subprocess.run(["cc", "main.c", "-o", "main", "-ldl"], cwd=tmp_path, check=True, timeout=300)
    subprocess.run(["./main"], cwd=tmp_path, check=True, timeout=300)


_CLOSES = """#include <dlfcn.h>
#include <unistd.h>
#include "net.h"

static float images[64 * net_input0_size], logits[64 * net_output0_size];

int main(void)
{
    void *library = dlopen("./net.so", RTLD_NOW);
    if (!library) return 1;
    const char *(*create)(struct net_program **, long) = dlsym(library, "net_create");
    const char *(*run)(struct net_program *, const void *const *, void *const *, long) = dlsym(library, "net_run");
    void (*give_back)(struct net_program *) = dlsym(library, "net_free");
    struct net_program *program;
    const void *inputs[] = {images};
    void *outputs[] = {logits};
    if (create(&program, 2) || run(program, inputs, outputs, 64)) return 2;
    give_back(program);
    dlclose(library);
    usleep(50000);
    return 0;
}
"""
