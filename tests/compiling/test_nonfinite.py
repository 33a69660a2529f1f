"""Programs that look for infinities and NaN, which weights that are left out would hide; and what they compute in."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.compiling import load_program
from prunus.errors import CompileError, NonFiniteError

NOT_FINITE = [torch.inf, -torch.inf, torch.nan]


def half_empty(seed: int = 0) -> nn.Module:
    """A net of convolutions and linear layers, most of whose weights are zero, among them all of one input pixel."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5), nn.Tanh(),
        nn.Linear(5, 3),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (model[0], model[5]):
            layer.weight[torch.rand(layer.weight.shape) < 0.7] = 0
        model[0].weight[:, :, 0, 0] = 0
    return model.eval()


def images(batch: int = 11) -> Tensor:
    return torch.randn(batch, 1, 8, 8)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("sample", [0, 7, 8, 10])
def test_an_input_that_zeros_would_hide_is_refused(value: float, sample: int) -> None:
    model, inputs = half_empty(), images()
    inputs[sample, 0, 0, 0] = value  # only weights of zero read this corner
    assert bool(model(inputs)[sample].isnan().any())
    hidden = prunus.compile(model, images(), tune=False)
    assert bool(hidden(inputs).isfinite().all())
    program = prunus.compile(model, images(), tune=False, nonfinite="raise")
    with pytest.raises(NonFiniteError, match="what layer '0' reads is not finite"):
        program(inputs)
    with pytest.raises(NonFiniteError):
        program(inputs[sample].numpy()[None])
    torch.testing.assert_close(program(images() * 0 + 1), model(torch.ones_like(inputs)).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 9, 16, 19])
def test_finite_batches_of_any_size_pass(batch: int) -> None:
    """Lanes of a block without a sample hold no numbers that could be taken for infinities."""
    model = nn.Sequential(Reciprocal(), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)).eval()
    program = prunus.compile(model, images(), tune=False, nonfinite="raise")
    inputs = images(batch).abs() + 1
    torch.testing.assert_close(program(inputs), model(inputs).detach(), rtol=0, atol=1e-5)


class Reciprocal(nn.Module):
    """1 / x: infinite for the zeros of an empty lane."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the reciprocals."""
        return 1 / x


def test_an_overflow_within_the_net_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1e20, 0.0], [0.0, 1.0]]))
        model[1].weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    inputs = torch.tensor([[1e20, 1.0]])
    assert bool(model(inputs).isnan().all())
    assert bool(prunus.compile(model, torch.ones(1, 2), tune=False)(inputs).isfinite().all())
    with pytest.raises(NonFiniteError, match="what layer '1' reads"):
        prunus.compile(model, torch.ones(1, 2), tune=False, nonfinite="raise")(inputs)


@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_an_overflow_before_a_norm_is_not_folded_away(scale: float) -> None:
    """PyTorch's sum is infinite before the norm scales it; with the scale in the weights it would be small."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1e20)
        model[1].weight.fill_(scale)
    inputs = torch.full((1, 1, 2, 2), 1e25)
    assert not bool(model(inputs).isfinite().any())
    assert bool(prunus.compile(model, torch.ones(1, 1, 2, 2), tune=False)(inputs).isfinite().all())
    with pytest.raises(NonFiniteError, match="what layer '2' reads"):
        prunus.compile(model, torch.ones(1, 1, 2, 2), tune=False, nonfinite="raise")(inputs)
    only = prunus.compile(model[:2], torch.ones(1, 1, 2, 2), tune=False, nonfinite="raise")
    torch.testing.assert_close(only(inputs), model[:2](inputs).detach(), equal_nan=True)


def test_what_no_layer_with_weights_reads_comes_out_as_in_pytorch() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(x[:, :2]), x[:, 2:].relu()

    model, inputs = Beside().eval(), torch.tensor([[1.0, 2.0, torch.inf, torch.nan]])
    program = prunus.compile(model, torch.ones(1, 4), tune=False, nonfinite="raise")
    for found, expected in zip(program(inputs), model(inputs), strict=True):
        torch.testing.assert_close(found, expected.detach(), equal_nan=True)


def test_threads_that_share_steps_look_as_well() -> None:
    model, inputs = half_empty(), images(1)
    program = prunus.compile(model, inputs, tune=False, nonfinite="raise", threads=2)
    program._engine.set_share_steps(True)
    failures: list[BaseException] = []

    def call() -> None:
        for _ in range(20):
            program(images(1))
            bad = images(1)
            bad[0, 0, 0, 0] = torch.nan
            try:
                program(bad)
            except NonFiniteError:
                continue
            failures.append(AssertionError("a NaN was not seen"))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_it_is_kept_in_the_file_and_in_double(tmp_path: Path) -> None:
    model, inputs = half_empty().double(), images().double()
    program = prunus.compile(model, inputs, tune=False, nonfinite="raise")
    assert program.nonfinite == "raise"
    program.save(tmp_path / "compiled.program")
    again = load_program(tmp_path / "compiled.program", tune=False)
    assert again.nonfinite == "raise"
    torch.testing.assert_close(again(inputs), model(inputs).detach(), rtol=0, atol=1e-12)
    inputs[0, 0, 0, 0] = torch.inf
    with pytest.raises(NonFiniteError):
        again(inputs)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="nonfinite must be 'ignore' or 'raise', got 'check'"):
        prunus.compile(half_empty(), images(), nonfinite="check")


class Doubled(nn.Module):
    """A model without parameters, perhaps with buffers."""

    def __init__(self, buffer: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("factor", buffer)

    def forward(self, x: Tensor) -> Tensor:
        """Return twice the numbers, or them times a buffer."""
        return x * (2.0 if self.factor is None else self.factor)


@pytest.mark.parametrize(
    ("model", "example", "expected"),
    [
        (Doubled(), torch.randn(3, 4, dtype=torch.float64), torch.float64),
        (Doubled(), torch.randn(3, 4), torch.float32),
        (Doubled(), torch.randn(3, 4, dtype=torch.float16), torch.float32),
        (Doubled(torch.arange(4)), torch.randn(3, 4, dtype=torch.float64), torch.float64),
        (Doubled(torch.arange(4.0)), torch.randn(3, 4, dtype=torch.float64), torch.float64),
        (Doubled(torch.arange(4.0).double()), torch.randn(3, 4), torch.float64),
        (Doubled(torch.arange(4.0).half()), torch.randn(3, 4), torch.float32),
        (nn.Linear(4, 3).double(), torch.randn(3, 4, dtype=torch.float64), torch.float64),
        (nn.Linear(4, 3).bfloat16(), torch.randn(3, 4, dtype=torch.bfloat16), torch.float32),
    ],
)
def test_a_program_takes_the_example_it_was_made_with(model: nn.Module, example: Tensor, expected: torch.dtype) -> None:
    program = prunus.compile(model.eval(), example, tune=False)
    assert program.dtype == expected
    limit = 1e-12 if expected == example.dtype == torch.float64 else 1e-5 if example.dtype.itemsize > 2 else 2e-2
    torch.testing.assert_close(program(example).double(), model(example).detach().double(), rtol=0, atol=limit)


class Complex(nn.Module):
    """Complex numbers in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        """Return real numbers."""
        return (x * 1j).real + x


class ComplexOutput(nn.Module):
    """Complex numbers at the end: their real parts alone would be taken for the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.ones(4, dtype=torch.complex64) * 1j

    def forward(self, x: Tensor) -> Tensor:
        """Return complex numbers."""
        return x * self.factor


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (Doubled(torch.ones(4, dtype=torch.complex64)), torch.randn(3, 4)),
        (Doubled(torch.ones(4, dtype=torch.complex128)), torch.randn(3, 4, dtype=torch.float64)),
        (Doubled(), torch.randn(3, 4, dtype=torch.complex64)),
        (Complex(), torch.randn(3, 4)),
        (ComplexOutput(), torch.randn(3, 4)),
    ],
)
def test_complex_numbers_are_refused(model: nn.Module, example: Tensor, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="complex"):
        prunus.compile(model.eval(), example, tune=False)
    with pytest.raises(prunus.ExportError, match="complex"):
        prunus.export(model, tmp_path / "model.c", example)
