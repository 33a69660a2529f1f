"""The judge of `bench/attack.py` sees each kind of wrong model, and excuses rounding and ties."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "bench"))
import _attack_channels
import _attack_hidden  # noqa: F401  (registers its family)
import _attack_judge as judging
from _attack_judge import judge
from _attack_subject import FAMILIES, Argument, Subject, build, draw_masks

pytestmark = pytest.mark.usefixtures("one_thread")


class Ends(nn.Module):
    """A linear layer and what a function makes of its output."""

    def __init__(self, function: object, width: int = 6) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)
        self.function = function
        self.steps = 4

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.layer(x))  # type: ignore[operator]


def subject(model: nn.Module, dtype: torch.dtype = torch.float32, **more: object) -> Subject:
    return Subject(model.to(dtype).eval(), (Argument((4,)),), dtype=dtype, **more)  # type: ignore[arg-type]


def ends(function: object) -> Ends:
    torch.manual_seed(0)
    return Ends(function)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (lambda net, y: y, lambda net, y: y.flip(1)),
        (lambda net, y: y, lambda net, y: y.float()[:, :5]),
        (lambda net, y: y, lambda net, y: (y, y)),
        (lambda net, y: torch.relu(y - 50), lambda net, y: torch.relu(y.flip(1) - 50)),  # only ten times as large shows
        (lambda net, y: y.argmax(1), lambda net, y: (y + torch.tensor([0, 0, 0, 0.05, 0, 0])).argmax(1)),
        (lambda net, y: y > 2, lambda net, y: y.roll(1, 1) > 2),
        (lambda net, y: y.round(), lambda net, y: (y * 1.001).round()),
        (lambda net, y: torch.sigmoid(200 * y), lambda net, y: torch.sigmoid(200 * y + 0.1)),
        (lambda net, y: y, lambda net, y: torch.where(y > 50, torch.nan, y)),
        (lambda net, y: y, lambda net, y: y.long()),
        (lambda net, y: y, lambda net, y: y.view(-1, 5) if net.training else y),
    ],
)
def test_another_output_is_wrong(right: object, wrong: object) -> None:
    reference, smaller = ends(right), ends(wrong)
    assert judge(reference, smaller, subject(reference), seed=0).wrong
    assert not judge(reference, copy.deepcopy(reference), subject(reference), seed=0).wrong


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "function",
    [
        lambda net, y: y,
        lambda net, y: torch.sign(y),
        lambda net, y: y.argmax(1),
        lambda net, y: torch.sigmoid(1000 * y),
        lambda net, y: torch.exp(y),
    ],
)
def test_rounding_is_not_wrong_however_steep_what_follows(function: object, dtype: torch.dtype) -> None:
    reference = ends(function).to(dtype)
    smaller = copy.deepcopy(reference)
    noise = {torch.float64: 1e-15, torch.float32: 1e-7, torch.bfloat16: 2e-3}[dtype]
    with torch.no_grad():
        smaller.layer.weight.mul_(1 + noise * torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))
    assert judge(reference, smaller, subject(reference, dtype), seed=0).wrong == ""


def test_a_tie_is_counted_and_not_wrong() -> None:
    reference = ends(lambda net, y: y.argmax(1)).double()
    with torch.no_grad():
        reference.layer.weight[1] = reference.layer.weight[0]
        reference.layer.bias[1] = reference.layer.bias[0]
    smaller = copy.deepcopy(reference)
    with torch.no_grad():
        smaller.layer.weight[1] *= 1 + 1e-15
        smaller.layer.bias[1] *= 1 + 1e-15
    verdict = judge(reference, smaller, subject(reference, torch.float64), seed=0)
    assert verdict.wrong == ""
    assert verdict.ties > 0


def test_a_changed_attribute_is_wrong() -> None:
    reference, smaller = ends(lambda net, y: y), ends(lambda net, y: y)
    smaller.steps = 3
    assert "steps" in judge(reference, smaller, subject(reference, unchanged=("steps",)), seed=0).wrong


def test_another_size_counts_apart_unless_it_is_listed() -> None:
    reference = nn.Conv1d(4, 4, 1)
    tried = Subject(reference.eval(), (Argument((4, 8)),), sizes=((Argument((4, 12)),),))

    class AtTwelve(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = reference

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + (1 if x.shape[-1] == 12 else 0)

    smaller = AtTwelve().eval()
    verdict = judge(reference, smaller, tried, seed=0)
    assert verdict.size
    assert not verdict.wrong
    smaller.checked = {"sizes": [(2, 4, 8), (2, 4, 12)]}  # type: ignore[assignment]
    assert judge(reference, smaller, tried, seed=0).wrong


def test_a_batch_that_is_refused_is_named() -> None:
    reference = ends(lambda net, y: y)
    smaller = ends(lambda net, y: y.view(2, 6))
    verdict = judge(reference, smaller, subject(reference), seed=0)
    assert any("batch" in text for text in verdict.lost)
    assert not verdict.wrong


@pytest.mark.parametrize("family", ["literal", "moves", "hidden"])
def test_a_case_is_the_same_each_time_and_its_network_runs(family: str) -> None:
    for index in range(len(FAMILIES[family])):
        (name, one, draw), (again, other, draw_again) = build(family, index, 0), build(family, index, 0)
        inputs = one.inputs("normal", 3, draw.generator)
        expected = judging._run(one.model, inputs)
        assert name == again
        assert all(torch.equal(a, b) for a, b in zip(expected, judging._run(other.model, inputs), strict=True))
        other.inputs("normal", 3, draw_again.generator)
        masks, masks_again = draw_masks(one.model, "lines", draw), draw_masks(other.model, "lines", draw_again)
        assert all(torch.equal(mask, masks_again[key]) for key, mask in masks.items())


def test_attempts_of_literals_and_moves_are_many() -> None:
    assert len(_attack_channels.LITERAL) > 30
    assert len(_attack_channels.MOVES) > 20
