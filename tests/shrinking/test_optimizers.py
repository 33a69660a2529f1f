"""State of optimizers that is not of the parameter's shape: cut along, or refused before anything changed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import prunus

pytestmark = pytest.mark.usefixtures("one_thread")


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 6), nn.ReLU(), nn.Linear(6, 2))


class RowsAndColumns(torch.optim.Optimizer):
    """Factored second moments without the sizes that are summed over, named as transformers names them."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {})

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None or parameter.ndim < 2:
                continue
            squared, own = parameter.grad.square(), self.state[parameter]
            own["exp_avg_sq_row"] = own.get("exp_avg_sq_row", 0) + squared.mean(-1)
            own["exp_avg_sq_col"] = own.get("exp_avg_sq_col", 0) + squared.mean(-2)
            scale = own["exp_avg_sq_row"].unsqueeze(-1) * own["exp_avg_sq_col"].unsqueeze(-2)
            parameter.data -= 0.01 * parameter.grad / (scale.sqrt() + 1e-3)


INPUTS = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor = INPUTS) -> None:
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step(lambda: model(inputs).square().mean()) if isinstance(
        optimizer, torch.optim.LBFGS
    ) else optimizer.step()


def dead(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (model[0].weight[:3], model[0].bias[:3], model[3].weight[:, :48], model[3].weight[:2]):
            tensor.zero_()
        model[3].bias[:2] = 0
        model[5].weight[:, :2] = 0


@pytest.mark.parametrize(
    "optimizer_of",
    [
        lambda p: torch.optim.Adafactor(p, lr=0.01),
        lambda p: torch.optim.Adagrad(p, lr=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
        lambda p: torch.optim.ASGD(p, lr=0.01),
        RowsAndColumns,
    ],
    ids=["Adafactor", "Adagrad", "RMSprop", "ASGD", "rows and columns"],
)
def test_state_is_what_stays_of_it(optimizer_of: Callable[..., torch.optim.Optimizer]) -> None:
    model = make()
    optimizer = optimizer_of(model.parameters())
    train(model, optimizer)
    dead(model)
    whole = [copy.deepcopy(optimizer.state[parameter]) for parameter in model.parameters()]
    smaller = prunus.shrink(model, INPUTS, optimizer=optimizer)
    assert smaller[0].out_channels == 5
    rows, columns = torch.arange(2, 6), torch.arange(48, 128)
    for key, value in whole[2].items():
        if isinstance(value, Tensor) and value.ndim:
            for dim, size in enumerate(value.shape):
                stays = {6: rows, 128: columns}.get(size)
                value = value if stays is None else value.index_select(dim, stays)
            assert torch.equal(optimizer.state[smaller[3].weight][key], value), key
    train(smaller, optimizer)


def test_a_flat_history_is_refused_before_anything_changed() -> None:
    model = make()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01)
    train(model, optimizer)
    dead(model)
    held = [id(parameter) for parameter in optimizer.param_groups[0]["params"]]
    with pytest.raises(ValueError, match=r"LBFGS.* can't be cut along.*'0\.weight'.*make a new one"):
        prunus.shrink(model, INPUTS, optimizer=optimizer)
    assert [id(parameter) for parameter in optimizer.param_groups[0]["params"]] == held
    train(model, optimizer)
