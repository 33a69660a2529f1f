"""The contract of every criterion, and each against its paper's formula written anew."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from axes import with_loss
from prunus.pruning.criteria import (
    CRITERIA,
    Criterion,
    Random,
    activation,
    criterion,
    gradient,
    lamp,
    magnitude,
    resolve,
)
from prunus.pruning.scopes import Global
from prunus.pruning.stats import Stats
from prunus.registry import UnknownNameError

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(), (1,), (7,), (4, 6), (3, 2, 5), (4, 3, 3, 3), (2, 3, 2, 2, 2), (0,), (3, 0)]


def weights(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def stats_for(weight: Tensor) -> Stats:
    """Everything any criterion may need, so that a new need is filled in here by itself."""
    optional = [entry.name for entry in dataclasses.fields(Stats) if entry.default is None]
    return Stats("layer", **{name: weights(tuple(weight.shape), 9).abs() + 0.1 for name in optional})


@pytest.fixture(params=CRITERIA, ids=str)
def any_criterion(request: pytest.FixtureRequest) -> Criterion:
    return CRITERIA[request.param]


def test_every_criterion_says_what_it_scores_by(any_criterion: Criterion) -> None:
    assert (any_criterion.score.__doc__ or "").startswith("Score a weight by ")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_are_finite_numbers_of_the_weights_shape(any_criterion: Criterion, shape: tuple[int, ...]) -> None:
    weight = weights(shape)
    scores = any_criterion(weight, stats_for(weight))
    assert scores.shape == weight.shape
    assert scores.is_floating_point()
    assert torch.isfinite(scores).all()


def test_scores_are_right_in_every_dtype(any_criterion: Criterion, dtype: torch.dtype) -> None:
    weight = weights((40, 30), dtype=dtype)
    exact = any_criterion(weight.double(), stats_for(weight))
    scores = any_criterion(weight, stats_for(weight))
    torch.testing.assert_close(scores.double(), exact.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [0.0, 1e-7, 6e4])
def test_scores_of_extreme_weights_are_finite(any_criterion: Criterion, dtype: torch.dtype, size: float) -> None:
    weight = (weights((8, 8)).sign() * size).to(dtype)
    assert torch.isfinite(any_criterion(weight, stats_for(weight))).all()


def test_scores_do_not_depend_on_how_a_row_is_shaped(any_criterion: Criterion) -> None:
    matrix, kernels = weights((4, 6)), weights((4, 6)).view(4, 3, 2)
    by_matrix = any_criterion(matrix, stats_for(matrix))
    stats = stats_for(matrix)
    shaped = Stats(
        stats.name,
        **{key: value.view(4, 3, 2) for key, value in vars(stats).items() if key != "name" and value is not None},
    )
    assert torch.equal(by_matrix, any_criterion(kernels, shaped).view(4, 6))


def test_scores_do_not_depend_on_the_memory_layout(any_criterion: Criterion) -> None:
    weight = weights((4, 3, 2, 2))
    strided = weight.contiguous(memory_format=torch.channels_last)
    assert torch.equal(any_criterion(weight, stats_for(weight)), any_criterion(strided, stats_for(weight)))


def test_scoring_changes_neither_the_weight_nor_the_random_state(any_criterion: Criterion) -> None:
    weight = weights((4, 6))
    before, state = weight.clone(), torch.get_rng_state()
    first = any_criterion(weight, stats_for(weight))
    assert torch.equal(weight, before)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(11)
    assert torch.equal(any_criterion(weight, stats_for(weight)), first)


@pytest.mark.parametrize("name", [name for name, found in CRITERIA.items() if found.elementwise])
def test_elementwise_criteria_give_a_piece_the_scores_it_has_in_the_whole(name: str) -> None:
    weight, factor = weights((40,)), weights((40,), 1)
    whole = CRITERIA[name](weight, Stats("layer", gradient=factor))
    for piece in (slice(10, 20), slice(None, None, 7)):
        assert torch.equal(CRITERIA[name](weight[piece], Stats("layer", gradient=factor[piece])), whole[piece])


def test_masks_do_not_depend_on_the_order_of_the_layers(
    any_criterion: Criterion,
    make_network: Callable[[int], nn.Module],
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    forwards, backwards = make_network(4), make_network(4)
    children = dict(backwards.named_children())
    for name in children:
        delattr(backwards, name)
    for name in reversed(children):
        setattr(backwards, name, children[name])
    one, other = (
        prunus.prune(model, 0.6, criterion=with_loss(any_criterion.name), data=batches)
        for model in (forwards, backwards)
    )
    assert list(one) == list(other)[::-1]
    assert one == other


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=12))
@settings(deadline=None, max_examples=100)
def test_lamp_is_the_papers_equation_ties_included(values: list[int]) -> None:
    expected = [
        value**2 / sum(other**2 for other in values if abs(other) >= abs(value)) if value else 0.0 for value in values
    ]
    found = lamp(torch.tensor(values, dtype=torch.float32), Stats())
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=0)


def test_lamp_scores_of_huge_and_tiny_layers_are_those_of_the_same_layer_scaled() -> None:
    weight = weights((30,), dtype=torch.float64)
    expected = lamp(weight, Stats()).float()
    for scale, dtype in [(1e30, torch.float32), (1e-30, torch.float32), (1e4, torch.float16), (1e30, torch.bfloat16)]:
        scaled = (weight * scale).to(dtype)
        torch.testing.assert_close(lamp(scaled, Stats()), expected, rtol=0.05, atol=0)


def test_lamp_of_a_large_layer_keeps_its_precision() -> None:
    # in float32 a running sum of 10^6 equal squares would be off in the fourth digit
    assert lamp(torch.ones(1_000_000), Stats())[0].item() == pytest.approx(1e-6, rel=1e-6)


def test_lamp_prefers_the_layer_whose_largest_weights_stand_out() -> None:
    # the paper's point: the last weight of every layer scores 1, so no layer is emptied under a global scope
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    with torch.no_grad():
        model[1].weight.mul_(1e-4)
    masks = prunus.prune(copy.deepcopy(model), 0.95, criterion="lamp", scope=Global(min_kept=0))
    assert all(mask.any() for mask in masks.values())
    assert not prunus.prune(model, 0.5, criterion="magnitude", scope=Global(min_kept=0))["1.weight"].any()


def test_magnitude_gradient_and_activation_are_their_formulas() -> None:
    weight, factor = weights((3, 4), 1, torch.float64), weights((3, 4), 2, torch.float64)
    norm = weights((1, 4), 3, torch.float64).abs()
    for row in range(3):
        for column in range(4):
            w, g, n = (float(x) for x in (weight[row, column], factor[row, column], norm[0, column]))
            assert float(magnitude(weight, Stats())[row, column]) == math.fabs(w)
            assert float(gradient(weight, Stats(gradient=factor))[row, column]) == math.fabs(g * w)
            assert float(activation(weight, Stats(input_norm=norm))[row, column]) == math.fabs(w) * n


def test_random_scores_are_uniform_and_differ_by_layer_and_seed() -> None:
    scores = Random(0)(torch.zeros(100, 100), Stats("conv"))
    assert scores.unique().numel() == scores.numel()
    counts = torch.histc(scores.float(), bins=10, min=0, max=1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001
    for seed, name in ((1, "conv"), (0, "fc")):
        both = torch.stack([scores.flatten(), Random(seed)(torch.zeros(100, 100), Stats(name)).flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.04  # four standard errors of 10,000 pairs


def test_a_users_own_criterion_is_registered_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CRITERIA, "_entries", dict(CRITERIA._entries))

    @criterion("nearest_to_one")
    def nearest_to_one(weight: Tensor, stats: Stats) -> Tensor:
        return -(weight - 1).abs()

    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[5.0, 1.1], [-9.0, 0.5]])
    prunus.prune(layer, 0.5, criterion="nearest_to_one")
    assert layer.weight.tolist() == [[0.0, pytest.approx(1.1)], [0.0, 0.5]]


def test_resolve_takes_names_functions_and_criteria() -> None:
    assert resolve("lamp") is CRITERIA["lamp"]
    assert resolve(CRITERIA["lamp"]) is CRITERIA["lamp"]
    own = resolve(lambda weight, stats: weight)
    assert (own.name, own.needs, own.elementwise) == ("<lambda>", None, False)


def test_what_is_no_criterion_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown criterion 'magnitud'; did you mean 'magnitude'\?"):
        resolve("magnitud")
    with pytest.raises(TypeError, match="criterion must be a name or a function"):
        resolve(3)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"criterion must be a name or a function \(weight, stats\) -> scores, got <fun"
    ):
        resolve(lambda weight: weight)  # type: ignore[arg-type, misc]
    with pytest.raises(ValueError, match="needs must be None or one of gradient, input_norm, curvature, got 'hessian'"):
        Criterion("own", magnitude, needs="hessian")  # type: ignore[arg-type]
