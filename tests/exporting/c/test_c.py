"""C for microcontrollers, built by gcc and clang without a warning, run under sanitizers, held against PyTorch."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from embedded_nets import COMPILERS, STRICT, draw, holed, run, same, why_not
from prunus.exporting.c import translate
from prunus.exporting.c.checking import write
from prunus.lab import models
from zoo import ZOO
from zoo_case import randomise

pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.create(name)


def lenet5_caffe() -> nn.Module:
    model = model_of("lenet5-caffe")
    prunus.prune(model, 0.98)
    return model.eval()


def resnet20() -> nn.Module:
    return holed(randomise(model_of("resnet20"), seed=1), 0.95).eval()


def lenet() -> nn.Module:
    return holed(model_of("lenet"), 0.5).eval()


class Pools(nn.Module):
    """Windows that lie over each other, reach over the edge, or have gaps between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, (3, 5), stride=(2, 1), padding=(1, 4), dilation=(1, 2))
        self.second = nn.Conv2d(6, 8, 3, padding=2, dilation=2, groups=2)
        self.last = nn.Linear(8 * 3 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.leaky_relu(self.first(x), 0.2), 3, 2, padding=1)
        x = F.avg_pool2d(torch.tanh(self.second(x)), 2, 1, padding=1)
        return self.last(F.adaptive_avg_pool2d(x, (3, 4)).flatten(1))


class Views(nn.Module):
    """What only moves elements, in front of what reads them: nothing of it may be copied wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.odd = nn.Linear(5, 6)
        self.last = nn.Linear(4 * 6 * 6, 7)
        self.register_buffer("picked", torch.tensor([3, 0, 90, 91, 17]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.conv(x.flip(3)) + x.transpose(2, 3)
        picked = self.odd(x.flatten(1).index_select(1, self.picked))
        rows = x.permute(0, 2, 3, 1).flatten(1)
        return F.log_softmax(self.last(rows), 1), F.softmax(x, 1).amax(2), torch.cat([picked, x[:, 1, 2] * 2 - 1], 1)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet5-caffe at 98%": (lenet5_caffe, (1, 28, 28)),
    "lenet at 50%": (lenet, (1, 28, 28)),
    "resnet20 at 95%": (resnet20, (3, 16, 16)),
    "pools": (lambda: randomise(Pools(), 3).eval(), (2, 9, 11)),
    "pools at 70%": (lambda: holed(randomise(Pools(), 3), 0.7).eval(), (2, 9, 11)),
    "views": (lambda: holed(randomise(Views(), 4), 0.5).eval(), (4, 6, 6)),
    "mish": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Mish(), nn.Flatten(), nn.Linear(36, 4)).eval(), (2, 5, 6)),
    "transposed": (
        lambda: holed(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), nn.ConvTranspose2d(6, 2, 2)), 0.3),
        (4, 3, 5),
    ),
    "no weight left": (lambda: holed(randomise(Pools(), 3), 1.1).eval(), (2, 9, 11)),
}


BY_BOTH = ("lenet5-caffe at 98%", "pools at 70%", "views")


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_pytorch_does(name: str) -> None:
    make, shape = MODELS[name]
    model, inputs = make(), draw(3, *shape)
    with torch.no_grad():
        found = model(inputs)
    expected = found if isinstance(found, tuple) else (found,)
    source = translate(model, inputs[:1], "a net")
    every = COMPILERS if name in BY_BOTH else COMPILERS[:1]
    for compiler in every:
        for one, other in zip(run(source, (inputs,), compiler), expected, strict=True):
            same(one, other)


ZOO_NAMES = ["depthwise-separable", "shufflenet-v1", "densenet", "two-inputs", "dict-output", "mlp-mixer"]
ZOO_NAMES += ["group-norm-cnn", "convnext-block"]


@pytest.mark.parametrize("name", ZOO_NAMES)
def test_topologies(name: str) -> None:
    case = ZOO[name]
    sparsity = 0.8 if ZOO_NAMES.index(name) % 2 else 0.0
    model = holed(case.make(), sparsity)
    args, kwargs = case.arguments(3)
    with torch.no_grad():
        found = model(*args, **kwargs)
    expected = list(found.values()) if isinstance(found, dict) else [found]
    source = translate(model, case.example_inputs)
    assert list(source.outputs) == (list(found) if isinstance(found, dict) else ["output"])
    compiler = COMPILERS[ZOO_NAMES.index(name) // 2 % 2]
    for one, other in zip(run(source, (*args, *kwargs.values()), compiler), expected, strict=True):
        same(one, other)


@pytest.mark.parametrize("make", [lenet5_caffe, lenet], ids=["sparse", "denser"])
def test_weights_that_8_bits_hold_are_int8_and_others_float(make: Callable[[], nn.Module]) -> None:
    """Rounded here by PyTorch: to the nearest of 255 values from -max to max of each output channel."""
    model, inputs = make(), draw(3, 1, 28, 28)
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (each for each in rounded.modules() if isinstance(each, (nn.Conv2d, nn.Linear))):
            most = layer.weight.abs().flatten(1).amax(1).clamp(min=1e-30)
            scale = (most / 127).reshape(-1, *(1 for _ in layer.weight.shape[1:]))
            layer.weight.copy_((layer.weight / scale).round() * scale)
        expected = rounded(inputs)
    whole, plain = translate(rounded, inputs, in_8_bits=True), translate(rounded, inputs)
    same(run(whole, (inputs,), "gcc")[0], expected)
    assert "static const int8_t" in whole.source
    assert whole.constant_bytes < 0.7 * plain.constant_bytes
    floats = translate(model, inputs, in_8_bits=True)
    assert "static const int8_t" not in floats.source
    assert floats.constant_bytes == translate(model, inputs).constant_bytes


def test_the_bytes_told_are_those_that_the_linker_sees(tmp_path: Path) -> None:
    if why_not("gcc") is not None or shutil.which("size") is None:
        pytest.skip("it takes gcc and size")
    for in_8_bits in (False, True):
        source = translate(holed(model_of("lenet"), 0.9).eval(), draw(1, 1, 28, 28), "net", in_8_bits)
        write(source, tmp_path)
        subprocess.run(["gcc", *STRICT, "-Os", "-c", "net.c"], cwd=tmp_path, check=True)
        told = subprocess.run(["size", "net.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        text, data, bss = map(int, told.splitlines()[1].split()[:3])
        assert data == 0, "nothing has to be copied to RAM before it runs"
        assert bss - 64 < source.static_bytes <= bss, "but for what the alignment of arrays leaves free"
        assert source.constant_bytes < text < source.constant_bytes + 5000
        external = subprocess.run(
            ["nm", "-u", "net.o"], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout
        assert external.split() == [], "it calls nothing"


def test_cxx_takes_the_header(tmp_path: Path) -> None:
    case = ZOO["two-inputs"]
    source = translate(case.make(), case.example_inputs, "two inputs")
    write(source, tmp_path)
    if why_not("g++") is not None:
        pytest.skip("there is no g++")
    program = '#include "two inputs.h"\nint size = TWO_INPUTS_OUTPUT_SIZE + TWO_INPUTS_INPUT_IMAGE_SIZE;\n'
    (tmp_path / "user.cpp").write_text(program, encoding="utf-8")
    subprocess.run(["g++", "-Wall", "-Wextra", "-Werror", "-c", "user.cpp"], cwd=tmp_path, check=True)
    assert "void two_inputs_run(const float *image" in source.header


def test_memory_is_shared_and_a_sum_lies_where_its_summand_was() -> None:
    """By hand: the largest two neighbours of a chain, and in a residual block one value less than there are."""
    chain = nn.Sequential(
        nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 50), nn.Linear(50, 3)
    )
    assert translate(chain, draw(1, 10)).static_bytes == 4 * (50 + 30)
    case = ZOO["residual-identity"]
    source = translate(case.make(), case.example_inputs)
    planes = [line for line in source.source.splitlines() if "a value added" in line]
    assert planes, "the case has residual blocks"
    assert source.static_bytes == 4 * (2 * 16 * 12 * 12 + 16), "two values of 16x12x12, never three, and their means"
