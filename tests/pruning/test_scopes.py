"""The contract of every scope, global against a sort, ERK against its equation solved by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Size, Tensor, nn

import prunus
from prunus.pruning import scopes
from prunus.pruning.allocation import ByCurves, Curve
from prunus.pruning.scopes import SCOPES, Global, Layer, Scope, Spread, Spreading, erk, global_, resolve, uniform
from prunus.registry import UnknownNameError

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class FakeLayer:
    """A layer's scores as a scope sees them, without a model."""

    name: str
    shape: Size
    scores: Tensor
    fewest: int = 0
    kept: int = 0

    @property
    def count(self) -> int:
        return self.scores.numel()

    @property
    def most(self) -> int:
        return max(self.count - self.kept, self.fewest)

    def chunks(self) -> Iterator[Tensor]:
        yield from torch.tensor_split(self.scores, 2)

    def sample(self, stride: int) -> Tensor:
        return self.scores[::stride]


def spreading(name: str, layers: list[FakeLayer]) -> Spreading:
    """Return the function of a scope; one that needs curves has those of a model that the numbers are drawn for."""
    if not Scope(SCOPES[name]).needs_curves:
        return SCOPES[name]
    return ByCurves({one.name: Curve((0, one.count), (0.0, float(one.count % 3))) for one in layers}, {})


@st.composite
def layer_lists(draw: st.DrawFn) -> list[FakeLayer]:
    layers = []
    for index in range(draw(st.integers(1, 5))):
        shape = Size(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
        scores = draw(st.lists(st.integers(0, 6), min_size=shape.numel(), max_size=shape.numel()))
        fewest = draw(st.integers(0, shape.numel()))
        values = torch.tensor(scores, dtype=torch.float32)
        values[:fewest] = -torch.inf  # what is gone already
        layers.append(FakeLayer(f"layer{index}", shape, values, fewest, draw(st.integers(0, 2))))
    return layers


@st.composite
def layers_and_budgets(draw: st.DrawFn) -> tuple[list[FakeLayer], int]:
    layers = draw(layer_lists())
    return layers, draw(st.integers(sum(layer.fewest for layer in layers), sum(layer.most for layer in layers)))


def layer(count: int, name: str = "layer", shape: tuple[int, ...] | None = None, **options: int) -> FakeLayer:
    return FakeLayer(name, Size(shape or (count,)), torch.arange(count, dtype=torch.float32), **options)


@pytest.mark.parametrize("name", SCOPES)
@given(drawn=layers_and_budgets())
@settings(deadline=None, max_examples=100)
def test_counts_meet_the_budget_exactly_within_the_bounds(name: str, drawn: tuple[list[FakeLayer], int]) -> None:
    layers, budget = drawn
    found = spreading(name, layers)(layers, budget)
    counts = found.remove if isinstance(found, Spread) else tuple(found)
    assert sum(counts) == budget
    assert all(one.fewest <= count <= one.most for one, count in zip(layers, counts, strict=True))
    assert all(isinstance(count, int) for count in counts)


@pytest.mark.parametrize("name", SCOPES)
@given(layers=layer_lists(), shares=st.lists(st.floats(0, 1), min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_no_layer_gets_weights_back_as_the_budget_grows(
    name: str, layers: list[FakeLayer], shares: list[float]
) -> None:
    for share in sorted(shares):
        low, high = sum(one.fewest for one in layers), sum(one.most for one in layers)
        counts = Scope(spreading(name, layers)).spread(layers, low + int(share * (high - low))).remove
        assert all(count >= one.fewest for one, count in zip(layers, counts, strict=True))
        layers = [
            FakeLayer(
                one.name,
                one.shape,
                one.scores.sort().values.index_fill(0, torch.arange(count), -torch.inf),
                count,
                one.kept,
            )
            for one, count in zip(layers, counts, strict=True)
        ]


@pytest.mark.parametrize("name", SCOPES)
def test_no_layer_is_emptied_unless_asked(name: str) -> None:
    shapes = [(4, 4), (1, 2), (9, 3)]
    for kept, least in [(1, 1), (0, 0)]:
        layers = [layer(math.prod(shape), shape=shape, kept=kept) for shape in shapes]
        total = sum(one.count for one in layers)
        counts = Scope(spreading(name, layers)).spread(layers, total - 3 * kept).remove
        assert min(one.count - count for one, count in zip(layers, counts, strict=True)) == least


@given(drawn=layers_and_budgets())
@settings(deadline=None, max_examples=100)
def test_global_removes_the_lowest_scores_of_all(drawn: tuple[list[FakeLayer], int]) -> None:
    layers, budget = drawn
    layers = [FakeLayer(one.name, one.shape, one.scores, one.fewest) for one in layers]  # no layer is held back
    ranked = sorted(
        (float(score), index, place) for index, one in enumerate(layers) for place, score in enumerate(one.scores)
    )
    expected = [sum(index == number for _, index, _ in ranked[:budget]) for number in range(len(layers))]
    assert list(Scope(global_).spread(layers, budget).remove) == expected


def test_global_lets_the_others_pay_for_a_layer_at_its_bound() -> None:
    low, high = layer(4, kept=1), FakeLayer("high", Size((6,)), torch.arange(6.0) + 100)
    assert Scope(global_).spread([low, high], 6).remove == (3, 3)
    # two layers that reach their bounds one after the other
    layers = [layer(4, kept=3), layer(4, kept=1), FakeLayer("high", Size((8,)), torch.arange(8.0) + 100)]
    assert Scope(global_).spread(layers, 9).remove == (1, 3, 5)


@given(counts=st.lists(st.integers(1, 1000), min_size=1, max_size=6), sparsity=st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_uniform_is_within_one_weight_of_the_same_share(counts: list[int], sparsity: float) -> None:
    layers = [layer(count) for count in counts]
    budget = round(sparsity * sum(counts))
    share = budget / sum(counts)
    for count, removed in zip(counts, Scope(uniform).spread(layers, budget).remove, strict=True):
        assert abs(removed - share * count) < 1 + 1e-6


def test_uniform_gives_the_odd_weights_to_the_largest_remainders() -> None:
    assert Scope(uniform).spread([layer(10), layer(20), layer(30)], 25).remove == (4, 8, 13)  # 4.17, 8.33, 12.5
    assert Scope(uniform).spread([layer(1), layer(1), layer(1)], 1).remove == (1, 0, 0)


def erk_densities(shapes: Sequence[tuple[int, ...]], density: float) -> list[float]:
    """Solve, by bisection for the scale: sum of min(1, scale * sum(s) / prod(s)) * prod(s) = density * total."""
    sizes, raw = [math.prod(shape) for shape in shapes], [sum(shape) / math.prod(shape) for shape in shapes]
    low, high = 0.0, max(sizes)
    for _ in range(200):
        scale = (low + high) / 2
        kept = sum(min(1.0, scale * one) * size for one, size in zip(raw, sizes, strict=True))
        low, high = (scale, high) if kept < density * sum(sizes) else (low, scale)
    return [min(1.0, scale * one) for one in raw]


LENET = [(20, 1, 5, 5), (50, 20, 5, 5), (166, 50, 4, 4), (10, 166)]


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    "shapes", [LENET, [(300, 784), (100, 300), (10, 100)], [(64, 3, 7, 7), (512, 512, 3, 3), (9, 9)]]
)
def test_erk_solves_its_equation(shapes: list[tuple[int, ...]], sparsity: float) -> None:
    layers = [layer(math.prod(shape), shape=shape) for shape in shapes]
    total = sum(one.count for one in layers)
    counts = Scope(erk).spread(layers, round(sparsity * total)).remove
    for one, count, density in zip(layers, counts, erk_densities(shapes, 1 - sparsity), strict=True):
        assert abs(one.count - count - density * one.count) < 1.5


def test_erk_of_lenet_300_100_is_the_hand_computation() -> None:
    # 90%: 26,620 of 266,200 weights stay. With (in + out) shares the last layer, of 1,000, would get more than it
    # has, so it stays whole; the others share 25,620 as 1084 : 400.
    layers = [layer(math.prod(shape), shape=shape) for shape in [(300, 784), (100, 300), (10, 100)]]
    kept = [one.count - count for one, count in zip(layers, Scope(erk).spread(layers, 239_580).remove, strict=True)]
    first = 25_620 * 1084 / 1484
    assert kept == [round(first), round(25_620 - first), 1000]


def resnet50_layers() -> list[tuple[tuple[int, ...], int]]:
    """Return each layer's shape and the height and width of its output, 1000 classes, images of 224x224."""
    layers: list[tuple[tuple[int, ...], int]] = [((64, 3, 7, 7), 112)]
    inputs = 64
    for num_blocks, width, size in [(3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)]:
        for block in range(num_blocks):
            before_stride = size if block > 0 or width == 64 else 2 * size
            layers += [((width, inputs, 1, 1), before_stride), ((width, width, 3, 3), size)]
            layers += [((4 * width, width, 1, 1), size)]
            layers += [((4 * width, inputs, 1, 1), size)] if block == 0 else []
            inputs = 4 * width
    return [*layers, ((1000, 2048), 1)]


@pytest.mark.parametrize(("sparsity", "published"), [(0.8, 0.42), (0.9, 0.24)])
def test_erk_leaves_resnet50_the_published_share_of_its_operations(sparsity: float, published: float) -> None:
    # Evci et al., "Rigging the lottery", figure 2: FLOPs of ERK models relative to the dense one, two digits
    shapes = [shape for shape, _ in resnet50_layers()]
    macs = [math.prod(shape) * size**2 for shape, size in resnet50_layers()]
    layers = [FakeLayer("", Size(shape), torch.empty(()).expand(math.prod(shape))) for shape in shapes]
    removed = Scope(erk).spread(layers, round(sparsity * sum(one.count for one in layers))).remove
    left = sum(m * (1 - gone / one.count) for m, gone, one in zip(macs, removed, layers, strict=True))
    assert left / sum(macs) == pytest.approx(published, abs=0.01)


def test_erk_spreads_a_models_weights_by_shape_not_by_size_of_weights() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
    with torch.no_grad():
        model[0].weight.mul_(1000)
    masks = prunus.prune(model, 0.8, scope="erk")
    densities = [float(mask.double().mean()) for mask in masks.values()]
    assert densities[1] / densities[0] == pytest.approx((72 / 512) / (128 / 4096), rel=0.02)


Wrong = Callable[[Sequence[Layer], int], object]
WRONG_SCOPES: dict[str, Wrong] = {
    "sum": lambda layers, budget: [budget + 1, *[0] * (len(layers) - 1)],
    "too few": lambda layers, budget: [budget],
    "above most": lambda layers, budget: [layers[0].most + 1, budget - layers[0].most - 1, 0],
    "negative": lambda layers, budget: [-1, budget + 1, 0],
    "floats": lambda layers, budget: [budget / 3] * 3,
    "bools": lambda layers, budget: [budget - 1, True, 0],
    "nan": lambda layers, budget: [float("nan")] * 3,
    "none": lambda layers, budget: None,
    "a number": lambda layers, budget: budget,
    "text": lambda layers, budget: "123",
    "spread": lambda layers, budget: Spread((budget,)),
}


@pytest.mark.parametrize("wrong", WRONG_SCOPES)
def test_a_users_scope_is_held_to_its_contract_and_nothing_changes(wrong: str, network: nn.Module) -> None:
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    with pytest.raises(ValueError, match=r"must return how many units each layer loses: 3 whole numbers, 1,.* in sum"):
        prunus.prune(network, 0.5, scope=WRONG_SCOPES[wrong])  # type: ignore[arg-type]
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())


def test_a_users_scope_may_return_plain_counts(network: nn.Module) -> None:
    def last_first(layers: Sequence[Layer], budget: int) -> list[int]:
        counts = []
        for one in reversed(layers):
            counts.append(min(one.most, budget - sum(counts)))
        return counts[::-1]

    masks = prunus.prune(network, 0.05, scope=last_first)
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == {
        "conv.weight": 0,
        "hidden.weight": 0,
        "head.weight": 178,
    }


def test_what_is_no_scope_is_refused() -> None:
    assert resolve("global") == Scope(global_)
    with pytest.raises(UnknownNameError, match=r"unknown scope 'globall'; did you mean 'global'\? \(known: .*erk"):
        resolve("globall")
    with pytest.raises(TypeError, match="scope must be a name or a function"):
        resolve(0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="scope must be a name or a function"):
        resolve(lambda layers: layers)  # type: ignore[arg-type, misc]


def test_a_registered_scope_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes.SCOPES, "_entries", dict(SCOPES._entries))
    SCOPES.register("first")(lambda layers, budget: Spread((budget, *[0] * (len(layers) - 1))))
    masks = prunus.prune(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), 0.25, scope="first")
    assert masks["1.weight"].all()


@pytest.mark.parametrize("scope", [resolve("global:min_kept=4"), Global(min_kept=4), Scope(global_, 4)])
def test_options_say_what_stays(scope: Scope) -> None:
    assert (scope.spreading, scope.min_kept) == (global_, 4)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown option of scope 'global': 'min_keep'; did you mean 'min_kept"):
        resolve("global:min_keep=4")
