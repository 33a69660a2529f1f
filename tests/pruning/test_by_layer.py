"""Sparsities of single layers: each met exactly, at the end of a schedule too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.measuring.sensitivity import sensitivity
from prunus.pruning import Global


def net() -> nn.Sequential:
    """Return three layers of 200, 400 and 100 weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 20), nn.Linear(20, 5))


def removed(masks: prunus.Masks) -> dict[str, int]:
    """Return how many weights each mask removes."""
    return {name: int((~mask).sum()) for name, mask in masks.items()}


def test_each_layer_loses_its_own_fraction_and_the_last_selector_counts() -> None:
    model = net()
    masks = prunus.prune(model, {"*": 0.5, "2": 0.9, "3.weight": 0.0})
    assert removed(masks) == {"0.weight": 100, "2.weight": 360}
    for name in masks:
        weight, before = model.get_parameter(name).detach(), net().get_parameter(name).detach()
        smallest = before.abs().flatten().sort().values[int((~masks[name]).sum())]
        assert torch.equal(weight != 0, before.abs() >= smallest)
    assert torch.equal(model[3].weight, net()[3].weight)


def test_layers_that_are_not_named_are_left_alone() -> None:
    assert removed(prunus.prune(net(), {"0": 0.25})) == {"0.weight": 50}


def test_a_schedule_ends_at_each_layers_fraction() -> None:
    model = net()
    pruner = prunus.Pruner(model, {"0": 0.25, "2": 0.75}, steps=5, schedule="linear")
    for step in range(1, 6):
        pruner.step()
        assert removed(pruner.masks) == {"0.weight": 10 * step, "2.weight": 60 * step}


def test_patterns_and_bounds_hold() -> None:
    masks = prunus.prune(net(), {"2": 0.5, "0": 0}, pattern="2:4")
    assert bool((masks["2.weight"].view(20, 5, 4).sum(2) == 2).all())
    masks = prunus.prune(net(), {"2": 0.5}, pattern="block-4x4", scope=Global(min_kept=2))
    assert removed(masks) == {"2.weight": 12 * 16}
    with pytest.raises(ValueError, match="min_kept=150"):
        prunus.prune(net(), {"0": 0.5}, scope=Global(min_kept=150))
    with pytest.raises(ValueError, match=r"'0\.weight' would lose 100 of its units"):
        prunus.prune(net(), {"0": 0.5, "2": 0.4}, scope=Global(min_kept=150))


@pytest.mark.parametrize(
    ("sparsity", "options", "kind", "message"),
    [
        ({}, {}, ValueError, "prune nothing"),
        ({"0": 0.0}, {}, ValueError, "prune nothing"),
        ({"0": 0.001}, {}, ValueError, "prune nothing"),
        ({"0": 1.5}, {}, ValueError, "in \\[0, 1\\)"),
        ({"0": "half"}, {}, TypeError, "must be a number"),
        ({"nothing": 0.5}, {}, ValueError, "layer in sparsity"),
        ({"0": 0.5}, {"scope": "uniform"}, ValueError, "nothing to spread"),
        ({"0": 0.5}, {"pattern": "channel", "example_inputs": torch.ones(1, 10)}, ValueError, "takes one sparsity"),
        ({"2": 0.4}, {"pattern": "2:4"}, ValueError, "removes exactly 0.5"),
    ],
)
def test_what_makes_no_sense_is_refused(
    sparsity: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    model = net()
    with pytest.raises(kind, match=message):
        prunus.prune(model, sparsity, **options)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), net().parameters(), strict=True))


def separable() -> nn.Sequential:
    """Return a depthwise convolution of 72 weights between two others of 32 and 64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1))


def test_blocks_of_inputs_leave_depthwise_convolutions_dense_unless_told() -> None:
    model = separable()
    assert removed(prunus.prune(model, 0.5, pattern="inputs-4", scope="uniform")) == {"0.weight": 16, "2.weight": 32}
    pruner = prunus.Pruner(model, 0.75, steps=1, pattern="inputs-4", scope="uniform")
    pruner.step()
    assert removed(pruner.masks) == {"0.weight": 24, "2.weight": 48}
    assert bool((model[1].weight != 0).all())
    mask = prunus.prune(model, {"1": 0.5}, pattern="inputs-2:depthwise=columns")["1.weight"]
    assert bool((mask[..., 0] == mask[..., 1]).all())
    assert int((mask[..., 1:].float().sum(3) == 1).sum()) > 0  # the third column goes by itself


@pytest.mark.parametrize(
    ("sparsity", "options"),
    [(0.5, {"include": ["1"]}), (0.5, {"include": "1.*"}), ({"1": 0.5, "2": 0.5}, {}), (0.5, {"exclude": ["0", "2"]})],
)
def test_a_depthwise_convolution_that_is_named_alone_is_refused(sparsity: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"of 1\.weight: pattern inputs-4 .*; write inputs-4:depthwise=columns"):
        prunus.prune(separable(), sparsity, pattern="inputs-4", **options)


def test_sensitivity_of_blocks_of_inputs_has_no_curve_of_a_depthwise_convolution() -> None:
    curves = sensitivity(separable(), lambda model: 0.0, sparsities=(0.5,), pattern="inputs-4")
    assert {"0.weight", "2.weight"} < set(curves)
    assert "1.weight" not in curves
