"""prune: against PyTorch's own pruning, exact under ties, growing, and changing nothing where it can't go on."""

from __future__ import annotations

import copy
import fractions
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import prunus
from axes import SINGLE_WEIGHT_PATTERNS, every_combination, sparsity_for, with_loss
from prunus import MaskError, Masks, Stats, prune
from prunus.pruning import Global, Gradient, Random
from prunus.pruning.criteria import CRITERIA, Criterion
from prunus.pruning.method import check_method, check_sparsity
from prunus.pruning.patterns import resolve
from prunus.pruning.scopes import SCOPES, Scope
from prunus.registry import UnknownNameError

pytestmark = pytest.mark.usefixtures("one_thread")

Batches = list[tuple[Tensor, Tensor]]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(
        torch.equal(tensor.nan_to_num(), before[name].nan_to_num()) for name, tensor in model.state_dict().items()
    )


# ------------------------------------------------------------------------------------------ against PyTorch's own


def lenet() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return prunus.models.create("lenet")


def test_lenet_loses_the_same_20_percent_as_by_torch() -> None:
    ours, theirs = lenet(), lenet()
    layers = ("conv1", "conv2", "conv4", "fc")
    parameters = [(getattr(theirs, layer), "weight") for layer in layers]
    torch_prune.global_unstructured(parameters, pruning_method=torch_prune.L1Unstructured, amount=0.2)
    masks = prune(ours, 0.2)
    for layer in layers:
        assert torch.equal(masks[f"{layer}.weight"], getattr(theirs, layer).weight_mask.bool())
        assert torch.equal(getattr(ours, layer).weight, getattr(theirs, layer).weight)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 160_206
    assert sum(int(parameter.count_nonzero()) for parameter in ours.parameters()) == 128_214


@given(seed=st.integers(0, 10**6), sparsity=st.floats(0.001, 0.99))
@settings(deadline=None, max_examples=30)
def test_global_magnitude_is_torchs_global_l1(seed: int, sparsity: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(7, 5), (4, 3, 2, 2), (11, 1)]
    signs = torch.randint(0, 2, (94,), generator=generator) * 2 - 1.0
    distinct = ((torch.randperm(94, generator=generator) + 1) * signs).split([35, 48, 11])
    ours, theirs = nn.Module(), nn.Module()
    for index, (shape, values) in enumerate(zip(shapes, distinct, strict=True)):
        for model in (ours, theirs):
            model.add_module(str(index), nn.Module())
            model.get_submodule(str(index)).weight = nn.Parameter(values.clone().view(shape))
    torch_prune.global_unstructured(
        [(module, "weight") for module in theirs.children()], torch_prune.L1Unstructured, amount=sparsity
    )
    if round(sparsity * 94) == 0:
        return
    prune(ours, sparsity, include="*", scope=Global(min_kept=0))
    for index in range(3):
        assert torch.equal(ours.get_submodule(str(index)).weight, theirs.get_submodule(str(index)).weight)


def test_uniform_magnitude_is_torchs_l1_layer_by_layer(network: nn.Module) -> None:
    theirs = copy.deepcopy(network)
    prune(network, 0.25, scope="uniform")
    for layer in (theirs.conv, theirs.hidden, theirs.head):
        torch_prune.l1_unstructured(layer, "weight", 0.25)
    for name in ("conv", "hidden", "head"):
        assert torch.equal(network.get_submodule(name).weight, theirs.get_submodule(name).weight)


# --------------------------------------------------------------------------------------------------- every method


@every_combination
def test_every_combination_reaches_its_sparsity_and_keeps_the_rest(
    criterion: str, pattern: str, scope: str, network: nn.Module, batches: Batches
) -> None:
    before = state_of(network)
    sparsity = sparsity_for(pattern, 0.6)
    masks = prune(network, sparsity, criterion=with_loss(criterion), pattern=pattern, scope=scope, data=batches)
    units = resolve(pattern)
    removed = sum(
        int((units.expand(torch.arange(units.num_units(mask.shape)), mask.shape)[~mask]).unique().numel())
        for mask in masks.values()
    )
    assert removed == round(sparsity * sum(units.num_units(mask.shape) for mask in masks.values()))
    for name, tensor in network.state_dict().items():
        expected = before[name].masked_fill(~masks[name], 0) if name in masks else before[name]
        assert torch.equal(tensor, expected), name


@every_combination
def test_nan_in_the_last_layer_stops_every_combination_before_anything_changes(
    criterion: str, pattern: str, scope: str, network: nn.Module, batches: Batches
) -> None:
    with torch.no_grad():
        network.head.weight[3, 3:5] = torch.nan
    before = state_of(network)
    with pytest.raises(ValueError, match=r"^'head\.weight' holds 2 NaN weights, which can't be ranked; nothing was"):
        prune(
            network,
            sparsity_for(pattern, 0.5),
            criterion=with_loss(criterion, lambda outputs, labels: outputs[:, 7].sum()),
            pattern=pattern,
            scope=scope,
            data=batches,
        )
    assert unchanged(network, before)


@pytest.mark.parametrize("scope", sorted(SCOPES.keys() - {"least_error"}))  # which runs the model
def test_nan_is_found_also_where_nothing_would_be_pruned(scope: str) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(4, 4))  # ERK keeps the second whole
    with torch.no_grad():
        model[1].weight.fill_(torch.nan)
    for sparsity in (0.0, 0.01):
        with pytest.raises(ValueError, match=r"'1\.weight' holds 16 NaN weights"):
            prune(model, sparsity, scope=scope)


def test_nan_gradients_name_the_layer_and_the_criterion(network: nn.Module, batches: Batches) -> None:
    before = state_of(network)
    with pytest.raises(ValueError, match=r"^'conv\.weight' gets NaN scores from criterion 'gradient', which can't be"):
        prune(network, 0.5, criterion=Gradient(lambda outputs, labels: outputs.sum() * torch.nan), data=batches)
    assert unchanged(network, before)


def test_nan_where_masks_removed_it_already_does_no_harm(network: nn.Module) -> None:
    for criterion in ("magnitude", "lamp", "random"):
        masks = prune(network, 0.3)
        with torch.no_grad():
            network.head.weight[~masks["head.weight"]] = torch.nan
        prune(network, 0.4, masks=masks, criterion=criterion)
        assert not network.head.weight.isnan().any()


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_infinite_weights_are_weights(criterion: str, network: nn.Module) -> None:
    with torch.no_grad():
        network.head.weight[0, 0], network.conv.weight[1, 1, 1, 1] = torch.inf, -torch.inf
    masks = prune(network, 0.9, criterion=criterion)
    assert masks.num_pruned == round(0.9 * 3552)
    assert criterion == "random" or (masks["head.weight"][0, 0] and masks["conv.weight"][1, 1, 1, 1])


# ---------------------------------------------------------------------------------------------- exact, and growing


@pytest.mark.parametrize("pattern", SINGLE_WEIGHT_PATTERNS)
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_a_model_of_nothing_but_ties_is_pruned_exactly(pattern: str, scope: str, network: nn.Module) -> None:
    for parameter in network.parameters():
        nn.init.constant_(parameter, -0.5)
    units = resolve(pattern)
    total = sum(units.num_units(target.shape) for target in network.parameters() if target.dim() > 1)
    for sparsity in [units.only_sparsity] if units.only_sparsity else [1 / total, 0.3, 0.77]:
        masks = prune(copy.deepcopy(network), sparsity, pattern=pattern, scope=scope)
        owners = {name: units.expand(torch.arange(units.num_units(m.shape)), m.shape) for name, m in masks.items()}
        assert sum(owners[name][~mask].unique().numel() for name, mask in masks.items()) == round(sparsity * total)


def test_ties_go_by_the_models_order_then_by_index() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    for layer in model:
        nn.init.ones_(layer.weight)
    masks = prune(model, 3 / 8)
    assert masks["0.weight"].tolist() == [[False, False], [False, True]]
    assert masks["1.weight"].all()


steps = st.tuples(
    st.floats(0.02, 0.3),
    st.sampled_from(["unstructured", "block-2x2", "block-1x4"]),
    st.sampled_from(sorted(SCOPES.keys() - {"least_error"})),  # which looks at what the outputs lose
    st.sampled_from(["magnitude", "lamp", "random"]),
)


@given(st.lists(steps, min_size=2, max_size=5), st.booleans())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_pruned_stays_pruned_as_the_sparsity_grows(
    make_network: Callable[[int], nn.Module], plan: list[tuple[float, str, str, str]], regrow: bool
) -> None:
    model, masks, sparsity = make_network(1), Masks({}), 0.0
    for seed, (step, pattern, scope, criterion) in enumerate(plan):
        sparsity = masks.sparsity + step * (1 - masks.sparsity)
        if regrow:  # as training does
            nn.init.normal_(model.hidden.weight)
        earlier, live = masks, state_of(model)
        chosen = Random(seed) if criterion == "random" else criterion
        masks = prune(model, sparsity, pattern=pattern, scope=scope, criterion=chosen, masks=earlier)
        assert all((masks[name] <= earlier[name]).all() for name in earlier)
        # exact in units, and what was gone in parts of blocks comes on top
        assert masks.num_pruned >= round(sparsity * 3552) - (0 if pattern == "unstructured" else 8 * 3)
        if pattern == "unstructured":
            assert masks.num_pruned == round(sparsity * 3552)
        masks.check(model)
        assert all(torch.equal(model.state_dict()[name][masks[name]], live[name][masks[name]]) for name in masks)


def test_two_of_four_goes_on_from_masks_that_leave_two(network: nn.Module) -> None:
    first = prune(network, 0.25, pattern="3:4", scope="uniform")
    masks = prune(network, 0.5, pattern="2:4", masks=first)
    assert all((masks[name] <= first[name]).all() for name in first)
    assert masks.num_pruned == 3552 // 2
    for mask in masks.values():
        assert (mask.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()
    with pytest.raises(ValueError, match=r"pattern 2:4 removes exactly 0\.5 of the weights, got sparsity 0\.6"):
        prune(network, 0.6, pattern="2:4", masks=masks)


@pytest.mark.parametrize("left", [0, 1])
def test_two_of_four_is_refused_where_the_masks_leave_fewer(network: nn.Module, left: int) -> None:
    earlier = {"conv.weight": torch.ones(8, 4, 3, 3).bool(), "head.weight": torch.ones(8, 24).bool()}
    earlier["head.weight"][3, 4 : 8 - left] = False
    before = state_of(network)
    message = rf"pattern 2:4 needs {2 - left} of the weights of 'head\.weight'.*exclude=\['head\.weight'\]"
    with pytest.raises(MaskError, match=message):
        prune(network, 0.5, pattern="2:4", masks=earlier)
    with pytest.raises(MaskError, match=message):
        prunus.Pruner(network, 0.5, steps=4, pattern="2:4", masks=earlier)
    assert unchanged(network, before)
    masks = prune(network, 0.5, pattern="2:4", masks=earlier, exclude=["head.weight"])
    assert torch.equal(masks["head.weight"], earlier["head.weight"])


def test_denser_masks_do_not_pass_as_the_patterns_own_sparsity() -> None:
    layer = nn.Linear(16, 4, bias=False)
    first = prune(layer, 55 / 64)
    assert first.num_pruned == 55
    with pytest.raises(MaskError, match=r"pattern 2:4 needs \d+ of the weights of 'weight' that"):
        prune(layer, 0.5, pattern="2:4", masks=first)


def test_gone_weights_count_as_zeros_also_where_they_were_not_set_to_zero() -> None:
    model = nn.Linear(4, 1, bias=False)
    model.weight.data = torch.tensor([[100.0, 1.0, 2.0, 3.0]])
    earlier = {"weight": torch.tensor([[False, True, True, True]])}
    scores: list[Tensor] = []

    def own(weight: Tensor, stats: Stats) -> Tensor:
        scores.append(weight.clone())
        return weight.abs()

    assert prune(model, 0.5, criterion=own, masks=earlier)["weight"].tolist() == [[False, False, True, True]]
    assert scores[0].tolist() == [[0.0, 1.0, 2.0, 3.0]]


def test_masks_of_other_parameters_are_kept_and_applied(network: nn.Module) -> None:
    first = prune(network, 0.5, include="conv")
    second = prune(network, 0.25, include="head", masks=Masks({**first, "head.weight": torch.ones(8, 24).bool()}))
    assert torch.equal(second["conv.weight"], first["conv.weight"])
    assert int((~second["head.weight"]).sum()) == 48
    assert set(second) == {"conv.weight", "head.weight"}


def test_masks_under_another_name_of_a_tied_weight_are_found() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    earlier = torch.ones(4, 4, dtype=torch.bool)
    earlier[0] = False
    masks = prune(model, 0.5, masks={"1.weight": earlier})
    assert list(masks) == ["0.weight"]
    assert masks.num_pruned == 8
    assert not masks["0.weight"][0].any()


def test_masks_that_dont_fit_are_refused_before_anything_changes(network: nn.Module) -> None:
    before = state_of(network)
    good = torch.ones(8, 24, dtype=torch.bool)
    for masks, message in [
        ({"head.weight": good.T}, r"the mask of 'head\.weight' has shape \(24, 8\), the parameter \(8, 24\)"),
        (
            {"xyz": good},
            r"none of the given masks \(xyz, \.\.\.\) is for a parameter that is pruned here \(conv\.weight",
        ),
        ({"head.weight": good, "xyz": good}, r"the model has no parameter 'xyz' to mask"),
    ]:
        with pytest.raises(MaskError, match=message):
            prune(network, 0.5, masks=masks)
    for wrong in ({"head.weight": good.float()}, [good]):
        with pytest.raises(TypeError, match="bool tensor"):
            prune(network, 0.5, masks=wrong)  # type: ignore[arg-type]
    assert unchanged(network, before)


def test_a_sparsity_below_that_of_the_masks_is_refused(network: nn.Module) -> None:
    masks = prune(network, 0.5)
    with pytest.raises(ValueError, match=r"sparsity 0\.3 is below the 0\.5 of the given masks; pruned"):
        prune(network, 0.3, masks=masks)
    assert prune(network, 0.5, masks=masks) == masks


# ------------------------------------------------------------------------------------------------------ sparsities


@pytest.mark.parametrize(
    ("given_value", "message"),
    [
        (20, "sparsity must be in [0, 1), got 20; did you mean 0.2?"),
        (20.5, "sparsity must be in [0, 1), got 20.5; did you mean 0.205?"),
        (1.0, "sparsity must be in [0, 1), got 1"),
        (1, "sparsity must be in [0, 1), got 1"),
        (100, "sparsity must be in [0, 1), got 100"),
        (-0.1, "sparsity must be in [0, 1), got -0.1"),
        (float("nan"), "sparsity must be in [0, 1), got nan"),
        (float("inf"), "sparsity must be in [0, 1), got inf"),
        (True, "sparsity must be a number in [0, 1), got True"),
        ("0.5", "sparsity must be a number in [0, 1), got '0.5'"),
        (None, "sparsity must be a number in [0, 1), got None"),
        (1j, "sparsity must be a number in [0, 1), got 1j"),
        (torch.tensor(0.5), "sparsity must be a number in [0, 1), got tensor(0.5000)"),
        (np.bool_(True), f"sparsity must be a number in [0, 1), got {np.bool_(True)!r}"),
    ],
)
def test_what_is_no_sparsity_is_refused(given_value: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        prune(nn.Linear(10, 10), given_value)
    assert str(caught.value) == message


def test_numbers_of_any_kind_are_sparsities() -> None:
    for number in (0.25, np.float64(0.25), np.float32(0.25), np.float16(0.25), fractions.Fraction(1, 4)):
        assert check_sparsity(number) == 0.25
        assert isinstance(check_sparsity(number), float)
        assert prune(nn.Linear(10, 10), number).num_pruned == 25  # type: ignore[arg-type]
    for zero in (0, 0.0, -0.0, np.int64(0)):
        assert prune(nn.Linear(10, 10), zero).num_pruned == 0


def test_a_sparsity_that_removes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity 0\.004 of 100 units rounds to none, .* the least .* is 0\.01$"):
        prune(nn.Linear(10, 10), 0.004)
    assert prune(nn.Linear(10, 10), 0.01).num_pruned == 1


def test_each_layer_keeps_min_kept_units() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(1, 1), nn.Linear(1, 1))
    with torch.no_grad():
        model[1].weight.fill_(1e-9)
    masks = prune(copy.deepcopy(model), 8 / 11)
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1, 1]
    assert prune(copy.deepcopy(model), 8 / 11, scope=Global(min_kept=0))["1.weight"].sum() == 0
    with pytest.raises(
        ValueError, match=r"it removes 9 of 11 units, but only 8 may be removed, .* at least min_kept=1; give a"
    ):
        prune(model, 9 / 11)
    with pytest.raises(
        ValueError, match=r"it removes 6 of 11 units, but only 5 may be removed, .* at least min_kept=4; give a"
    ):
        prune(model, 6 / 11, scope=Global(min_kept=4))
    with pytest.raises(ValueError, match="min_kept must be at least 0, got -1"):
        Global(min_kept=-1)
    for wrong in (1.0, True, None):
        with pytest.raises(TypeError, match="min_kept must be a whole number"):
            Global(min_kept=wrong)  # type: ignore[arg-type]


def test_a_layer_of_one_weight_alone_cant_lose_it() -> None:
    with pytest.raises(ValueError, match=r"sparsity 0\.9 can't be reached: it removes 1 of 1 units, but only 0 may"):
        prune(nn.Linear(1, 1), 0.9)
    layer = nn.Linear(1, 1)
    assert prune(layer, 0.9, scope=Global(min_kept=0)).sparsity == 1.0
    scalar = nn.Module()
    scalar.gain = nn.Parameter(torch.tensor(2.0))
    for scope in SCOPES.keys() - {"least_error"}:
        assert prune(copy.deepcopy(scalar), 0.9, include="gain", scope=Scope(SCOPES[scope], 0))["gain"].shape == ()


def test_two_thirds_may_be_written_as_a_person_writes_it() -> None:
    for written in (2 / 3, 0.6667, 0.667):
        assert prune(nn.Linear(999, 3), written, pattern="1:3").num_pruned == 1998
    with pytest.raises(
        ValueError, match=r"pattern 1:3 removes exactly 0\.6667 of the weights, got sparsity 0\.66; write"
    ):
        prune(nn.Linear(999, 3), 0.66, pattern="1:3")


def test_combinations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pattern 2:4 removes exactly 0\.5 of the weights, got sparsity 0\.9; write"):
        check_method(0.9, pattern="2:4")
    with pytest.raises(ValueError, match="so scope 'erk' has nothing to spread; use scope 'uniform'"):
        check_method(0.5, pattern="2:4", scope="erk")
    with pytest.raises(ValueError, match=r"'conv1\.weight' has shape \(20, 1, 5, 5\): 1 inputs; exclude it"):
        prune(lenet(), 0.5, pattern="2:4")
    with pytest.raises(ValueError, match=r"pattern block-4x4 needs two dimensions or more, but 'bias'"):
        prune(nn.Linear(4, 4), 0.5, pattern="block", include="bias")


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ({"criterion": "magnitud"}, "unknown criterion 'magnitud'; did you mean 'magnitude'?"),
        ({"pattern": "unstructered"}, "unknown pattern 'unstructered'; did you mean 'unstructured'?"),
        ({"scope": "locl"}, "unknown scope 'locl'; did you mean 'global'? (known: erk, global, least_error, uniform)"),
        ({"include": "heda"}, "unknown layer in include 'heda'; did you mean 'head'?"),
        ({"exclude": ["cnov"]}, "unknown layer in exclude 'cnov'; did you mean 'conv'?"),
    ],
)
def test_unknown_names_suggest_the_nearest(option: dict[str, Any], nearest: str, network: nn.Module) -> None:
    before = state_of(network)
    with pytest.raises(UnknownNameError) as caught:
        prune(network, 0.5, **option)
    assert str(caught.value).startswith(nearest)
    assert unchanged(network, before)


# ----------------------------------------------------------------------------------------------- kinds of weights


@every_combination
def test_every_combination_prunes_half_precision(
    criterion: str, pattern: str, scope: str, network: nn.Module, batches: Batches
) -> None:
    model = network.bfloat16()
    data = [(images.bfloat16(), labels) for images, labels in batches]
    masks = prune(
        model,
        sparsity_for(pattern, 0.5),
        criterion=with_loss(criterion),
        pattern=pattern,
        scope=scope,
        data=data,
    )
    assert masks.sparsity == pytest.approx(sparsity_for(pattern, 0.5), abs=0.01)
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


def test_the_same_weights_go_in_every_dtype_that_holds_them(dtype: torch.dtype) -> None:
    values = (torch.randperm(240, generator=torch.Generator().manual_seed(0)) - 119.5).view(12, 20)
    layer = nn.Linear(20, 12).to(dtype)
    layer.weight.data = values.to(dtype)
    mask = prune(layer, 0.35)["weight"]
    assert torch.equal(mask, values.abs() > values.abs().flatten().kthvalue(84).values)


@pytest.mark.parametrize(("other", "half_goes"), [(0.09998, True), (0.09997, False)])
def test_layers_of_different_dtypes_are_compared_by_value(other: float, half_goes: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False).half(), nn.Linear(2, 1, bias=False).double())
    model[0].weight.data = torch.tensor([[1.0, 0.1]]).half()  # float16 has 0.0999756 for 0.1
    model[1].weight.data = torch.tensor([[1.0, other]]).double()
    masks = prune(model, 0.25)
    assert (not masks["0.weight"][0, 1], not masks["1.weight"][0, 1]) == (half_goes, not half_goes)


def test_memory_layout_does_not_matter(network: nn.Module) -> None:
    turned = copy.deepcopy(network)
    turned.conv.weight.data = turned.conv.weight.data.contiguous(memory_format=torch.channels_last)
    turned.hidden.weight.data = turned.hidden.weight.data.T.contiguous().T
    turned.head.weight.data = torch.stack([turned.head.weight.data] * 2, -1)[..., 0]
    for pattern in SINGLE_WEIGHT_PATTERNS:
        sparsity = sparsity_for(pattern, 0.5)
        assert prune(copy.deepcopy(turned), sparsity, pattern=pattern) == prune(
            copy.deepcopy(network), sparsity, pattern=pattern
        )


def test_frozen_weights_are_pruned_and_stay_frozen(network: nn.Module, batches: Batches) -> None:
    network.hidden.requires_grad_(False)
    for criterion in CRITERIA:
        model = copy.deepcopy(network)
        masks = prune(model, 0.5, criterion=with_loss(criterion), data=batches)
        assert not masks["hidden.weight"].all()
        assert not model.hidden.weight.requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())


def test_biases_and_norms_are_left_alone_unless_named(network: nn.Module) -> None:
    before = state_of(network)
    prune(network, 0.9)
    for name in ("conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "hidden.bias", "head.bias"):
        assert torch.equal(network.state_dict()[name], before[name])
    masks = prune(network, 0.5, include=["*.bias", "norm.weight"])
    assert list(masks) == ["conv.bias", "norm.weight", "norm.bias", "hidden.bias", "head.bias"]


# ------------------------------------------------------------------------------------------------ seeds and data


def test_random_masks_depend_on_the_seed_alone(network: nn.Module) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = prune(copy.deepcopy(network), 0.5, criterion=Random(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    assert prune(copy.deepcopy(network), 0.5, criterion=Random(3)) == one
    assert prune(copy.deepcopy(network), 0.5, criterion="random:seed=4") != one


def test_gradients_of_the_last_backward_are_used_where_no_data_is_given(network: nn.Module, batches: Batches) -> None:
    images, labels = batches[0]
    network.eval()
    F.cross_entropy(network(images), labels).backward()
    scores = torch.cat([(p.grad * p).abs().flatten() for p in network.parameters() if p.dim() > 1])  # type: ignore[operator]
    threshold = scores.kthvalue(round(0.5 * 3552)).values
    masks = prune(copy.deepcopy(network), 0.5, criterion=Gradient(F.cross_entropy), data=batches[:1])
    assert prune(network, 0.5, criterion="gradient") == masks
    found = torch.cat([mask.flatten() for mask in masks.values()])
    assert torch.equal(found, scores > threshold)


def test_missing_or_wrong_data_is_refused(network: nn.Module, batches: Batches) -> None:
    before = state_of(network)
    for options, message in [
        ({"criterion": "gradient"}, r"criterion 'gradient' found no \.grad on conv\.weight, .*; pass data=batches"),
        (
            {"criterion": "gradient", "data": batches},
            "criterion 'gradient' got data without a loss, as .*; give both, or neither",
        ),
        ({"criterion": Gradient(F.cross_entropy)}, "criterion 'gradient' got a loss without data; give both"),
        ({"criterion": "activation"}, "criterion 'activation' needs the layers' inputs; give data=batches of model"),
        ({"criterion": "activation", "data": []}, "data held no batch"),
    ]:
        with pytest.raises(ValueError, match=message):
            prune(network, 0.5, **options)  # type: ignore[arg-type]
    for wrong in (batches[0][0], {"images": batches[0][0]}, 5):
        with pytest.raises(
            TypeError, match=r"data must be an iterable of batches, got .*; one batch is data=\[batch\]"
        ):
            prune(network, 0.5, criterion="activation", data=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loss must be a function"):
        Gradient(3)  # type: ignore[arg-type]
    assert unchanged(network, before)


def test_a_generator_is_read_once(network: nn.Module, batches: Batches) -> None:
    for criterion in ("gradient", "activation"):
        expected = prune(copy.deepcopy(network), 0.5, criterion=with_loss(criterion), data=batches)
        data = (batch for batch in batches)
        assert prune(copy.deepcopy(network), 0.5, criterion=with_loss(criterion), data=data) == expected
        with pytest.raises(ValueError, match="data held no batch"):
            prune(network, 0.5, criterion=with_loss(criterion), data=data)


def test_data_is_not_read_where_the_sparsity_cant_be_reached(network: nn.Module) -> None:
    def data() -> Iterator[tuple[Tensor, Tensor]]:
        raise AssertionError("data was read")
        yield

    with pytest.raises(ValueError, match="can't be reached"):
        prune(network, 0.999, criterion="activation", data=data(), scope=Global(min_kept=10))


# -------------------------------------------------------------------------------------------- criteria of the user


def by_row(weight: Tensor, stats: Stats) -> Tensor:
    rows = torch.arange(len(weight), dtype=torch.float32)
    return rows.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight)


def test_a_users_criterion_decides(network: nn.Module) -> None:
    masks = prune(network, 0.5, criterion=by_row, scope="uniform")
    assert masks["head.weight"].all(1).tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("pattern", ["unstructured", "block-4x4", "2:4"])
def test_infinite_scores_mean_first_and_last_and_counts_stay_exact(pattern: str, elementwise: bool) -> None:
    def own(weight: Tensor, stats: Stats) -> Tensor:
        return weight.abs().masked_fill(weight < -1, -torch.inf).masked_fill(weight > 1, torch.inf)

    layer = nn.Linear(16, 16)
    with torch.no_grad():
        layer.weight.clamp_(-0.9, 0.9)
        layer.weight[:4], layer.weight[4:8] = -2.0, 2.0
    earlier = torch.ones(16, 16, dtype=torch.bool)
    earlier[12:, :: 2 if pattern == "2:4" else 1] = False
    criterion = Criterion("own", own, elementwise=elementwise)
    for sparsity in [0.5] if pattern == "2:4" else [0.375, 0.5]:
        mask = prune(layer, sparsity, criterion=criterion, pattern=pattern, masks={"weight": earlier})["weight"]
        if pattern == "2:4":
            assert (mask.view(-1, 4).sum(1) == 2).all()
        else:  # the 64 that are gone already, then the first rows, whose score is -inf too
            assert int((~mask).sum()) == sparsity * 256
            assert mask[4:12].all()


WRONG: dict[str, tuple[Callable[[Tensor, Stats], Any], str]] = {
    "too few": (
        lambda weight, stats: weight.abs()[:1],
        r"shape \(8, 4, 3, 3\), but returned torch\.float32 scores of s",
    ),
    "one number": (lambda weight, stats: weight.abs().sum(), r"scores of shape \(\)$"),
    "no tensor": (lambda weight, stats: [1.0], r"one floating-point score for each weight .* but returned \[1\.0\]$"),
    "nothing": (lambda weight, stats: None, "but returned None"),
    "whole numbers": (lambda weight, stats: weight.abs().int(), r"but returned torch\.int32 scores of shape"),
    "nan": (lambda weight, stats: weight.abs().log() * 0 / 0, "'conv.weight' gets NaN scores from criterion 'own'"),
}


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_users_criterion_is_held_to_its_contract(wrong: str, elementwise: bool, network: nn.Module) -> None:
    score, message = WRONG[wrong]
    before = state_of(network)
    with pytest.raises(ValueError, match=message if not elementwise or wrong == "nan" else "one floating-point score"):
        prune(network, 0.5, criterion=Criterion("own", score, elementwise=elementwise))
    assert unchanged(network, before)


# -------------------------------------------------------------------------------------------------------- memory


def test_uniform_holds_one_layers_scores_at_a_time() -> None:
    model = nn.Sequential(*[nn.Linear(37, 23) for _ in range(3)])
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    held: list[int] = []

    def own(weight: Tensor, stats: Stats) -> Tensor:
        tensors = (thing for thing in gc.get_objects() if type(thing) is Tensor)
        sizes = {t.data_ptr() for t in tensors if t.numel() == 37 * 23 and t.dtype == torch.float32} - weights
        held.append(len(sizes))
        return weight.abs()

    prune(model, 0.5, criterion=own, scope="uniform")
    assert held == [0] * 3
    held.clear()
    prune(model, 0.5, criterion=own, scope="global")
    assert held == [0, 1, 2], "global compares all scores, so this count can tell"
