"""prunus.torch_prune against torch.nn.utils.prune: the same calls on equal models leave equal models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.utils.prune as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus.torch_prune as ours

Pairs = list[tuple[nn.Module, str]]


class LargeOnes(theirs.BasePruningMethod):
    """A method of the user's own: prunes what is above the mean."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, times: float) -> None:
        self.times = times

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask * (t <= self.times * t.mean())


def distinct(shapes: list[torch.Size], seed: int, offset: float = 0) -> list[Tensor]:
    """Return tensors that have no two equal magnitudes between them, so that every choice is determined."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(shape.numel() for shape in shapes)
    signs = torch.randint(2, (total,), generator=generator) * 2 - 1
    values = signs * (torch.randperm(total, generator=generator) + 1 + offset)
    pieces = (values / 64).split([shape.numel() for shape in shapes])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def build(sizes: list[tuple[str, int, int]], seed: int) -> nn.ModuleList:
    makers = {"linear": nn.Linear, "conv": lambda i, o: nn.Conv2d(i, o, 2), "embedding": nn.Embedding}
    model = nn.ModuleList(makers[kind](first, second) for kind, first, second in sizes)
    parameters = list(model.parameters())
    values = distinct([parameter.shape for parameter in parameters], seed)
    for parameter, drawn in zip(parameters, values, strict=True):
        parameter.data.copy_(drawn)
    return model


def parameters_of(model: nn.ModuleList) -> Pairs:
    return [(layer, name) for layer in model for name in ("weight", "bias") if getattr(layer, name, None) is not None]


def scores_for(pairs: Pairs, seed: int | None) -> dict[Any, Tensor]:
    """Return importance scores for every other pair, none equal to a weight of the others."""
    if seed is None:
        return {}
    shapes = [getattr(layer, name).shape for layer, name in pairs]
    return dict(list(zip(pairs, distinct(shapes, seed, offset=0.5), strict=True))[::2])


amounts = st.floats(0, 1) | st.integers(0, 12)
seeds = st.integers(0, 2**31)
indices = st.integers(0, 100)
dims = st.sampled_from((0, 1, -1))
norms = st.sampled_from((1, 2, math.inf, -math.inf))
maybe_seed = st.none() | seeds
calls = st.one_of(
    st.tuples(st.just("random_unstructured"), indices, amounts, seeds),
    st.tuples(st.just("l1_unstructured"), indices, amounts, maybe_seed),
    st.tuples(st.just("random_structured"), indices, amounts, dims, seeds),
    st.tuples(st.just("ln_structured"), indices, amounts, norms, dims, maybe_seed),
    st.tuples(st.just("identity"), indices),
    st.tuples(st.just("custom_from_mask"), indices, seeds),
    st.tuples(st.just("global_l1"), amounts, maybe_seed),
    st.tuples(st.just("global_random"), amounts, seeds),
    st.tuples(st.just("global_custom"), st.floats(0.5, 2)),
)
# Removing leaves zeros behind, and which of many zeros theirs prunes next is not determined: it comes last.
removals = st.tuples(st.just("remove"), indices)
layers = st.lists(
    st.tuples(st.sampled_from(("linear", "conv", "embedding")), st.integers(1, 5), st.integers(1, 6)),
    min_size=1,
    max_size=4,
)


def perform(prune: Any, model: nn.ModuleList, call: tuple[Any, ...]) -> str:
    """Perform a call with one of the two libraries; return the error it ended with, if any."""
    what, *rest = call
    pairs = parameters_of(model)
    try:
        if what == "global_l1":
            amount, seed = rest
            prune.global_unstructured(pairs, prune.L1Unstructured, scores_for(pairs, seed), amount=amount)
        elif what == "global_random":
            amount, seed = rest
            torch.manual_seed(seed)
            prune.global_unstructured(pairs, pruning_method=prune.RandomUnstructured, amount=amount)
        elif what == "global_custom":
            prune.global_unstructured(pairs, LargeOnes, times=rest[0])
        else:
            perform_locally(prune, *pairs[rest[0] % len(pairs)], what, *rest[1:])
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def perform_locally(prune: Any, layer: nn.Module, name: str, what: str, *rest: Any) -> None:
    *arguments, seed = rest or (None,)
    torch.manual_seed(seed or 0)
    shape = getattr(layer, name).shape
    function = getattr(prune, what)
    if what == "custom_from_mask":
        function(layer, name, mask=torch.randint(0, 2, shape).bool())
    elif what in ("l1_unstructured", "ln_structured"):
        scores = None if seed is None else distinct([shape], seed)[0]
        function(layer, name, *arguments, importance_scores=scores)
    else:
        function(layer, name, *arguments)


def assert_equal(first: nn.ModuleList, second: nn.ModuleList) -> None:
    """The same keys in the same order, the same values and dtypes, the same pruned weights and hooks."""
    one, other = first.state_dict(), second.state_dict()
    assert list(one) == list(other)
    for key in one:
        assert one[key].dtype == other[key].dtype
        assert torch.equal(one[key], other[key]), key
    for (left, name), (right, _) in zip(parameters_of(first), parameters_of(second), strict=True):
        assert torch.equal(getattr(left, name), getattr(right, name))
        assert type(getattr(left, name)) is type(getattr(right, name))
    for left, right in zip(first.modules(), second.modules(), strict=True):
        assert [type(hook) for hook in left._forward_pre_hooks.values()] == [
            type(hook) for hook in right._forward_pre_hooks.values()
        ]


@settings(deadline=None, max_examples=120)
@given(layers, seeds, st.lists(calls, min_size=1, max_size=6), st.lists(removals, max_size=4))
def test_any_chain_of_calls_leaves_equal_models(
    sizes: list[tuple[str, int, int]], seed: int, chain: list[tuple[Any, ...]], removed: list[tuple[Any, ...]]
):
    expected, found = build(sizes, seed), build(sizes, seed)
    for call in chain + removed:
        assert perform(ours, found, call) == perform(theirs, expected, call)
        assert_equal(found, expected)
        assert ours.is_pruned(found) == theirs.is_pruned(expected)


@settings(deadline=None, max_examples=50)
@given(layers, seeds, st.lists(st.tuples(amounts, maybe_seed), min_size=1, max_size=4))
def test_repeated_global_pruning(sizes: list[tuple[str, int, int]], seed: int, rounds: list[tuple[Any, int | None]]):
    expected, found = build(sizes, seed), build(sizes, seed)
    for amount, scores_seed in rounds:
        call = ("global_l1", amount, scores_seed)
        assert perform(ours, found, call) == perform(theirs, expected, call)
        assert_equal(found, expected)


@pytest.fixture
def both() -> tuple[nn.ModuleList, nn.ModuleList]:
    """Two equal models of three layers."""
    sizes = [("conv", 3, 4), ("linear", 6, 5), ("linear", 5, 2)]
    return build(sizes, 0), build(sizes, 0)


def run_both(both: tuple[nn.ModuleList, nn.ModuleList], change: Callable[[Any, nn.ModuleList], None]) -> None:
    found, expected = both
    change(ours, found)
    change(theirs, expected)
    assert_equal(found, expected)


def test_dtypes_may_differ(both: tuple[nn.ModuleList, nn.ModuleList]):
    """The weights are n / 64 for n up to 99: exact in every dtype, and no two are equal."""

    def change(prune: Any, model: nn.ModuleList) -> None:
        model[0].to(torch.bfloat16)
        model[1].half()
        model[2].double()
        prune.global_unstructured(parameters_of(model), prune.L1Unstructured, amount=0.3)

    run_both(both, change)


def test_scores_with_nan_are_left_to_theirs(both: tuple[nn.ModuleList, nn.ModuleList]):
    def change(prune: Any, model: nn.ModuleList) -> None:
        model[1].weight.data[0] = math.nan
        prune.global_unstructured([(layer, "weight") for layer in model], prune.L1Unstructured, amount=0.5)

    found, expected = both
    change(ours, found)
    change(theirs, expected)
    for ours_layer, theirs_layer in zip(found, expected, strict=True):
        assert torch.equal(ours_layer.weight_mask, theirs_layer.weight_mask)


def test_integer_scores_are_left_to_theirs(both: tuple[nn.ModuleList, nn.ModuleList]):
    def change(prune: Any, model: nn.ModuleList) -> None:
        scores = {(layer, "weight"): torch.arange(layer.weight.numel()).view_as(layer.weight) for layer in model[:1]}
        prune.global_unstructured([(model[0], "weight")], prune.L1Unstructured, scores, amount=7)

    run_both(both, change)


@pytest.mark.parametrize("shapes", [[(5, 6), (4, 3, 2, 2)], [(5, 6), (5, 6)]])
def test_scores_of_the_wrong_size_are_left_to_theirs(
    both: tuple[nn.ModuleList, nn.ModuleList], shapes: list[tuple[int, ...]]
):
    """Theirs looks at the sum of the sizes only."""
    ends = []
    for prune, model in zip((ours, theirs), both, strict=True):
        pairs = [(model[0], "weight"), (model[1], "weight")]
        scores = dict(zip(pairs, distinct([torch.Size(shape) for shape in shapes], 1), strict=True))
        try:
            ends.append(prune.global_unstructured(pairs, prune.L1Unstructured, scores, amount=0.5))
        except IndexError as error:
            ends.append(str(error))
    assert ends[0] == ends[1]
    assert_equal(*both)


def test_masks_that_are_not_binary(both: tuple[nn.ModuleList, nn.ModuleList]):
    """Only what has a mask of exactly 1 can be pruned further; the rest keeps its factor."""

    def change(prune: Any, model: nn.ModuleList) -> None:
        mask = torch.tensor([0.0, 0.5, 1.0, 2.0, 1.0, 1.0]).expand(5, 6)
        prune.custom_from_mask(model[1], "weight", mask)
        prune.global_unstructured(parameters_of(model), prune.L1Unstructured, amount=0.5)

    run_both(both, change)


def test_infinite_weights_beside_pruned_ones(both: tuple[nn.ModuleList, nn.ModuleList]):
    def change(prune: Any, model: nn.ModuleList) -> None:
        prune.random_unstructured(model[1], "weight", amount=29)
        model[0].weight.data.fill_(math.inf)
        prune.global_unstructured([(model[1], "weight"), (model[0], "weight")], prune.L1Unstructured, amount=1.0)

    torch.manual_seed(0)
    found, expected = both
    change(ours, found)
    torch.manual_seed(0)
    change(theirs, expected)
    for ours_layer, theirs_layer in zip(found[:2], expected[:2], strict=True):
        assert torch.equal(ours_layer.weight_mask, theirs_layer.weight_mask)


def test_a_parameter_named_twice_and_one_shared(both: tuple[nn.ModuleList, nn.ModuleList]):
    """Each of these weights is met twice; an even amount leaves no tie to break."""

    def change(prune: Any, model: nn.ModuleList) -> None:
        prune.global_unstructured([(model[0], "weight")] * 2, prune.L1Unstructured, amount=24)
        model[2] = nn.Linear(6, 5, bias=False)
        model[2].weight = model[1].weight
        prune.global_unstructured([(layer, "weight") for layer in model[1:]], prune.L1Unstructured, amount=10)
        assert sum(int((layer.weight == 0).sum()) for layer in model[1:]) == 10

    run_both(both, change)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ((7, ours.L1Unstructured), {"amount": 0.5}),
        (([], ours.L1Unstructured), {"amount": 0.5}),
        (("pairs", ours.L1Unstructured, [1]), {"amount": 0.5}),
        (("pairs", ours.LnStructured), {"amount": 0.5, "n": 2}),
        (("pairs", ours.L1Unstructured), {"amount": 1.5}),
        (("pairs", ours.L1Unstructured), {"amount": 10_000}),
        (("pairs", ours.L1Unstructured), {"amount": "many"}),
        (("pairs", ours.L1Unstructured), {}),
        (("pairs", ours.L1Unstructured), {"amount": 1, "dim": 0}),
    ],
)
def test_the_same_errors(both: tuple[nn.ModuleList, nn.ModuleList], arguments: tuple[Any, ...], settings: Any):
    caught = []
    for prune, model in zip((ours, theirs), both, strict=True):
        filled = [parameters_of(model) if argument == "pairs" else argument for argument in arguments]
        with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
            prune.global_unstructured(*filled, **settings)
        caught.append((error.type, str(error.value)))
    assert caught[0] == caught[1]
    assert_equal(*both)


def test_ties_are_broken_like_a_stable_sort():
    """Theirs prunes as many, but leaves open which."""
    model = nn.ModuleList((nn.Linear(4, 2, bias=False), nn.Linear(4, 2, bias=False)))
    for layer in model:
        layer.weight.data = torch.tensor([[1.0, -2, 1, 2], [2, -1, 2, -2]])
    ours.global_unstructured(parameters_of(model), ours.L1Unstructured, amount=5)
    assert model[0].weight_mask.tolist() == [[0, 1, 0, 1], [1, 0, 1, 1]]
    assert model[1].weight_mask.tolist() == [[0, 1, 0, 1], [1, 1, 1, 1]]
    ours.global_unstructured(parameters_of(model), ours.L1Unstructured, amount=2)
    assert model[0].weight_mask.tolist() == [[0, 0, 0, 1], [1, 0, 1, 1]]
    assert model[1].weight_mask.tolist() == [[0, 1, 0, 1], [1, 0, 1, 1]]


def test_the_weights_are_not_joined(both: tuple[nn.ModuleList, nn.ModuleList]):
    with (
        mock.patch("torch.nn.utils.parameters_to_vector", side_effect=AssertionError),
        mock.patch("torch.nn.utils.prune.global_unstructured", side_effect=AssertionError),
    ):
        ours.global_unstructured(parameters_of(both[0]), ours.L1Unstructured, amount=0.4)
    theirs.global_unstructured(parameters_of(both[1]), theirs.L1Unstructured, amount=0.4)
    assert_equal(*both)


def test_what_theirs_refuses_and_ours_takes(both: tuple[nn.ModuleList, nn.ModuleList]):
    """A generator, and memory that is not contiguous."""
    found, expected = both
    theirs.global_unstructured(parameters_of(expected), theirs.L1Unstructured, amount=0.4)
    found[0].to(memory_format=torch.channels_last)
    assert not found[0].weight.is_contiguous()
    ours.global_unstructured(iter(parameters_of(found)), ours.L1Unstructured, amount=0.4)
    assert_equal(found, expected)


def test_what_one_pruned_the_other_removes(both: tuple[nn.ModuleList, nn.ModuleList]):
    def change(prune: Any, model: nn.ModuleList) -> None:
        other = theirs if prune is ours else ours
        prune.global_unstructured(parameters_of(model), prune.L1Unstructured, amount=0.4)
        assert other.is_pruned(model)
        for layer, name in parameters_of(model):
            other.remove(layer, name)
        assert not prune.is_pruned(model)

    run_both(both, change)


def test_every_public_name_is_there():
    public = {
        name
        for name, value in vars(theirs).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == theirs.__name__
    }
    assert public == set(ours.__all__)
    assert {name for name in public if vars(ours)[name] is not vars(theirs)[name]} == {"global_unstructured"}


def test_what_else_lives_in_theirs_is_handed_out():
    assert set(dir(theirs)) <= set(dir(ours))
    assert "_compute_nparams_toprune" not in vars(ours)
    assert ours._compute_nparams_toprune is theirs._compute_nparams_toprune
    with pytest.raises(AttributeError):
        _ = ours.no_such_name
