"""Scope "least_error": how many units each layer loses, against brute force and against errors measured by hand."""

from __future__ import annotations

import copy
import itertools

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.pruning import LeastError
from prunus.pruning.allocation import Curve, Option, allocate, options


def net() -> nn.Sequential:
    """Return a net of which the first layer's rows matter much, and the second's little."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
    with torch.no_grad():
        model[2].weight[3:] *= 1e-3
        model[2].bias[3:] = 0
        model[4].weight[:, 3:] *= 1e-3
    return model.eval()


SAMPLES = [torch.randn(32, 12, generator=torch.Generator().manual_seed(1)) for _ in range(3)]


@given(st.integers(1, 4), st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.booleans())
def test_no_other_counts_have_a_smaller_error(num_layers: int, seed: int, share: float, priced: bool) -> None:
    draw = numpy.random.default_rng(seed)
    layers = []
    for _ in range(num_layers):
        counts = numpy.arange(draw.integers(1, 6))
        price = int(draw.integers(1, 5)) if priced else 1
        errors = draw.random(len(counts)).cumsum() * draw.random()
        layers.append(Option(counts, errors, price * (len(counts) - counts).astype(float)))
    capacity = round(share * sum(float(layer.left[0]) for layer in layers))
    choices = list(itertools.product(*[range(len(layer.counts)) for layer in layers]))
    within = [
        sum(float(layer.errors[at]) for layer, at in zip(layers, choice, strict=True))
        for choice in choices
        if sum(layer.left[at] for layer, at in zip(layers, choice, strict=True)) <= capacity
    ]
    counts = allocate(layers, capacity)
    if not within:
        assert counts is None
        return
    assert counts is not None
    assert sum(layer.left[count] for layer, count in zip(layers, counts, strict=True)) <= capacity
    error = sum(float(layer.errors[count]) for layer, count in zip(layers, counts, strict=True))
    assert error == pytest.approx(min(within), abs=1e-12)


def test_costs_that_are_no_whole_numbers_are_never_above_the_capacity() -> None:
    curve = Curve((0, 500, 1000), (0.0, 0.1, 1.0))
    layers = [options(curve, 0, 1000, 1000, price) for price in (0.37, 11.3, 290.1)]
    for capacity in (3_000.0, 30_000.0, 290_000.0):
        counts = allocate(layers, capacity)
        assert counts is not None
        left = sum(price * (1000 - count) for price, count in zip((0.37, 11.3, 290.1), counts, strict=True))
        assert 0.9 * capacity < left <= capacity


def measured(model: nn.Module, masks: prunus.Masks) -> float:
    """Return the squared error of the outputs relative to their variance, written out."""
    inputs = torch.cat(SAMPLES)
    with torch.no_grad():
        dense = model(inputs).double()
        kept = {name: value * masks[name] if name in masks else value for name, value in model.state_dict().items()}
        pruned = torch.func.functional_call(model, kept, (inputs,)).double()
    return float((pruned - dense).square().sum() / (dense - dense.mean()).square().sum())


def test_it_loses_little_where_magnitudes_mislead_and_meets_the_sparsity() -> None:
    """A layer of small weights in front of one of large ones matters as much, which "global" can't see."""
    errors = {}
    for scope in ("global", "uniform", "erk", "least_error"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).eval()
        with torch.no_grad():
            for parameter, factor in zip(model.parameters(), (0.1, 0.1, 10, 1, 1, 1), strict=True):
                parameter *= factor
        whole = copy.deepcopy(model)
        masks = prunus.prune(model, 0.6, scope=scope, data=SAMPLES)
        assert masks.num_pruned == round(0.6 * (12 * 20 + 20 * 30 + 30 * 4))
        errors[scope] = measured(whole, masks)
    assert errors["least_error"] < 0.8 * min(errors["global"], errors["erk"])
    assert errors["least_error"] < 1.2 * errors["uniform"]  # errors of single layers don't add up exactly


def test_by_hand() -> None:
    """Two layers of two weights, of which the smaller ones are multiplied by 0, so they cost nothing."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.5]]))
        model[1].weight.fill_(1e-3)
    masks = prunus.prune(model, 1 / 3, scope="least_error", data=[torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]])])
    assert masks["0.weight"].tolist() == [[True, False]]
    assert masks["1.weight"].tolist() == [[True]]  # magnitude alone would take it first


def test_layers_whose_weights_are_used_more_often_lose_more_where_macs_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)).eval()
    images = [torch.randn(16, 1, 8, 8)]
    masks = prunus.prune(model, "50% MACs", scope="least_error", data=images, example_inputs=images[0])
    left = 64 * int(masks["0.weight"].sum()) + int(masks["3.weight"].sum())
    assert 0.97 * 0.5 * (64 * 72 + 5120) <= left <= 0.5 * (64 * 72 + 5120)


@pytest.mark.parametrize("sparsity", [0.5, "40% MACs"])
def test_whole_channels(sparsity: float | str) -> None:
    model = net()
    masks = prunus.prune(
        model, sparsity, pattern="channel", scope="least_error", data=SAMPLES, example_inputs=SAMPLES[0]
    )
    gone = [~masks[name].any(1) for name in ("0.weight", "2.weight")]
    assert int(gone[1].sum()) > 2 * int(gone[0].sum())  # rows that are a thousandth of the others cost least
    torch.testing.assert_close(prunus.shrink(model, SAMPLES[0])(SAMPLES[0]), model(SAMPLES[0]))


def test_a_pruner_measures_once_and_ends_at_the_same_counts() -> None:
    model, runs = net(), []
    once = prunus.prune(net(), 0.6, scope="least_error", data=SAMPLES)
    model.register_forward_pre_hook(lambda module, args: runs.append(len(args)))
    pruner = prunus.Pruner(model, 0.6, steps=5, scope="least_error", data=SAMPLES)
    before = len(runs)
    for _ in range(5):
        pruner.step()
    assert 0 < before == len(runs)
    assert {name: int(mask.sum()) for name, mask in pruner.masks.items()} == {
        name: int(mask.sum()) for name, mask in once.items()
    }


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = prunus.prune(model, 0.5, scope="least_error", data=iter(SAMPLES))
    assert model.training
    assert model[2].training
    for name, value in model.state_dict().items():
        expected = before[name] * masks[name] if name in masks else before[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("scope", "data", "message"),
    [
        ("least_error", None, r"scope 'least_error' measures what the outputs lose; give data=batches"),
        (LeastError(min_kept=2), [], "data held no batch"),
    ],
)
def test_without_data(scope: object, data: list[Tensor] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prunus.prune(net(), 0.5, scope=scope, data=data)  # type: ignore[arg-type]


def test_a_model_whose_outputs_are_whole_numbers() -> None:
    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).argmax(1)

    with pytest.raises(ValueError, match="hold no floating-point numbers"):
        prunus.prune(Classes(), 0.5, scope="least_error", data=SAMPLES)


def test_outputs_that_are_not_finite_are_refused() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x).masked_fill(torch.arange(4) == 0, -torch.inf)
            return y

    with pytest.raises(ValueError, match="are not all finite"):
        prunus.prune(Masked(), 0.5, scope="least_error", data=SAMPLES)


def test_nan_weights_are_named() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'2\.weight' holds 1 NaN weights"):
        prunus.prune(model, 0.5, scope="least_error", data=SAMPLES)
