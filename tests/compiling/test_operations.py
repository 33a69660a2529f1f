"""Operations that are made of others, against PyTorch: for single samples and for blocks, in both precisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.errors import CompileError

pytestmark = pytest.mark.usefixtures("one_thread")

SAME: dict[str, Callable[[Tensor], Tensor]] = {
    "bilinear, twice": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear, corners aligned": lambda x: F.interpolate(x, size=(13, 5), mode="bilinear", align_corners=True),
    "bilinear, half": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"),
    "bilinear, one row": lambda x: F.interpolate(x, size=(1, 20), mode="bilinear"),
    "bilinear, filtered": lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True),
    "bilinear, filtered, larger": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear", antialias=True),
    "bilinear, filtered, wider": lambda x: F.interpolate(x, scale_factor=(0.5, 1.7), mode="bilinear", antialias=True),
    "bilinear, a third": lambda x: F.interpolate(x, scale_factor=0.34, mode="bilinear"),
    "bicubic, filtered": lambda x: F.interpolate(x, scale_factor=(0.5, 1.7), mode="bicubic", antialias=True),
    "bicubic": lambda x: F.interpolate(x, size=(15, 17), mode="bicubic"),
    "linear": lambda x: F.interpolate(x[:, :, 0], scale_factor=1.7, mode="linear"),
    "nearest, exact": lambda x: F.interpolate(x, size=(13, 5), mode="nearest-exact"),
    "reflected": lambda x: F.pad(x, (2, 1, 3, 2), mode="reflect"),
    "replicated": lambda x: F.pad(x, (2, 1, 0, 2), mode="replicate"),
    "circular": lambda x: F.pad(x, (2, 1, 0, 2), mode="circular"),
    "selu": F.selu,
    "celu": F.celu,
    "celu of 2": lambda x: F.celu(x, 2.0),
    "log sigmoid": F.logsigmoid,
    "normalised": lambda x: F.normalize(x, dim=1),
    "normalised, flat": lambda x: F.normalize(x.flatten(1)),
    "norm of magnitudes": lambda x: x.norm(p=1, dim=(1, 2)),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True) + x,
    "variance": lambda x: x.var((2, 3)),
    "variance of all": lambda x: x.var((1, 2, 3)),
    "variance, biased": lambda x: x.var(2, unbiased=False, keepdim=True),
    "deviation": lambda x: x.std(1, correction=0),
    "deviation, flat": lambda x: x.flatten(1).std(1),
    "type of another": lambda x: torch.ones(9, dtype=torch.float16).type_as(x) * x,
}


def module(function: Callable[[Tensor], Tensor]) -> nn.Module:
    class Function(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return Function()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAME)
def test_it_is_what_pytorch_computes(name: str, dtype: torch.dtype) -> None:
    function = SAME[name]
    program = prunus.compile(module(function), torch.randn(2, 5, 9, 9, dtype=dtype), tune=False)
    close = 1e-5 if dtype == torch.float32 else 1e-12
    for batch in (1, 19):
        x = torch.randn(batch, 5, 9, 9, dtype=dtype) * 3
        torch.testing.assert_close(program(x), function(x), rtol=close, atol=3 * close)


@pytest.mark.parametrize("value", [0.0, -30.0, 30.0, 100.0, -100.0, 1e30, -1e30, torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("name", ["selu", "celu", "celu of 2", "log sigmoid"])
def test_special_numbers(name: str, value: float) -> None:
    function = SAME[name]
    program = prunus.compile(module(function), torch.zeros(2, 5), tune=False)
    for batch in (1, 19):
        x = torch.full((batch, 5), value)
        torch.testing.assert_close(program(x), function(x), rtol=1e-6, atol=1e-40, equal_nan=True)


@pytest.mark.parametrize("name", SAME)
def test_c_computes_the_same(name: str, tmp_path: Path) -> None:
    if name == "type of another":
        pytest.skip("nothing is left of it but a product")
    facts = prunus.export(module(SAME[name]), tmp_path / "net.c", torch.randn(2, 5, 9, 9))
    assert facts.difference is not None
    assert facts.difference < 1e-5


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "norm over the batch": (lambda x: x.norm(dim=0), "reduces over the batch"),
    "maximum norm": (lambda x: torch.linalg.vector_norm(x, torch.inf, dim=1), "first or second order"),
    "variance of one": (lambda x: x[:, :1].var(1, correction=2), "divides by 1 less 2"),
    "variance of all samples": (lambda x: x.var() + x, "reduces over the batch"),
    "negative alpha": (lambda x: F.celu(x, -1.5), "alpha above zero"),
    "many taps": (
        lambda x: F.interpolate(x.reshape(-1, 1, 5, 81), size=(5, 3), mode="bilinear", antialias=True),
        "a sum of .* inputs, more than 8",
    ),
}


@pytest.mark.filterwarnings("ignore:var")
@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_done_is_refused(name: str) -> None:
    function, why = REFUSED[name]
    with pytest.raises(CompileError, match=why):
        prunus.compile(module(function), torch.randn(2, 5, 9, 9), tune=False)


def test_all_that_is_unknown_is_told_at_once() -> None:
    function = module(lambda x: F.hardshrink(x) + F.hardshrink(x * 2) + x.cumsum(1))
    with pytest.raises(
        CompileError,
        match=r"doesn't know 2 operations: hardshrink at .* \(and 1 more\); cumsum at .*; .* with fallback=True",
    ):
        prunus.compile(function, torch.randn(2, 5), tune=False)
