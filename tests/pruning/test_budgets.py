"""Targets in bytes, parameters and multiply-adds: never above, and as little below as steps allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.measuring.macs import count_macs
from prunus.pruning.budgets import Limit, Range, meet, parse

IMAGE = torch.zeros(1, 1, 28, 28)


def lenet() -> nn.Module:
    """Return a net of 160,206 parameters."""
    torch.manual_seed(0)
    return prunus.models.create("lenet").eval()


@pytest.mark.parametrize(
    ("text", "unit", "amount", "is_share"),
    [
        ("200 kB", "bytes", 200_000, False),
        ("200kB", "bytes", 200_000, False),
        ("128 KiB", "bytes", 131_072, False),
        ("1.5 MB", "bytes", 1_500_000, False),
        ("900 B", "bytes", 900, False),
        ("1.2M parameters", "parameters", 1_200_000, False),
        ("5000 parameters", "parameters", 5000, False),
        ("30% MACs", "MACs", 0.3, True),
        ("2 M macs", "MACs", 2_000_000, False),
        ("50% bytes", "bytes", 0.5, True),
    ],
)
def test_what_units_stand_for(text: str, unit: str, amount: float, is_share: bool) -> None:
    assert parse(text) == Limit(text, unit, pytest.approx(amount), is_share)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("small", "neither a number in .* nor a target"),
        ("0 kB", "neither a number"),
        ("-3 kB", "neither a number"),
        ("30% of MACs", "neither a number"),
        ("10 flops", "neither a number"),
        ("100% MACs", "leaves all; give a share below 100%"),
        ("2 ms", "time is no target yet"),
        ("300 us", "time is no target yet"),
    ],
)
def test_what_is_no_target_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prunus.prune(lenet(), text)


@pytest.mark.parametrize("pattern", ["unstructured", "block-1x4", "channel"])
def test_a_file_of_so_many_bytes(pattern: str, tmp_path: Path) -> None:
    model = lenet()
    prunus.prune(model, "60 kB", pattern=pattern, example_inputs=IMAGE)
    left = prunus.shrink(model, IMAGE) if pattern == "channel" else model
    size = prunus.save(left, tmp_path / "net.prunus", IMAGE).bytes
    assert size == (tmp_path / "net.prunus").stat().st_size
    assert 0.98 * 60_000 <= size <= 60_000


@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
def test_so_many_parameters_that_are_not_zero(scope: str) -> None:
    model = lenet()
    masks = prunus.prune(model, "20k parameters", scope=scope)
    left = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    assert 19_600 <= left <= 20_000
    masks.check(model)


@pytest.mark.parametrize("pattern", ["unstructured", "channel"])
def test_a_share_of_the_multiply_adds(pattern: str) -> None:
    model = lenet()
    dense = count_macs(model, (IMAGE,)).total
    prunus.prune(model, "40% MACs", pattern=pattern, example_inputs=IMAGE)
    if pattern == "channel":
        left = count_macs(prunus.shrink(model, IMAGE), (IMAGE,)).total
    else:
        left = count_macs(model, (IMAGE,)).nonzero
    assert 0.37 * dense <= left <= 0.4 * dense


def test_the_same_weights_go_as_with_the_sparsity_that_was_found() -> None:
    first, second = lenet(), lenet()
    masks = prunus.prune(first, "50% parameters")
    assert prunus.prune(second, masks.sparsity) == masks


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("9 MB", {"example_inputs": IMAGE}, "within '9 MB' already"),
        ("300 B", {"example_inputs": IMAGE}, "'300 B' can't be reached: with sparsity .* are left of"),
        ("200k parameters", {}, "the model has 160,206 parameters unpruned, which is within"),
        ("20 kB", {}, "give example_inputs"),
        ("30% MACs", {}, "give example_inputs"),
        (
            "30% MACs",
            {"pattern": "2:4", "example_inputs": IMAGE},
            "pattern 2:4 removes 0.5 of the weights and no other",
        ),
        ("30% MACs", {"pattern": "1:4", "example_inputs": IMAGE}, "pattern 1:4 removes 0.75 of the weights and no"),
    ],
)
def test_what_can_not_be_met_is_refused_and_nothing_changes(target: str, options: Any, message: str) -> None:
    model = lenet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        prunus.prune(model, target, **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@given(st.integers(2, 400), st.integers(1, 399), st.integers(0, 2**32 - 1))
def test_whatever_the_costs_it_is_never_above_and_at_a_step_from_the_target(units: int, target: int, seed: int) -> None:
    """Costs that fall by any steps: the search ends at the last count below the target, or a hundredth below it."""
    steps = torch.randint(1, 50, (units,), generator=torch.Generator().manual_seed(seed))
    left = [int(steps[gone:].sum()) for gone in range(units + 1)]
    limit = left[0] * target // 400

    def find(sparsity: float) -> prunus.Masks:
        kept = torch.arange(units) >= round(sparsity * units)
        return prunus.Masks({"weight": kept})

    def cost(model: nn.Module, masks: prunus.Masks, whole: bool, inputs: Tensor | None) -> int:
        return left[masks.num_pruned] if masks else left[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunus.pruning.budgets.COSTS", {"steps": cost})
        if limit == 0:
            return
        masks = meet(
            Limit("", "steps", limit),
            nn.Linear(1, 1),
            find,
            Range(1 / units, 1.0),
            whole_channels=False,
            example_inputs=None,
        )
    gone = masks.num_pruned
    assert left[gone] <= limit
    assert left[gone] >= 0.99 * limit or left[gone - 1] > limit
