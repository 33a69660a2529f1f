"""Pruner: along every schedule to the exact target, never back, and resumed as if it had never stopped."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from axes import SINGLE_WEIGHT_PATTERNS, every_combination, sparsity_for, with_loss
from prunus import MaskError, Masks, Pruner, prune
from prunus.files import load_tensors, save_tensors
from prunus.pruning.patterns import resolve
from prunus.pruning.schedules import SCHEDULES, Cubic, Schedule

pytestmark = pytest.mark.usefixtures("one_thread")

Batches = list[tuple[Tensor, Tensor]]
MakeNetwork = Callable[[int], nn.Module]
NUM_WEIGHTS = 3552  # of the network in three layers


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, step: int) -> None:
    images, labels = batches[step % len(batches)]
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(
    sparsity=st.floats(0.01, 0.99),
    steps=st.integers(1, 30),
    every=st.none() | st.integers(1, 40),
    begin=st.integers(0, 5),
)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_schedule_follows_its_curve_and_ends_at_the_exact_target(
    make_network: MakeNetwork, schedule: str, sparsity: float, steps: int, every: int | None, begin: int
) -> None:
    model = make_network(0)
    pruner = Pruner(model, sparsity, steps=steps, schedule=Schedule(SCHEDULES[schedule], begin, every))
    period = every or max(1, steps // 100)
    expected = 0
    for step in range(1, begin + steps + 3):
        pruner.step()
        passed = min(step - begin, steps)
        if passed in (1, steps) or (passed > 0 and passed % period == 0):
            share = 1.0 if passed == steps else SCHEDULES[schedule](passed / steps, sparsity)
            expected = round(share * sparsity * NUM_WEIGHTS)
        assert pruner.masks.num_pruned == expected
        assert pruner.finished == (step >= begin + steps)
        pruner.masks.check(model)
    assert pruner.masks.num_pruned == round(sparsity * NUM_WEIGHTS)
    assert pruner.sparsity == round(sparsity * NUM_WEIGHTS) / NUM_WEIGHTS


@every_combination
def test_every_method_trains_along_a_schedule_and_never_un_prunes(
    criterion: str, pattern: str, scope: str, network: nn.Module, batches: Batches
) -> None:
    units = resolve(pattern)
    sparsity = sparsity_for(pattern, 0.8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    pruner = Pruner(
        network,
        sparsity,
        steps=4,
        criterion=with_loss(criterion),
        pattern=pattern,
        scope=scope,
        data=batches,
    )
    earlier = pruner.masks
    for step in range(6):
        training_step(network, optimizer, batches, step)
        pruner.step()
        assert all((pruner.masks[name] <= earlier[name]).all() for name in earlier)
        earlier = pruner.masks
        pruner.masks.check(network)
    total = sum(units.num_units(mask.shape) for mask in earlier.values())
    owners = {
        name: units.expand(torch.arange(units.num_units(mask.shape)), mask.shape) for name, mask in earlier.items()
    }
    assert sum(owners[name][~mask].unique().numel() for name, mask in earlier.items()) == round(sparsity * total)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
    ],
    ids=["SGD", "AdamW", "Adam"],
)
def test_zeros_stay_zeros_through_momentum(optimizer: Callable[..., Any], network: nn.Module, batches: Batches) -> None:
    stepper = optimizer(network.parameters())
    for step in range(3):  # momentum for all weights, before the first goes
        training_step(network, stepper, batches, step)
    pruner = Pruner(network, 0.7, steps=2, schedule="one_shot")
    moved = False
    for step in range(5):
        training_step(network, stepper, batches, step)
        if step > 0:
            moved |= any((network.get_parameter(name)[~mask] != 0).any() for name, mask in pruner.masks.items())
        pruner.step()
        pruner.masks.check(network)
        assert pruner.sparsity == pytest.approx(0.7, abs=1e-3)
    assert moved, "the optimizer never tried, so this proved nothing"


def test_one_shot_goes_at_the_first_step_it_may(network: nn.Module) -> None:
    pruner = Pruner(network, 0.5, steps=10, schedule="one_shot:begin=2,every=7")
    found = []
    for _ in range(4):
        pruner.step()
        found.append(pruner.sparsity)
    assert found == [0.0, 0.0, 0.5, 0.5]


def test_one_step_is_prune(make_network: MakeNetwork) -> None:
    for pattern in SINGLE_WEIGHT_PATTERNS:
        sparsity = sparsity_for(pattern, 0.6)
        one, other = make_network(3), make_network(3)
        pruner = Pruner(one, sparsity, steps=1, pattern=pattern)
        pruner.step()
        assert pruner.masks == prune(other, sparsity, pattern=pattern)


def test_in_small_models_the_early_steps_may_remove_nothing_yet() -> None:
    model = nn.Linear(3, 3)
    pruner = Pruner(model, 0.3, steps=100, schedule="linear")
    counts = []
    for _ in range(100):
        pruner.step()
        counts.append(pruner.masks.num_pruned)
    assert counts == [round(0.3 * 9 * step / 100) if step < 100 else 3 for step in range(1, 101)]


def test_a_pruner_of_no_sparsity_does_nothing(network: nn.Module) -> None:
    before = copy.deepcopy(network.state_dict())
    pruner = Pruner(network, 0.0, steps=3)
    for _ in range(4):
        pruner.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


# --------------------------------------------------------------------------------------------------- going on


def plans() -> list[dict[str, Any]]:
    return [
        {"criterion": criterion, "pattern": pattern, "schedule": f"{schedule}:begin=1{every}"}
        for (criterion, pattern), schedule, every in itertools.product(
            [
                ("magnitude", "unstructured"),
                ("random", "block-2x2"),
                ("magnitude", "inputs-4"),
                ("lamp", "unstructured"),
                ("magnitude", "2:4"),
            ],
            ["cubic", "geometric"],
            ["", ",every=3"],
        )
    ]


@pytest.mark.parametrize("plan", plans(), ids=lambda plan: " ".join(map(str, plan.values())))
def test_a_resumed_pruner_ends_like_one_that_never_stopped(
    plan: dict[str, Any], make_network: MakeNetwork, batches: Batches, tmp_path: Path
) -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer, Pruner]:
        model = make_network(0)
        return model, torch.optim.SGD(model.parameters(), lr=0.05), Pruner(model, 0.5, steps=8, **plan)

    model, optimizer, pruner = start()
    for step in range(11):
        if step == 5:
            save_tensors(tmp_path / "model.safetensors", model.state_dict())
            save_tensors(tmp_path / "pruner.safetensors", pruner.state_dict())
        training_step(model, optimizer, batches, step)
        pruner.step()

    again, optimizer, resumed = start()
    again.load_state_dict(load_tensors(tmp_path / "model.safetensors"))
    resumed.load_state_dict(load_tensors(tmp_path / "pruner.safetensors"))
    assert resumed.num_steps == 5
    resumed.masks.check(again)
    for step in range(5, 11):
        training_step(again, optimizer, batches, step)
        resumed.step()
    assert resumed.masks == pruner.masks
    assert resumed.sparsity == pruner.sparsity
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_state_holds_tensors_only_and_is_a_snapshot(network: nn.Module) -> None:
    pruner = Pruner(network, 0.5, steps=4)
    pruner.step()
    state = pruner.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    pruned = pruner.masks.num_pruned
    for _ in range(3):
        pruner.step()
    assert Masks({key: mask for key, mask in state.items() if key != "num_steps"}).num_pruned == pruned


def test_a_state_of_another_pruner_is_refused_and_nothing_changes(network: nn.Module) -> None:
    other = Pruner(nn.Linear(3, 3), 0.5, steps=2).state_dict()
    pruner = Pruner(network, 0.5, steps=4)
    pruner.step()
    before, masks = copy.deepcopy(network.state_dict()), pruner.masks
    good = pruner.state_dict()
    for state, message in [
        (other, r"this state is not that of a Pruner of these parameters: it has num_steps, masks\.weight, expected"),
        ({}, "it has nothing, expected num_steps and masks for conv.weight"),
        ({key: value for key, value in good.items() if key != "num_steps"}, "is not that of a Pruner"),
        ({**good, "masks.head.weight": torch.zeros(2, 2).bool()}, r"the mask of 'head\.weight' has shape \(2, 2\)"),
    ]:
        with pytest.raises(MaskError, match=message):
            pruner.load_state_dict(state)
    with pytest.raises(TypeError, match="must be a bool tensor"):
        pruner.load_state_dict({**good, "masks.head.weight": torch.zeros(8, 24)})
    with pytest.raises(TypeError, match=r"state must be what state_dict\(\) returned, got int"):
        pruner.load_state_dict(5)  # type: ignore[arg-type]
    assert pruner.masks is masks
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_it_goes_on_from_masks(network: nn.Module) -> None:
    first = prune(network, 0.3)
    nn.init.ones_(network.conv.weight)
    pruner = Pruner(network, 0.6, steps=2, schedule="linear", masks=first)
    assert pruner.masks == first
    first.check(network)
    pruner.step()
    assert pruner.masks == first  # half the way to 60% is 30%
    pruner.step()
    assert pruner.sparsity == pytest.approx(0.6, abs=1e-3)
    assert all((pruner.masks[name] <= first[name]).all() for name in first)


def test_masks_of_other_parameters_are_kept_but_not_counted(network: nn.Module) -> None:
    first = prune(network, 0.5, include="conv")
    pruner = Pruner(network, 0.5, steps=1, include="head", masks={**first, "head.weight": torch.ones(8, 24).bool()})
    assert pruner.sparsity == 0.0
    pruner.step()
    assert pruner.sparsity == 0.5
    nn.init.ones_(network.conv.weight)
    pruner.step()
    first.check(network)


def test_parameters_that_took_anothers_place_are_pruned(network: nn.Module) -> None:
    pruner = Pruner(network, 0.5, steps=2)
    pruner.step()
    fresh = {
        name: torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(fresh, assign=True)
    expected = prune(copy.deepcopy(network), 0.5, masks=pruner.masks)
    pruner.step()
    assert pruner.masks == expected
    pruner.masks.check(network)


def test_a_schedule_that_goes_back_un_prunes_nothing(network: nn.Module) -> None:
    def there_and_back(progress: float, sparsity: float) -> float:
        return 0.8 if progress < 0.5 else 0.2 if progress < 1 else 1.0

    pruner = Pruner(network, 0.5, steps=6, schedule=there_and_back)
    found = []
    for _ in range(6):
        pruner.step()
        found.append(pruner.sparsity)
    assert found == [pytest.approx(0.4, abs=1e-3)] * 5 + [0.5]


# ------------------------------------------------------------------------------------------- refused when it is made


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 2.0}, TypeError, r"steps must be a whole number, got 2\.0"),
        ({"steps": True}, TypeError, "steps must be a whole number, got True"),
        ({"schedule": "cubic:begin=-1"}, ValueError, "begin must be at least 0, got -1"),
        ({"schedule": "linear:every=0"}, ValueError, "every must be at least 1, got 0"),
        ({"schedule": "cubic:every=x"}, TypeError, "every must be a whole number, got 'x'"),
        ({"scope": "global:min_kept=-2"}, ValueError, "min_kept must be at least 0, got -2"),
        ({"sparsity": 20}, ValueError, r"did you mean 0\.2\?"),
        ({"schedule": "cubik"}, ValueError, r"unknown schedule 'cubik'; did you mean 'cubic'\?"),
        ({"schedule": lambda progress, sparsity: progress * sparsity}, ValueError, r"at progress 1 it returned 0\.5"),
        ({"schedule": lambda progress, sparsity: float("nan")}, ValueError, "at progress 1 it returned nan"),
        ({"sparsity": 0.9999}, ValueError, "can't be reached: it removes 3,552 of 3,552 units"),
        ({"sparsity": 1e-6}, ValueError, "rounds to none"),
        ({"sparsity": 0.9, "pattern": "2:4"}, ValueError, "pattern 2:4 removes exactly"),
        ({"pattern": "2:4", "include": ["conv.bias"]}, ValueError, r"'conv\.bias' has shape \(8,\): one dimension"),
        ({"criterion": "activation"}, ValueError, "criterion 'activation' needs the layers' inputs"),
        ({"criterion": "gradient", "data": []}, ValueError, "criterion 'gradient' got data without a loss"),
        ({"criterion": "activation", "data": iter([])}, TypeError, "a list_iterator can be read only once"),
        ({"criterion": "activation", "data": (x for x in ())}, TypeError, "a generator can be read only once"),
        ({"include": "heda"}, ValueError, "did you mean 'head'"),
        ({"masks": {"head.weight": torch.ones(2, 2).bool()}}, MaskError, r"has shape \(2, 2\)"),
        ({"masks": {"other": torch.ones(2, 2).bool()}}, MaskError, "none of the given masks"),
    ],
)
def test_mistakes_are_refused_when_it_is_made(
    options: dict[str, Any], error: type[Exception], message: str, network: nn.Module
) -> None:
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(error, match=message):
        Pruner(network, **{"sparsity": 0.5, "steps": 4, **options})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_whole_numbers_of_numpy_will_do(network: nn.Module) -> None:
    pruner = Pruner(network, np.float32(0.5), steps=np.int64(2), schedule=Cubic(every=np.int32(1)))  # type: ignore[arg-type]
    for _ in range(2):
        pruner.step()
    assert pruner.sparsity == 0.5


# ------------------------------------------------------------------------------------------------- on the way


def test_nan_on_the_way_leaves_the_masks_as_they_were(network: nn.Module) -> None:
    pruner = Pruner(network, 0.5, steps=4)
    pruner.step()
    masks, num_steps = pruner.masks, pruner.num_steps
    with torch.no_grad():
        network.head.weight[masks["head.weight"]] = torch.nan
    with pytest.raises(ValueError, match=r"'head\.weight' holds \d+ NaN weights"):
        pruner.step()
    assert pruner.masks is masks
    assert pruner.num_steps == num_steps


def test_gradients_of_the_users_own_backward_are_used_at_each_update(network: nn.Module, batches: Batches) -> None:
    pruner = Pruner(network, 0.5, steps=2, criterion="gradient", schedule="linear")
    with pytest.raises(ValueError, match=r"criterion 'gradient' found no \.grad"):
        pruner.step()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    for step in range(2):
        training_step(network, optimizer, batches, step)
        model = copy.deepcopy(network)
        for parameter, copied in zip(network.parameters(), model.parameters(), strict=True):
            copied.grad = parameter.grad
        expected = prune(model, 0.25 * (step + 1), criterion="gradient", masks=pruner.masks)
        pruner.step()
        assert pruner.masks == expected


def test_data_is_read_at_updates_only(network: nn.Module, batches: Batches) -> None:
    class Counting:
        readings = 0

        def __iter__(self) -> Any:
            self.readings += 1
            return iter(batches)

    data = Counting()
    pruner = Pruner(network, 0.5, steps=6, schedule=Cubic(every=3), criterion="activation", data=data)
    for _ in range(9):
        pruner.step()
    assert data.readings == 3  # at steps 1, 3 and 6
