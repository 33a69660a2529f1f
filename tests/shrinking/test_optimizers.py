"""State of optimizers that is not of the parameter's shape: cut along, or refused before anything changed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import grouped
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


def test_nothing_is_left_of_the_larger_models_state() -> None:
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train(model, optimizer)
    dead(model)
    smaller = prunus.shrink(model, INPUTS, optimizer=optimizer)
    assert set(optimizer.state) == set(smaller.parameters())
    again = torch.optim.Adam(smaller.parameters())
    again.load_state_dict(optimizer.state_dict())


def test_a_bias_that_a_layer_gets_is_trained() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[0].bias[:3] = 1  # a constant: it becomes the bias of the layer behind
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    smaller = prunus.shrink(model, torch.zeros(1, 4), optimizer=optimizer)
    assert {id(parameter) for parameter in optimizer.param_groups[0]["params"]} == set(map(id, smaller.parameters()))
    before = smaller[2].bias.detach().clone()
    train(smaller, optimizer, torch.randn(5, 4))
    assert not torch.equal(smaller[2].bias, before)


class Remembers(torch.optim.Optimizer):
    """Keeps something of each gradient under a name that tells nothing."""

    def __init__(self, parameters: object, remembered: object) -> None:
        super().__init__(parameters, {})
        self.remembered = remembered

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            if parameter.ndim == 2:
                self.state[parameter]["past"] = self.remembered(parameter.grad)


@pytest.mark.parametrize(
    ("remembered", "words"),
    [
        (lambda gradient: [gradient, gradient], "several tensors"),
        (lambda gradient: {"first": (1, gradient)}, "several tensors"),
        (lambda gradient: gradient.square().mean(-1), r"a tensor of shape \(6,\)"),
    ],
    ids=["list", "mapping", "rows or columns"],
)
def test_what_may_mean_anything_is_refused(remembered: object, words: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    optimizer = Remembers(model.parameters(), remembered)
    inputs = torch.randn(4, 6)
    train(model, optimizer, inputs)
    with torch.no_grad():
        model[2].weight[:, :2] = 0
    with pytest.raises(ValueError, match=rf"can't be cut along.*'past', {words}"):
        prunus.shrink(model, inputs, optimizer=optimizer)


def test_sums_over_rows_that_lose_other_channels_are_refused() -> None:
    model = grouped.make(4, 16, 20, False)
    optimizer = RowsAndColumns(model.parameters())
    train(model, optimizer, grouped.IMAGES)
    with torch.no_grad():
        for group, out in enumerate((1, 3, 0, 0)):
            grouped.by_row(model[2].weight, 4, False)[group, :, out] = 0
    with pytest.raises(ValueError, match="sums over channels of which each group loses others"):
        prunus.shrink(model, grouped.IMAGES[:1], optimizer=optimizer)


def test_sums_over_rows_and_columns_of_a_square_are_told_by_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = RowsAndColumns(model.parameters())
    inputs = torch.randn(4, 3)
    train(model, optimizer, inputs)
    with torch.no_grad():
        model[2].weight[:, :2] = 0
        model[4].weight[:, 3:] = 0
    before = dict(optimizer.state[model[2].weight])
    smaller = prunus.shrink(model, inputs, optimizer=optimizer)
    after = optimizer.state[smaller[2].weight]
    assert torch.equal(after["exp_avg_sq_row"], before["exp_avg_sq_row"][:3])
    assert torch.equal(after["exp_avg_sq_col"], before["exp_avg_sq_col"][2:])
