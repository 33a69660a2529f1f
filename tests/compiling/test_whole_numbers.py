"""Inputs of whole numbers: tokens that are looked up, images and masks that become floating point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import CompileError, ProgramError
from prunus.files import load_metadata

pytestmark = pytest.mark.usefixtures("one_thread")
BATCHES = (1, 3, 8, 21)


class Text(nn.Module):
    """Convolutions over looked up tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.first = nn.Embedding(100, 12, padding_idx=0), nn.Conv1d(12, 16, 3, padding=1)
        self.last = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.first(self.table(tokens).transpose(1, 2)).relu().amax(2))


class Images(nn.Module):
    """Scales images with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 4)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = (image.permute(0, 3, 1, 2).float() / 255 - self.mean) / 0.2
        return self.last(self.first(x).relu().mean((2, 3)))


def pruned(model: nn.Module) -> nn.Module:
    prunus.prune(model.eval(), 0.8)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tokens_are_looked_up(dtype: torch.dtype) -> None:
    model = pruned(Text()).to(dtype)
    program = prunus.compile(model, torch.randint(0, 100, (4, 20)))
    for batch in BATCHES:
        tokens = torch.randint(0, 100, (batch, 20))
        close = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(program(tokens), model(tokens).detach(), rtol=0, atol=close)
        arrays = program(tokens.numpy())
        assert isinstance(arrays, numpy.ndarray)
        assert arrays.dtype == (numpy.float32 if dtype == torch.float32 else numpy.float64)


@pytest.mark.parametrize("wrong", [-1, 100, 2**24, 2**31, 2**62])
@pytest.mark.parametrize("batch", [1, 9])
def test_a_token_that_is_none_is_refused(wrong: int, batch: int) -> None:
    model = Text().eval()
    program = prunus.compile(model, torch.randint(0, 100, (4, 20)), tune=False)
    tokens = torch.randint(0, 100, (batch, 20))
    before = program(tokens)
    worse = tokens.clone()
    worse[batch - 1, 7] = wrong
    with pytest.raises(IndexError):
        model(worse)
    with pytest.raises(ProgramError, match=r"layer 'table' was to look up a row that its table does not have"):
        program(worse)
    assert torch.equal(program(tokens), before)


def test_images_of_bytes_are_scaled() -> None:
    model = pruned(Images())
    program = prunus.compile(model, torch.zeros(2, 24, 32, 3, dtype=torch.uint8))
    for batch in BATCHES:
        images = torch.randint(0, 256, (batch, 24, 32, 3), dtype=torch.uint8)
        torch.testing.assert_close(program(images), model(images).detach(), rtol=0, atol=1e-5)


CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda x: x.float() * 2,
    "divided": lambda x: x / 4,
    "scaled": lambda x: x * 0.5,
    "type_as": lambda x: x.type_as(torch.ones(1)) + 1,
    "of a type": lambda x: torch.ones(5, dtype=torch.int64).type_as(x.float()) * x.float(),
    "joined": lambda x: torch.cat([x, x.flip(1)], 1)[:, ::3].to(torch.float32),
    "same": lambda x: x.to(x.dtype).float(),
}


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
@pytest.mark.parametrize("name", CASTS)
def test_whole_numbers_of_each_kind_become_floating_point(name: str, kind: torch.dtype) -> None:
    function = CASTS[name]

    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    program = prunus.compile(Cast(), torch.ones(2, 5, dtype=kind), tune=False)
    limits = (0, 1) if kind == torch.bool else (torch.iinfo(kind).min, torch.iinfo(kind).max)
    for batch in (1, 19):
        numbers = torch.randint(0, 100, (batch, 5)).to(kind)
        numbers[0, :2] = torch.tensor(limits).to(kind)
        torch.testing.assert_close(program(numbers), function(numbers), rtol=1e-6, atol=0)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "sum": (lambda x: (x + 1).float(), "add .* computes with whole numbers"),
    "wraps": (lambda x: (x * 2).float(), "mul .* computes with whole numbers"),
    "reduction": (lambda x: x.sum(1).float(), "sum .* computes with whole numbers"),
    "narrowed": (lambda x: x.to(torch.uint8).float(), "makes other than floating point numbers"),
    "floor": (lambda x: x.float().to(torch.int64).float(), "makes other than floating point numbers"),
    "output": (lambda x: x.flip(1), "an output of the model is of whole numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_computes_with_whole_numbers_is_refused(name: str) -> None:
    function, why = REFUSED[name]

    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    with pytest.raises(CompileError, match=why):
        prunus.compile(Whole(), torch.ones(2, 5, dtype=torch.int64), tune=False)


def test_another_type_is_asked_for() -> None:
    program = prunus.compile(Text().eval(), torch.randint(0, 100, (4, 20)), tune=False)
    for value, kind in (
        (torch.zeros(2, 20), r"torch\.float32"),
        (torch.zeros(2, 20, dtype=torch.int32), r"torch\.int32"),
    ):
        with pytest.raises(ProgramError, match=rf"input 'tokens' must be of torch\.int64, got {kind}"):
            program(value)


def test_a_program_that_takes_tokens_is_kept_in_a_file(tmp_path: Path) -> None:
    model, tokens = Text().eval(), torch.randint(0, 100, (4, 20))
    program = prunus.compile(model, tokens)
    program.save(tmp_path / "text.program")
    again = prunus.load(tmp_path / "text.program", expect=prunus.Program)
    assert torch.equal(again(tokens), program(tokens))
    assert '"prunus program 3"' in load_metadata(tmp_path / "text.program")["program"]
    other = prunus.compile(nn.Linear(3, 2), torch.zeros(2, 3), tune=False)
    other.save(tmp_path / "linear.program")
    assert '"prunus program 2"' in load_metadata(tmp_path / "linear.program")["program"]


class Both(nn.Module):
    """Takes tokens and numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.last = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor, numbers: Tensor) -> Tensor:
        return self.last(self.table(tokens).sum(1) + numbers)


def test_outputs_are_of_the_type_of_the_first_floating_point_input() -> None:
    model = Both().eval()
    tokens, numbers = torch.randint(0, 10, (5, 3)), torch.randn(5, 4)
    program = prunus.compile(model, (tokens, numbers))
    torch.testing.assert_close(program(tokens, numbers), model(tokens, numbers).detach(), rtol=0, atol=1e-5)
    assert program(tokens, numbers.half()).dtype == torch.float16
    assert program(tokens.numpy(), numbers.numpy().astype(numpy.float16)).dtype == numpy.float16


def test_c_for_microcontrollers_takes_floating_point_only(tmp_path: Path) -> None:
    with pytest.raises(prunus.ExportError, match="the input 'tokens' is of whole numbers"):
        prunus.export(Text().eval(), tmp_path / "text.c", torch.randint(0, 100, (1, 20)))
    assert not list(tmp_path.iterdir())
