"""A rebuilt model's graph matches the demanded one, or is told apart, whatever its outputs show."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.graph import rewriting, trace
from prunus.graph.coupling import couple
from prunus.graph.kept import keep
from prunus.proving.matching import MismatchError, match
from prunus.shrinking.finding.constants import Constants

pytestmark = pytest.mark.usefixtures("one_thread")


class Calls(nn.Module):
    """A layer, and a function of what it gives and of the number of samples."""

    def __init__(self, function: Callable[[Tensor, int], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.function = nn.Linear(4, 6), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.first(x), x.shape[0])


def written(y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    z = y.transpose(0, 1)
    z.add_(1)
    return z.sum(0), y


def written_to_a_copy(y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    z = y.transpose(0, 1).contiguous()
    z.add_(1)
    return z.sum(0), y


def both(y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    return y.relu(), y.tanh()


def both_the_other_way_round(y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    one, other = y.relu(), y.tanh()
    return other, one


PAIRS: dict[str, tuple[Callable[[Tensor, int], Any], Callable[[Tensor, int], Any]]] = {
    "an operation": (lambda y, n: y.relu(), lambda y, n: y.tanh()),
    "one operation more": (lambda y, n: y.relu(), lambda y, n: y.relu().tanh()),
    "one operation less": (lambda y, n: y.relu().tanh(), lambda y, n: y.relu()),
    "a number": (lambda y, n: y * 2, lambda y, n: y * 2.5),
    "a place": (lambda y, n: y[:, :4], lambda y, n: y[:, 1:5]),
    "a size": (lambda y, n: y.view(-1, 2, 3), lambda y, n: y.view(-1, 3, 2)),
    "what is read": (lambda y, n: y.relu() - y.tanh(), lambda y, n: -y.tanh() + y.relu()),
    "a number of samples": (lambda y, n: y * (n - 1), lambda y, n: y * (n // 2)),
    "outputs": (both, both_the_other_way_round),
    "a copy that is written to": (written_to_a_copy, written),
}


def matched(model: nn.Module, other: nn.Module) -> None:
    x = torch.randn(2, 4)
    coupling = couple(trace(model, x), "counted")
    kept = keep(coupling, torch.zeros(coupling.num_classes, dtype=torch.bool))
    match(rewriting.demanded(kept, {}, {}), trace(other, x))


@pytest.mark.parametrize("name", PAIRS)
def test_another_graph_does_not_match(name: str) -> None:
    one, other = map(Calls, PAIRS[name])
    matched(one, copy.deepcopy(one))
    matched(other, copy.deepcopy(other))
    with pytest.raises(MismatchError):
        matched(one, other)


def test_another_content_does_not_match() -> None:
    one = Calls(lambda y, n: y.relu())
    for change in (0.0, 1e-4, torch.nan):
        other = copy.deepcopy(one)
        other.first.weight.data[1, 2] += change
        if change == 0:
            matched(one, other)
        else:
            with pytest.raises(MismatchError, match=r"holds another 'first\.weight'"):
                matched(one, other)
    with pytest.raises(MismatchError, match="holds another"):
        matched(one, copy.deepcopy(one).double().float().requires_grad_(False).half().float())


def test_a_constant_that_is_a_bit_off_is_refused_behind_what_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Hardtanh(-1e-9, 1e-9)).eval()
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[0].bias[:2] = 1
    assert prunus.shrink(model, torch.zeros(1, 4))[0].out_features == 4
    right = Constants.shift

    def off(*args: Any) -> Tensor | None:
        shift = right(*args)
        return None if shift is None else shift * 1.01

    monkeypatch.setattr(Constants, "shift", off)
    with pytest.raises(prunus.ShrinkError, match=r"aten\.linear.* would differ by"):
        prunus.shrink(model, torch.zeros(1, 4))
