"""A model whose code holds the number of samples gives a program for that batch, or is refused; never a raw error."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.compiling import load_program
from prunus.errors import CompileError, ProgramError


class Pinned(nn.Module):
    """A convolution and a linear layer, with a batch written into the code between them."""

    def __init__(self, rearranged: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.rearranged = nn.Conv2d(1, 2, 3), nn.Linear(32, 3), rearranged

    def forward(self, images: Tensor) -> Tensor:
        """Return three numbers for each image."""
        head: Tensor = self.head(self.rearranged(self.conv(images).relu()))
        return head


PINNED: dict[str, Callable[[int], Callable[[Tensor], Tensor]]] = {
    "view": lambda batch: lambda x: x.view(batch, -1),
    "reshape": lambda batch: lambda x: x.reshape(batch, 32),
    "cat": lambda batch: lambda x: torch.cat([x.flatten(1)[:, :31], torch.ones(batch, 1)], 1),
}


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("name", PINNED)
def test_a_batch_in_the_code(name: str, batch: int, samples: int) -> None:
    model = Pinned(PINNED[name](batch)).eval()
    images = torch.randn(samples, 1, 6, 6)
    if samples != batch:
        with pytest.raises(ValueError, match=r"batch|can't be traced|can't run the example inputs"):
            prunus.compile(model, images, tune=False)
        return
    program = prunus.compile(model, images, tune=False)
    assert program.fixed_batch == batch
    torch.testing.assert_close(program(images), model(images).detach(), rtol=0, atol=1e-5)
    for other in (0, batch + 1):
        with pytest.raises(ProgramError, match=rf"takes batches of {batch} only, .*; got {other}"):
            program(torch.randn(other, 1, 6, 6))
    assert f"({batch}, 1, 6, 6)" in repr(program)


def test_one_sample_that_becomes_several_outputs_is_refused() -> None:
    model = Pinned(lambda x: x.flatten(1) + torch.ones(1, 32).expand(4, 32)).eval()
    with pytest.raises(CompileError, match="the batch is not its input's first dimension"):
        prunus.compile(model, torch.randn(1, 1, 6, 6), tune=False)
    assert prunus.compile(model, torch.randn(4, 1, 6, 6), tune=False).fixed_batch == 4


def test_a_fixed_batch_is_kept_in_the_file(tmp_path: Path) -> None:
    model, images = Pinned(PINNED["view"](2)).eval(), torch.randn(2, 1, 6, 6)
    prunus.compile(model, images, tune=False).save(tmp_path / "compiled.program")
    program = load_program(tmp_path / "compiled.program", tune=False)
    assert program.fixed_batch == 2
    torch.testing.assert_close(program(images), model(images).detach(), rtol=0, atol=1e-5)
    with pytest.raises(ProgramError, match="takes batches of 2 only"):
        program(torch.randn(3, 1, 6, 6))


class Unrolled(nn.Module):
    """Python's loop over the samples gives a graph of one batch, but the model takes any."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three numbers for each sample."""
        return torch.stack([self.head(sample[None])[0] for sample in x])


class Bounded(nn.Module):
    """Code that makes a Python number of how many samples there are, which a trace can't follow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three numbers for each sample."""
        sizes = torch.Size([int(x.shape[0]), 4])
        head: Tensor = self.head(x.reshape(sizes))
        return head


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_a_model_that_makes_a_number_of_its_batch_has_a_fixed_one(samples: int) -> None:
    model, inputs = Bounded().eval(), torch.randn(samples, 4)
    program = prunus.compile(model, inputs, tune=False)
    assert program.fixed_batch == samples
    torch.testing.assert_close(program(inputs), model(inputs).detach(), rtol=0, atol=1e-5)


def test_a_loop_over_samples_is_refused_in_words() -> None:
    with pytest.raises(CompileError, match=r"joins along the batch|the batch is not its input's first dimension"):
        prunus.compile(Unrolled().eval(), torch.randn(2, 4), tune=False)


class Even(nn.Module):
    """Takes batches of an even number of samples only."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the numbers as they are."""
        return x.view(x.shape[0] // 2, 2, -1).reshape(x.shape[0], -1) * 2


def test_a_batch_that_must_be_even_is_refused_in_words() -> None:
    with pytest.raises(CompileError, match=r"can't run a batch of \d+, but a program takes any"):
        prunus.compile(Even().eval(), torch.randn(2, 4), tune=False)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_c_computes_one_sample_of_a_fixed_batch(batch: int, tmp_path: Path) -> None:
    model = Pinned(PINNED["view"](batch)).eval()
    facts = prunus.export(model, tmp_path / "net.c", torch.randn(batch, 1, 6, 6))
    assert facts.difference is None or facts.difference < 1e-5
    assert re.search(r"_run\(", (tmp_path / "net.h").read_text())


def test_a_large_batch_in_the_code_is_refused_in_words() -> None:
    model = Pinned(PINNED["view"](65)).eval()
    with pytest.raises(CompileError, match=r"65 samples, more than the 64"):
        prunus.compile(model, torch.randn(65, 1, 6, 6), tune=False)


def test_code_that_mixes_samples_is_right_for_one() -> None:
    model, images = Pinned(lambda x: x.reshape(1, -1)[:, :32]).eval(), torch.randn(1, 1, 6, 6)
    program = prunus.compile(model, images, tune=False)
    assert program.fixed_batch == 1
    torch.testing.assert_close(program(images), model(images).detach(), rtol=0, atol=1e-5)
