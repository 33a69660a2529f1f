"""Permuted models: the same outputs whatever the topology, more kept by `prune`, and refusals that change nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import prunus
from prunus.errors import GraphError
from random_nets import Drawn, Stage, Unit, random_nets
from zoo import ZOO
from zoo_case import randomise

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Joined(nn.Module):
    """A residual sum, a depthwise convolution, a concatenation, groups, and a flattened map into linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.narrow, self.widen = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(24, 8, 1, groups=2)
        self.hidden, self.head = nn.Linear(8 * 4, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = F.relu(self.narrow(x))
        x = x + self.depthwise(self.widen(inner))
        x = self.grouped(torch.cat([x, inner], 1))
        return self.head(F.relu(self.hidden(F.adaptive_avg_pool2d(x, 2).flatten(1))))


def joined() -> nn.Module:
    return randomise(Joined(), seed=3).eval()


def outputs(model: nn.Module, *args: Any, **kwargs: Any) -> list[Tensor]:
    with torch.no_grad():
        found = model(*args, **kwargs)
    leaves, _ = torch.utils._pytree.tree_flatten(found)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def sorted_values(model: nn.Module) -> list[list[float]]:
    return [value.flatten().sort().values.tolist() for value in model.state_dict().values()]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("residual-projection", "inputs-4"),
        ("residual-padded", "2:4"),
        ("densenet", "inputs-4"),
        ("unet", "2:4"),
        ("resnext", "inputs-4"),
        ("few-groups", "inputs-2"),
        ("depthwise-separable", "inputs-4"),
        ("flatten-3x3", "2:4"),
        ("group-norm-cnn", "inputs-4"),
        ("shufflenet-v1", "inputs-4"),
        ("glu-chunk", "inputs-4"),
        ("mlp-layer-norm", "2:4"),
        ("separate-qkv", "inputs-4"),
        ("tied-embedding", "inputs-4"),
        ("gru-bidirectional", "1:4"),
    ],
)
def test_outputs_stay_and_more_is_kept(name: str, pattern: str) -> None:
    case = ZOO[name]
    model = case.make()
    args, kwargs = case.arguments(5)
    before, values = outputs(model, *args, **kwargs), sorted_values(model)
    result = prunus.permute(model, case.example_inputs, pattern)
    torch.testing.assert_close(outputs(model, *args, **kwargs), before, rtol=1e-4, atol=1e-5)
    assert sorted_values(model) == values
    assert sum(result.after.values()) > sum(result.before.values())


def orders_any(model: nn.Module, inputs: Tensor) -> bool:
    """Permute a model; tell whether any channels may change places: nets of one or two channels a layer have none."""
    try:
        prunus.permute(model, inputs, "inputs-2", sparsity=0.5)
    except ValueError as error:
        if "no channels may change places" not in str(error):
            raise
        return False
    return True


@given(random_nets())
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
def test_outputs_of_any_net_stay(drawn: Drawn) -> None:
    model = drawn.make()
    inputs = drawn.example_inputs(4)
    before, state = outputs(model, inputs), copy.deepcopy(model.state_dict())
    if not orders_any(model, inputs):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(outputs(model, inputs), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pattern", "sparsity"), [("inputs-4", 0.7), ("2:4", 0.5)])
def test_what_it_says_is_what_prune_keeps(pattern: str, sparsity: float) -> None:
    model = joined()
    dense = copy.deepcopy(model)
    result = prunus.permute(model, IMAGES, pattern, sparsity=sparsity)
    torch.testing.assert_close(outputs(model, IMAGES), outputs(dense, IMAGES), rtol=1e-4, atol=1e-5)
    assert {"narrow.weight", "widen.weight", "head.weight"} <= set(result.before) == set(result.after)
    for network, shares in ((dense, result.before), (model, result.after)):
        pruned = copy.deepcopy(network)
        prunus.prune(pruned, dict.fromkeys(shares, sparsity), pattern=pattern)
        for name, share in shares.items():
            kept = pruned.get_parameter(name).detach().abs().sum() / network.get_parameter(name).detach().abs().sum()
            assert float(kept) == pytest.approx(share, abs=1e-5)
    assert "narrow.weight" in str(result)


def test_masks_and_momentum_are_reordered_likewise() -> None:
    model = joined()
    masks = prunus.prune(model, 0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = prunus.permute(model, IMAGES, "inputs-4")
    prunus.Masks({name: result.reordered(name, mask) for name, mask in masks.items()}).check(model)
    for name, value in model.state_dict().items():
        assert torch.equal(result.reordered(name, before[name]), value)
    assert not torch.equal(before["narrow.weight"], model.narrow.weight)


def test_the_result_does_not_depend_on_chance_and_two_calls_end() -> None:
    first, second = joined(), joined()
    told: list[tuple[str, float]] = []
    prunus.permute(first, IMAGES, "inputs-4", progress=lambda what, share: told.append((what, share)))
    torch.manual_seed(1)
    prunus.permute(second, IMAGES, "inputs-4")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert told[0] == ("ordering the channels of stem.0.weight", 0.0)


def test_weights_that_are_zero_hide_nothing() -> None:
    """A branch behind a norm of zeros adds nothing now, but does once the norm is trained: it is reordered too."""
    model = joined()
    dense = copy.deepcopy(model)
    for network in (model, dense):
        network.depthwise.weight.data.zero_()
        network.depthwise.bias.data.zero_()
    result = prunus.permute(model, IMAGES, "inputs-4")
    for name in ("depthwise.weight", "depthwise.bias"):
        trained = torch.randn(dense.get_parameter(name).shape)
        dense.get_parameter(name).data.copy_(trained)
        model.get_parameter(name).data.copy_(result.reordered(name, trained))
    torch.testing.assert_close(outputs(model, IMAGES), outputs(dense, IMAGES), rtol=1e-4, atol=1e-5)


class ByNumber(nn.Module):
    """Channels of one layer that are treated differently by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).split([3, 5], 1)
        return self.second(torch.cat([F.relu(left), torch.sigmoid(right)], 1))


class Rolled(nn.Module):
    """A layer normalised in a way that depends on the places of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).cumsum(1))


class WithHead(nn.Module):
    """A head that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.relu(self.first(x))
        return (self.second(x), self.other(x)) if self.training else (self.second(x),)


class Noisy(nn.Module):
    """Random numbers, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x + torch.randn_like(x))


def broken() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    model[2].weight.data[0, 0] = torch.nan
    return model


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("make", "pattern", "options", "kind", "message"),
    [
        (ByNumber, "inputs-4", {}, ValueError, "no channels may change places to any effect on pattern inputs-4"),
        (Rolled, "2:4", {}, ValueError, "no channels may change places"),
        (lambda: nn.Linear(4, 4), "2:4", {}, ValueError, "no channels may change places"),
        (plain, "inputs-8", {}, ValueError, "no channels may change places"),
        (WithHead, "2:4", {}, GraphError, r"training mode reads other\.bias, other\.weight, which eval mode does not"),
        (Noisy, "2:4", {}, GraphError, "depend on random numbers"),
        (broken, "2:4", {}, ValueError, r"'2\.weight' holds weights that are not finite"),
        (plain, "block-4x4", {}, ValueError, "permute orders channels for blocks of inputs.*; got block-4x4"),
        (plain, "channel", {}, ValueError, "got channel"),
        (plain, "input-4", {}, ValueError, "did you mean 'inputs-4'"),
        (plain, "2:4", {"sparsity": 0.7}, ValueError, r"2:4 removes exactly 0\.5"),
        (plain, "inputs-4", {"sparsity": 80}, ValueError, r"did you mean 0\.8"),
        (plain, "inputs-4", {"sparsity": 0.0}, ValueError, r"sparsity must be in \(0, 1\)"),
        (plain, "inputs-4", {"sparsity": "much"}, TypeError, "sparsity must be a number"),
        (plain, "inputs-4", {"minutes": 0}, ValueError, "minutes must be a number above 0, got 0"),
        (plain, 4, {}, TypeError, "pattern must be a name"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_changes(
    make: Any, pattern: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    torch.manual_seed(0)
    model = make()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(kind, match=message):
        prunus.permute(model, torch.randn(2, 4), pattern, **options)
    assert all(torch.equal(value.nan_to_num(), state[name].nan_to_num()) for name, value in model.state_dict().items())


def test_the_model_may_be_wrapped_and_stays_in_training_mode() -> None:
    model = joined().train()
    dense = copy.deepcopy(model)
    prunus.permute(nn.DataParallel(model), IMAGES, "inputs-4")
    assert model.training
    assert not torch.equal(model.narrow.weight, dense.narrow.weight)
    # BatchNorm's statistics of the batch
    torch.testing.assert_close(outputs(model, IMAGES), outputs(dense, IMAGES), rtol=1e-4, atol=1e-5)


def test_channels_that_random_weights_hide_stay_in_their_places() -> None:
    """A net drawn by chance: channels that no parameter makes were taken for free, as the outputs did not tell."""
    chain, unit = "chain", {"norm": "none", "activation": "relu", "bias": False, "padding": False}
    stages = (
        Stage(chain, (Unit(6, 3, groups="each", **unit),)),
        Stage(chain, (Unit(6, 1, groups="two", **{**unit, "norm": "batch", "padding": True}),)),
        Stage("excite", (Unit(4, 1, groups="two", **{**unit, "bias": True, "padding": True}),)),
        Stage(
            chain,
            (
                Unit(6, 1, groups="two", **{**unit, "activation": "sigmoid"}),
                Unit(4, 1, groups="one", **{**unit, "bias": True}),
                Unit(4, 1, groups="one", **{**unit, "norm": "batch"}),
            ),
        ),
    )
    drawn = Drawn(stages, head="mean", hidden=0, seed=2280)
    model, inputs = drawn.make(), drawn.example_inputs(4)
    before = outputs(model, inputs)
    orders_any(model, inputs)
    torch.testing.assert_close(outputs(model, inputs), before, rtol=1e-4, atol=1e-5)
