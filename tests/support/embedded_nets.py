"""Nets for the tests of C for microcontrollers, and what builds and runs them."""

from __future__ import annotations

import functools
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunus.compiling.toolchain import Compiler
from prunus.exporting.c import checking
from prunus.exporting.c.source import CSource

COMPILERS = ("gcc", "clang")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@functools.cache
def why_not(name: str) -> str | None:
    """Return why a compiler can't build a program with sanitizers; None where it can."""
    if shutil.which(name) is None:
        return f"there is no {name}"
    command = [name, *SANITIZE, "-x", "c", "-", "-o", "/dev/null"]
    done = subprocess.run(command, input="int main(void) { return 0; }", capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"{name} can't build with sanitizers: {done.stderr[:200]}"


def run(source: CSource, inputs: tuple[Tensor, ...], compiler: str) -> list[np.ndarray]:
    """Return what a net built strictly and with sanitizers computes, an array of (samples, numbers) an output."""
    reason = why_not(compiler)
    if reason is not None:
        pytest.skip(reason)
    arrays = [value.numpy().reshape(len(value), -1) for value in inputs]
    ran = checking.run(source, arrays, Compiler((compiler,), compiler), (*STRICT, *SANITIZE))
    assert ran.outputs is not None
    return ran.outputs


def holed(model: nn.Module, sparsity: float, seed: int = 1) -> nn.Module:
    """Make so many of a model's weights zero, at random; in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter[torch.rand(parameter.shape, generator=generator) < sparsity] = 0
    return model


def same(found: np.ndarray, expected: Tensor, limit: float = 1e-5) -> None:
    """Assert that numbers are the expected, but for so much of the largest."""
    wide = expected.detach().double().numpy().reshape(found.shape)
    assert np.isfinite(wide).all()
    assert np.abs(found - wide).max() <= limit * np.abs(wide).max()


def draw(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
