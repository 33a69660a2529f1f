"""Models with more than a program can do: parts become programs, the rest stays in PyTorch, outputs stay the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import prunus
from counting import Counting
from prunus.compiling import MixedProgram
from prunus.errors import CompileError, ProgramError
from sparse_models import sparse
from zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")


class Attentive(nn.Module):
    """A convolution, attention over its places, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.mix, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 5)
        self.start = nn.Parameter(torch.randn(1, 1, 16))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.first(x).relu().flatten(2).transpose(1, 2)
        y = torch.cat([self.start.expand(y.shape[0], -1, -1), y], 1)
        query, key, value = self.mix(y).chunk(3, -1)
        y = y + self.out(nn.functional.scaled_dot_product_attention(query, key, value))
        return {"scores": self.head(y.mean(1))}


def apart(one: object, other: object) -> float:
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return max(
        float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-6))
        for a, b in pairs
        if isinstance(b, Tensor)
    )


def test_what_a_program_can_not_do_stays_in_pytorch_only_when_asked() -> None:
    model, x = sparse(Attentive(), 0.7).eval(), torch.randn(4, 3, 8, 8)
    with pytest.raises(CompileError, match="scaled_dot_product_attention at"):
        prunus.compile(model, x)
    program = prunus.compile(model, x, fallback=True)
    assert isinstance(program, MixedProgram)
    assert program.difference is not None
    assert program.difference < 1e-4
    for samples in (1, 2, 4, 37):
        inputs = torch.randn(samples, 3, 8, 8)
        assert apart(program(inputs), model(inputs)) < 1e-5
        assert apart(program(x=inputs), model(x=inputs)) < 1e-5
    assert program(x)["scores"].requires_grad is False


def test_its_parts_tell_why_they_are_no_programs() -> None:
    program = prunus.compile(sparse(Attentive(), 0.7), torch.randn(2, 3, 8, 8), fallback=True)
    assert isinstance(program, MixedProgram)
    told = {part.name: part for part in program.parts}
    assert [name for name, part in told.items() if part.program] == ["program_1", "program_2"]
    assert all(bool(part.program) != bool(part.why) for part in program.parts)
    attention = next(part for part in program.parts if "scaled_dot_product_attention" in part.operations)
    assert attention.why == "scaled_dot_product_attention: prunus.compile doesn't know it"
    profile = program.profile(torch.randn(5, 3, 8, 8))
    assert profile.samples == 5
    assert [time.part for time in profile.times] == list(program.parts)
    assert sum(time.share for time in profile.times) == pytest.approx(1)
    assert all(time.microseconds > 0 for time in profile.times)
    lines = str(profile).splitlines()
    assert any(line.startswith("program_1") and "conv2d" in line for line in lines)


def test_the_model_is_copied_and_left_as_it_was() -> None:
    model, x = Attentive().eval(), torch.randn(3, 3, 8, 8)
    expected = model(x)["scores"]
    program = prunus.compile(model, x, fallback=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert apart(program(x)["scores"], expected) < 1e-5


def test_a_model_that_a_program_can_compute_is_one() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    assert isinstance(prunus.compile(model, torch.randn(2, 4), fallback=True), prunus.Program)


@pytest.mark.parametrize("name", ["multihead-attention", "grouped-query-rotary", "swin", "cnn-3d", "lstm", "hf-gpt2"])
def test_networks_of_many_kinds(name: str) -> None:
    case = ZOO[name]
    model = case.make().eval()
    program = prunus.compile(model, case.example_inputs, fallback=True, tune=False)
    assert isinstance(program, MixedProgram)
    for samples in (1, 5):
        args, kwargs = case.arguments(samples)
        with torch.no_grad():
            assert apart(program(*args, **kwargs), model(*args, **kwargs)) < 1e-4


class OnlyAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


class InTraining(nn.Module):
    """Normalises by the batch whatever its mode is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        mean, variance = norm.running_mean, norm.running_var
        return nn.functional.batch_norm(self.layer(x), mean, variance, norm.weight, norm.bias, training=True)


def test_where_no_part_can_be_a_program_that_is_an_error() -> None:
    with pytest.raises(CompileError, match="no part of the model can become a program: scaled_dot_product_attention"):
        prunus.compile(OnlyAttention(), torch.randn(2, 3, 4), fallback=True)
    with pytest.raises(CompileError, match=r"batch_norm at .*: it is in training mode"):
        prunus.compile(InTraining(), torch.randn(3, 4), fallback=True)
    with pytest.raises(TypeError, match="fallback must be True or False, got 1"):
        prunus.compile(Attentive(), torch.randn(2, 3, 8, 8), fallback=1)  # type: ignore[call-overload]


def test_inputs_that_do_not_fit_are_refused() -> None:
    program = prunus.compile(Attentive(), torch.randn(2, 3, 8, 8), fallback=True)
    for wrong in (torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8).double(), torch.tensor(1.0)):
        with pytest.raises(
            ProgramError, match=r"input 'x' must be of the shape \(batch, 3, 8, 8\) and of torch.float32"
        ):
            program(wrong)
    with pytest.raises(TypeError, match="takes the inputs x, got 0, 1"):
        program(torch.randn(2, 3, 8, 8), torch.randn(2))
    with pytest.raises(TypeError, match="takes the inputs x, got y"):
        program(y=torch.randn(2, 3, 8, 8))
    with pytest.raises(TypeError, match="inputs must be tensors, got list"):
        program([1.0])


class Pinned(Attentive):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x.view(2, 3, 8, 8))


def test_a_batch_that_the_code_holds_is_the_only_one() -> None:
    model, x = Pinned().eval(), torch.randn(2, 3, 8, 8)
    program = prunus.compile(model, x, fallback=True)
    assert program.fixed_batch == 2
    assert apart(program(x), model(x)) < 1e-5
    with pytest.raises(ProgramError, match=r"inputs must be of 2 samples only, got \[3\]"):
        program(torch.randn(3, 3, 8, 8))


def test_a_model_that_changes_itself_is_refused() -> None:
    with pytest.raises(CompileError, match=r"add at .*: it changes a parameter or a buffer"):
        prunus.compile(Counting(), torch.randn(2, 4))


class Sized(nn.Module):
    """Computes with the number of samples, and gives what is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, object]:
        batch = x.shape[0]
        count = torch.zeros(batch).cumsum(0)
        y = x.flatten(0, 1).view(batch * 5, 8).relu()
        return {"y": self.layer(y).cumsum(1), "count": count, "width": x.shape[2]}


def test_sizes_and_outputs_that_are_no_tensors() -> None:
    model, x = Sized().eval(), torch.randn(3, 5, 8)
    program = prunus.compile(model, x, fallback=True)
    assert isinstance(program, MixedProgram)
    for samples in (1, 3, 4):
        inputs = torch.randn(samples, 5, 8)
        found, expected = program(inputs), model(inputs)
        assert apart(found["y"], expected["y"]) < 1e-5
        assert found["width"] == 8


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).cumsum(1) + 1e-7 * torch.rand(4)


def test_random_numbers_are_drawn_in_each_call() -> None:
    x = torch.randn(2, 4)
    program = prunus.compile(Noisy(), x, fallback=True)
    assert not torch.equal(program(x), program(x))
