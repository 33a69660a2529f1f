"""Pruning by whole channels: budgets met, protected layers left, scores that are sums, refusals that say why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from axes import with_loss
from prunus.errors import ChannelError
from prunus.measuring.macs import count_macs
from prunus.pruning import Channels, Global
from zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = torch.zeros(1, 4, 6, 6)
Batches = list[tuple[Tensor, Tensor]]

NETS = ("plain-cnn", "residual-projection", "densenet", "resnext", "glu-chunk", "unet", "separate-qkv")


def weights(model: nn.Module) -> int:
    """Count the weights that a sparsity of this zoo's networks speaks of: matrices and kernels, no tables."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return sum(p.numel() for p in model.parameters() if p.dim() >= 2 and id(p) not in tables)


@pytest.mark.parametrize("name", NETS)
def test_the_shrunk_model_has_what_was_asked_for(name: str) -> None:
    case = ZOO[name]
    for sparsity in (0.3, 0.5, 0.7):
        model = case.make()
        prunus.prune(model, sparsity, pattern="channel", example_inputs=case.example_inputs)
        if sparsity == 0.5:
            smaller = prunus.shrink(model, case.example_inputs)
            assert 1 - weights(smaller) / weights(model) == pytest.approx(sparsity, abs=0.02)


@pytest.mark.parametrize("name", ["plain-cnn", "depthwise-separable", "separate-qkv"])
def test_a_budget_of_macs_is_what_running_it_counts(name: str) -> None:
    case = ZOO[name]
    model = case.make()
    before = count_macs(model, case.arguments(1)[0]).total
    prunus.prune(model, 0.5, pattern=Channels(budget="macs"), example_inputs=case.example_inputs)
    after = count_macs(prunus.shrink(model, case.example_inputs), case.arguments(1)[0]).total
    assert 1 - after / before == pytest.approx(0.5, abs=0.02)


def alive(masks: prunus.Masks, name: str, dim: int = 0) -> list[int]:
    return masks[name].movedim(dim, 0).flatten(1).any(1).nonzero().flatten().tolist()


def test_the_lowest_sums_of_rows_and_columns_go(network: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    sums = model[0].weight.detach().abs().sum(1) + model[2].weight.detach().abs().sum(0)
    expected = sorted(sums.argsort()[4:].tolist())
    masks = prunus.prune(model, 0.5, pattern="channel", example_inputs=torch.zeros(1, 5))
    assert alive(masks, "0.weight") == alive(masks, "2.weight", 1) == expected
    assert masks["0.bias"].nonzero().flatten().tolist() == expected
    assert masks["2.weight"].sum() == 4 * 3
    assert "2.bias" not in masks or masks["2.bias"].all()
    masks.check(model)


def test_inputs_outputs_and_excluded_layers_stay(network: nn.Module) -> None:
    masks = prunus.prune(network, 0.4, pattern="channel", exclude=["conv"], example_inputs=INPUTS)
    assert alive(masks, "conv.weight") == list(range(8))
    assert alive(masks, "conv.weight", 1) == list(range(4))
    assert alive(masks, "head.weight") == list(range(8))
    assert 1 < len(alive(masks, "hidden.weight")) < 24


def test_only_included_layers_go(network: nn.Module) -> None:
    masks = prunus.prune(network, 0.375, pattern="channel", include=["conv"], example_inputs=INPUTS)
    assert len(alive(masks, "conv.weight")) == 5
    assert alive(masks, "hidden.weight") == list(range(24))


@pytest.mark.parametrize(("round_to", "sparsity"), [(2, 0.53), (4, 0.64)])
def test_widths_are_multiples(round_to: int, sparsity: float, network: nn.Module) -> None:
    options: dict[str, Any] = {"pattern": Channels(round_to), "example_inputs": INPUTS}
    masks = prunus.prune(network, sparsity, **options)
    assert len(alive(masks, "conv.weight")) % round_to == len(alive(masks, "hidden.weight")) % round_to == 0


def test_a_multiple_wider_than_the_layers_is_named(network: nn.Module) -> None:
    with pytest.raises(ChannelError, match=r"multiples of round_to=64, at most 0\.000 of .*give a smaller round_to"):
        prunus.prune(network, 0.5, pattern=Channels(64), example_inputs=INPUTS)


def test_each_layer_keeps_the_least_it_should(network: nn.Module) -> None:
    masks = prunus.prune(network, 0.5, pattern="channel", scope=Global(min_kept=5), example_inputs=INPUTS)
    assert len(alive(masks, "conv.weight")) >= 5
    assert len(alive(masks, "hidden.weight")) >= 5


def test_heads_go_whole() -> None:
    case = ZOO["separate-qkv"]
    model = case.make()
    masks = prunus.prune(model, 0.5, pattern="channel", example_inputs=case.example_inputs)
    for name in ("query", "key", "value"):
        left = alive(masks, f"1.attn.{name}.weight")
        assert {index // 8 for index in left} == {left[place] // 8 for place in range(0, len(left), 8)}
        assert len(left) % 8 == 0


@pytest.mark.parametrize("criterion", ["magnitude", "random", "gradient", "activation", "lamp"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_criteria_and_scopes(criterion: str, scope: str, network: nn.Module, batches: Batches) -> None:
    total = weights(network)
    masks = prunus.prune(
        network,
        0.5,
        pattern="channel",
        criterion=with_loss(criterion),
        scope=scope,
        data=batches,
        example_inputs=INPUTS,
    )
    masks.check(network)
    assert 1 - weights(prunus.shrink(network.eval(), INPUTS)) / total == pytest.approx(0.5, abs=0.02)


def test_a_pruner_reaches_its_target_and_goes_on_from_a_saved_state(
    make_network: Callable[[int], nn.Module], batches: Batches
) -> None:
    network = make_network(0)
    options: dict[str, Any] = {"steps": 6, "schedule": "cubic:every=2", "pattern": "channel", "example_inputs": INPUTS}
    pruner = prunus.Pruner(network, 0.6, **options)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    earlier = pruner.masks
    for step in range(8):
        images, labels = batches[step % 2]
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        pruner.step()
        pruner.masks.check(network)
        assert all(bool((pruner.masks[name] <= earlier[name]).all()) for name in earlier)
        earlier = pruner.masks
        if step == 3:
            state = copy.deepcopy(pruner.state_dict())
            again = make_network(0)
            other = prunus.Pruner(again, 0.6, **options)
            other.load_state_dict(state)
            assert other.num_steps == 4
            assert all(torch.equal(other.masks[name], earlier[name]) for name in earlier)
            other.masks.check(again)
    assert pruner.finished
    total = weights(network)
    assert 1 - weights(prunus.shrink(network.eval(), INPUTS)) / total == pytest.approx(0.6, abs=0.02)


def test_what_was_pruned_before_stays_pruned(network: nn.Module) -> None:
    first = prunus.prune(network, 0.3, pattern="channel", example_inputs=INPUTS)
    second = prunus.prune(network, 0.6, pattern="channel", criterion="random", masks=first, example_inputs=INPUTS)
    assert all(bool((second[name] <= first[name]).all()) for name in first)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "channel:budget=flops"}, "budget must be 'parameters' or 'macs', got 'flops'"),
        ({"pattern": "channel:round_to=0"}, "round_to must be at least 1, got 0"),
        ({"pattern": "channel:width=4"}, "unknown option of pattern 'channel': 'width'.*known: budget, round_to"),
        ({"example_inputs": None}, "give example_inputs"),
        ({"sparsity": 0.9, "scope": "global:min_kept=7"}, "can't be reached by whole channels"),
        ({"exclude": ["conv", "hidden"]}, "no channel of this model may go"),
        ({"pattern": "unstructured:round_to=4"}, "unknown option of pattern 'unstructured': 'round_to'"),
    ],
)
@pytest.mark.parametrize("pruner", [False, True], ids=["prune", "Pruner"])
def test_wrong_arguments_change_nothing(options: dict[str, Any], words: str, pruner: bool, network: nn.Module) -> None:
    before = copy.deepcopy(network.state_dict())
    given: dict[str, Any] = {"sparsity": 0.5, "pattern": "channel", "example_inputs": INPUTS, **options}
    with pytest.raises(ValueError, match=words):
        prunus.Pruner(network, steps=3, **given) if pruner else prunus.prune(network, **given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_weights_that_are_computed_are_named() -> None:
    first = nn.utils.parametrizations.weight_norm(nn.Linear(8, 16))
    with pytest.raises(ChannelError, match=r"no channel.* as of layer '0',.*remove_parametrizations\(layer"):
        prunus.prune(nn.Sequential(first, nn.Linear(16, 4)), 0.5, pattern="channel", example_inputs=torch.zeros(2, 8))


def test_masks_that_do_not_fit_are_refused() -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), torch.zeros(2, 8)
    for masks, error in (
        ({"0.weight": torch.ones(3, dtype=torch.bool)}, prunus.MaskError),
        ({"0.weight": torch.ones(16, 8)}, TypeError),
        ([1], TypeError),
    ):
        with pytest.raises(error, match="mask"):
            prunus.prune(model, 0.5, pattern="channel", example_inputs=x, masks=masks)  # type: ignore[arg-type]


def test_a_sparsity_between_two_steps_names_both(network: nn.Module) -> None:
    with pytest.raises(ChannelError, match=r"can't be met within 0\.02: whole channels remove 0\.375 or 0\.500"):
        prunus.prune(network, 0.4, pattern="channel", include=["conv"], example_inputs=INPUTS)
    assert bool(network.conv.weight.all())


def test_nan_weights_are_not_ranked(network: nn.Module) -> None:
    network.hidden.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'hidden\.weight' holds NaN"):
        prunus.prune(network, 0.5, pattern="channel", example_inputs=INPUTS)
