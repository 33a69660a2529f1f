"""What only training runs: cut along, or named where it would be something else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from branching import Branching, without_six
from masked import apart, outputs
from prunus.graph import trace
from prunus.proving import training
from prunus.proving.attributes import noting_mode
from prunus.proving.drawing import Inputs

pytestmark = pytest.mark.usefixtures("one_thread")


class Auxiliary(nn.Module):
    """A head beside the trunk that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 2)
        self.aux, self.aux_head = nn.Conv2d(8, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = torch.relu(self.trunk(x))
        logits = self.head(y.mean((2, 3)))
        if self.training:
            return logits, self.aux_head(self.aux(y).mean((2, 3)))
        return logits


def test_a_head_that_runs_in_training_only_is_cut_along() -> None:
    model = Auxiliary().train()
    model.head.weight.data[:, :5] = 0
    smaller = prunus.shrink(model, torch.zeros(1, 1, 6, 6))
    assert isinstance(smaller, Auxiliary)
    assert smaller.training
    assert smaller.trunk.out_channels == smaller.aux.in_channels == 3
    logits, other = smaller(torch.randn(4, 1, 6, 6))
    (logits.sum() + other.sum()).backward()
    assert smaller.aux.weight.grad is not None


class Numbered(Auxiliary):
    """The same, with a size in numbers in the branch that only training runs."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = torch.relu(self.trunk(x))
        logits = self.head(y.mean((2, 3)))
        if self.training:
            return logits, self.aux_head(self.aux(y.reshape(-1, 8, 1, 16)).mean((2, 3)))
        return logits


def test_a_branch_that_can_not_train_any_more_is_named() -> None:
    model = Numbered()
    model.head.weight.data[:, :5] = 0
    with pytest.raises(prunus.ShrinkError, match=r"could not be trained any more.*'aux', 'aux_head'"):
        prunus.shrink(model, torch.zeros(1, 1, 6, 6))


@pytest.mark.parametrize(
    "function",
    [lambda y: y[:, 9], lambda y: y[:, 4:8] * 2, lambda y: y.mean(1), lambda y: y.roll(12, 1)[:, :2], lambda y: y],
    ids=["one", "some", "mean", "rolled", "all"],
)
def test_a_training_branch_on_channels_by_number_is_named(function: Callable[[Tensor], Tensor]) -> None:
    model = without_six(Branching(function))
    with pytest.raises(prunus.ShrinkError, match=r"could not be trained any more.*self\.training"):
        prunus.shrink(model, torch.zeros(1, 8))


class Instead(Branching):
    """Has a function of the channels in their place in training."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.last(self.function(y) if self.training else y)


def test_a_training_branch_that_moves_channels_is_named() -> None:
    with pytest.raises(prunus.ShrinkError, match="could not be trained any more"):
        prunus.shrink(without_six(Instead(lambda y: y.roll(3, 1))), torch.zeros(1, 8))


def test_a_training_branch_whose_outputs_seldom_show_it_is_named() -> None:
    model = without_six(Instead(lambda y: y[:, 8:9].expand_as(y)))
    with torch.no_grad():
        model.first.bias[[8, 14]] = -100  # 14 is what number 8 would be
    with pytest.raises(prunus.ShrinkError, match="could not be trained any more"):
        prunus.shrink(model, torch.zeros(1, 8))


def test_a_training_branch_that_changes_a_constant_is_named() -> None:
    model = Instead(lambda y: y * 2)
    with torch.no_grad():
        model.first.weight[:6] = 0
        model.first.bias[:6] = 1
    with pytest.raises(prunus.ShrinkError, match="hold constants"):
        prunus.shrink(model, torch.zeros(1, 8))


def test_a_training_branch_that_works_on_each_channel_is_kept() -> None:
    model = without_six(Instead(lambda y: y * 2))
    smaller = prunus.shrink(model, torch.zeros(1, 8))
    assert smaller.first.weight.shape == (10, 8)
    x = torch.randn(7, 8)
    torch.testing.assert_close(smaller.train()(x), model.train()(x))


class ForInference(Branching):
    """Can't train."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("this model is for inference only")
        return self.last(self.first(x).relu())


def test_a_model_that_can_not_train_need_not_train_when_it_is_smaller() -> None:
    smaller = prunus.shrink(without_six(ForInference(torch.relu)).eval(), torch.zeros(1, 8))
    assert isinstance(smaller, ForInference)
    assert smaller.first.out_features == 10


class Averaged(Auxiliary):
    """Its head that runs in training only takes the mean of all channels."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = torch.relu(self.trunk(x))
        logits = self.head(y.mean((2, 3)))
        if self.training:
            return logits, self.aux_head(self.aux(y * y.mean(1, keepdim=True)).mean((2, 3)))
        return logits


def test_a_head_that_needs_all_channels_is_named() -> None:
    model = Averaged()
    model.head.weight.data[:, :5] = 0
    with pytest.raises(prunus.ShrinkError, match="could not be trained any more"):
        prunus.shrink(model, torch.zeros(1, 1, 6, 6))


class NumberedThroughout(Auxiliary):
    """The same, with a size in numbers that eval mode runs too: its graph has no such head."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = torch.relu(self.trunk(x)).reshape(-1, 8, 4, 4)
        logits = self.head(y.mean((2, 3)))
        if self.training:
            return logits, self.aux_head(self.aux(y).mean((2, 3)))
        return logits


def test_a_graph_that_would_lose_a_head_of_training_is_refused() -> None:
    model = NumberedThroughout()
    model.head.weight.data[:, :5] = 0
    with pytest.raises(prunus.ShrinkError, match="more outputs than its graph in eval mode"):
        prunus.shrink(model, torch.zeros(1, 1, 6, 6))


class AsksItsDropout(Branching):
    """Asks a layer of PyTorch's own whether it is training."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(function)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.drop(self.first(x).relu())
        return (self.last(y), self.function(y)) if self.drop.training else self.last(y)


def test_a_training_branch_by_the_mode_of_a_layer_is_named() -> None:
    model = without_six(AsksItsDropout(lambda y: y[:, 9]))
    with pytest.raises(prunus.ShrinkError, match="could not be trained any more"):
        prunus.shrink(model, torch.zeros(1, 8))


def test_a_dropout_by_the_models_own_mode_is_no_other_training() -> None:
    model = without_six(Instead(lambda y: F.dropout(y, 0.5)))
    smaller = prunus.shrink(model, torch.zeros(1, 8))
    assert smaller.first.weight.shape == (10, 8)
    assert not torch.equal(*(smaller.train()(torch.ones(1, 8)) for _ in range(2)))


class Normed(Branching):
    """A norm, and a branch that only training runs."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(function)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x)).relu()
        return self.last(self.function(y) if self.training else y)


def test_a_norm_over_a_batch_makes_no_constant_of_training() -> None:
    model = Normed(lambda y: y * 1.0).eval()
    with torch.no_grad():
        model.first.weight[:6] = 0
        model.first.bias[:6] = 1  # by the running statistics that is 1, by those of any batch 0
    inputs = torch.randn(4, 8)
    smaller = prunus.shrink(model, inputs)
    assert smaller.first.weight.shape == (10, 8)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) < 1e-5


class DoubledAfter(Branching):
    """Has a function of the outputs in their place in training."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.first(x).relu())
        return self.function(y) if self.training else y


def test_a_bias_that_a_layer_gets_is_there_in_training_too() -> None:
    model = DoubledAfter(lambda y: y * 2)
    model.last.bias = None
    with torch.no_grad():
        model.first.weight[:6] = 0
        model.first.bias[:6] = 1
    smaller = prunus.shrink(model, torch.zeros(1, 8))
    assert isinstance(smaller, DoubledAfter)
    x = torch.randn(7, 8)
    torch.testing.assert_close(smaller.train()(x), model.train()(x))


def test_the_random_state_stays() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5))
    model[3].weight.data[:, :6] = 0
    before = torch.get_rng_state()
    prunus.shrink(model, torch.zeros(1, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_training_branch_that_can_not_be_read_and_differs_is_named() -> None:
    model = without_six(Instead(lambda y: y.roll(3, 1) if bool((y > -1).all()) else y))
    with pytest.raises(prunus.ShrinkError, match="outputs of training mode would be others"):
        prunus.shrink(model, torch.zeros(1, 8))


class GroupedAuxiliary(Auxiliary):
    """A grouped convolution runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Conv2d(8, 4, 1, groups=2)


def test_a_grouped_head_of_training_loses_others_in_each_group() -> None:
    model = GroupedAuxiliary().train()
    model.head.weight.data[:, [1, 6]] = 0
    whole = model.aux.weight.detach().clone()
    smaller = prunus.shrink(model, torch.zeros(1, 1, 6, 6))
    assert torch.equal(smaller.aux.weight, torch.cat([whole[:2][:, [0, 2, 3]], whole[2:][:, [0, 1, 3]]]))
    smaller(torch.randn(4, 1, 6, 6))[1].sum().backward()


def test_a_grouped_head_of_training_tells_its_sizes() -> None:
    model = GroupedAuxiliary().train()
    model.head.weight.data[:, [1, 6]] = 0
    aux = prunus.shrink(model, torch.zeros(1, 1, 6, 6)).aux
    assert (aux.in_channels, aux.out_channels, aux.groups) == (6, 4, 2)


def test_a_grouped_head_of_training_that_would_lose_a_group_is_named() -> None:
    model = GroupedAuxiliary().train()
    model.head.weight.data[:, :4] = 0
    with pytest.raises(prunus.ShrinkError, match=r"could not be trained any more.*'aux', 'aux_head'"):
        prunus.shrink(model, torch.zeros(1, 1, 6, 6))


@pytest.mark.parametrize("rate", [0.0, 1e-6])
def test_numbers_drawn_are_seen_where_they_change_nothing(rate: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(rate))
    state = torch.random.get_rng_state()
    steps = [training.step(model, Inputs((torch.ones(2, 3),), {}), seed) for seed in (0, 1)]
    assert [step.is_random for step in steps] == [rate > 0] * 2
    assert torch.equal(steps[0].outputs[0], steps[1].outputs[0])
    assert torch.equal(torch.random.get_rng_state(), state)


def keep_aside(model: nn.Module, y: Tensor) -> Tensor:
    model.aside = y.view(-1, 4, 4).mean()
    return y


BRANCHES: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], bool]] = {
    "none": (lambda model, y: y, False),
    "dropout": (lambda model, y: F.dropout(y, 0.5, model.training), False),
    "the same": (lambda model, y: y.mul(2) if model.training else y * 2, False),
    "another factor": (lambda model, y: y * 2 if model.training else y * 3, True),
    "other channels": (lambda model, y: (y[:, 2:6] if model.training else y[:, :4]).repeat(1, 4), True),
    "another order": (lambda model, y: y[:, torch.arange(16) if model.training else torch.arange(15, -1, -1)], True),
    "another constant": (lambda model, y: y[:, torch.tensor([1 if model.training else 0] * 16)], True),
    "more": (lambda model, y: y + 0 * y.sum() if model.training else y, True),
    "kept aside": (lambda model, y: keep_aside(model, y) if model.training else y, True),
}


class Moded(nn.Module):
    """Two layers with a norm, and a function of the channels between."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, self.norm(self.first(x)).relu()))


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_is_what_training_calls_otherwise(name: str) -> None:
    function, differs = BRANCHES[name]
    graph = trace(Moded(function).eval(), torch.zeros(2, 8))
    assert training.has_branch(graph, Inputs(graph.args, graph.kwargs)) == differs


class Frozen(nn.Linear):
    """A layer whose mode is its own affair."""

    @property
    def training(self) -> bool:
        return False

    @training.setter
    def training(self, mode: bool) -> None:
        pass


@pytest.mark.parametrize("train", [False, True])
def test_who_asks_for_the_mode_is_noted_without_a_change_of_any_class(train: bool) -> None:
    seen = []
    dropping = Moded(lambda model, y: seen.append(type(model)) or F.dropout(y, 0.5)).train(train)
    asking = Moded(lambda model, y: model.train(not model.training).norm(y)).train(train)
    for model, expected in ((dropping, set()), (asking, {__name__}), (nn.Sequential(Frozen(8, 4)), {__name__})):
        with noting_mode(model) as askers:
            model(torch.zeros(2, 8))
        assert askers == expected
    assert seen == [Moded]
    assert asking.training is not train
    assert "training" not in vars(nn.Module)


def test_a_model_that_can_not_train_need_not_train_smaller() -> None:
    def refuse(model: nn.Module, y: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not torch.compiler.is_exporting():
            raise RuntimeError("not here")
        return y

    model = Moded(refuse).eval()
    model.last.weight.data[:, :5] = 0
    assert prunus.shrink(model, torch.zeros(1, 8)).first.out_features == 11
