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


@pytest.mark.parametrize("seed", [0, 2])
def test_recovered_it_loses_less_than_global_and_uniform(seed: int) -> None:
    """On a net that tells points around eight centres apart, at a sparsity where much is lost."""
    centres = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))

    def drawn(own: int, count: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(own)
        labels = torch.randint(8, (count,), generator=generator)
        return centres[labels] + 0.7 * torch.randn(count, 16, generator=generator), labels

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    inputs, labels = drawn(0, 2000)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    samples, errors = list(drawn(1, 256)[0].split(32)), {}
    for scope in ("global", "uniform", "least_error"):
        pruned = copy.deepcopy(model.eval())
        masks = prunus.prune(copy.deepcopy(model), 0.9, scope=scope, data=samples)
        assert masks.num_pruned == round(0.9 * (16 * 64 + 64 * 64 + 64 * 8))
        errors[scope] = prunus.recover(pruned, masks, samples).after
    assert errors["least_error"] < 0.7 * min(errors["global"], errors["uniform"])
    assert all(float(mask.float().mean()) > 0.02 for mask in masks.values())  # no layer is sacrificed


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


def test_whole_channels_have_no_curves() -> None:
    with pytest.raises(ValueError, match="not whole channels; use scope 'global' or 'uniform'"):
        prunus.prune(net(), 0.5, pattern="channel", scope="least_error", data=SAMPLES, example_inputs=SAMPLES[0])


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
