"""Targets in bytes, parameters and multiply-adds: never above, and as little below as steps allow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.measuring.costs import microseconds
from prunus.measuring.latency import Timing
from prunus.measuring.macs import count_macs
from prunus.measuring.receipt import Latency
from prunus.pruning.budgets import Limit, Range, Unit, meet, parse

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
        ("2000 MACs", "MACs", 2000, False),
        ("2kMACs", "MACs", 2000, False),
        ("50% bytes", "bytes", 0.5, True),
        ("2 ms", "us in prunus", 2000, False),
        ("300us", "us in prunus", 300, False),
        ("300 µs in onnxruntime", "us in onnxruntime", 300, False),
        ("0.5 s in openvino-int8", "us in openvino-int8", 500_000, False),
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
        ("0 ms", "neither a number"),
        ("50% ms", "neither a number"),
        ("2 kB in onnxruntime", "neither a number"),
        ("2 ms in onnxrutime", "unknown runtime 'onnxrutime'; did you mean 'onnxruntime'"),
    ],
)
def test_what_is_no_target_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prunus.prune(lenet(), text)


@pytest.mark.parametrize("pattern", ["unstructured", "block-1x4", "inputs-4", "channel"])
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


@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("pattern", ["unstructured", "channel"])
def test_a_share_of_the_multiply_adds(pattern: str, scope: str) -> None:
    model = lenet()
    dense = count_macs(model, (IMAGE,)).total
    prunus.prune(model, "40% MACs", pattern=pattern, scope=scope, example_inputs=IMAGE)
    if pattern == "channel":
        left = count_macs(prunus.shrink(model, IMAGE), (IMAGE,)).total
    else:
        left = count_macs(model, (IMAGE,)).nonzero
    assert 0.98 * 0.4 * dense <= left <= 0.4 * dense


@pytest.mark.parametrize(("target", "pattern"), [("900 us", "unstructured"), ("900 us in onnxruntime-int8", "channel")])
def test_a_call_takes_at_most_so_long(target: str, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that tells 100 us and 12 us for each thousand weights that are not zero: 2.02 ms unpruned."""
    timed: list[tuple[str, ...]] = []

    def clock(models: dict[str, nn.Module], inputs: tuple[Tensor, ...], **settings: Any) -> dict[str, Timing]:
        timed.append(settings["runtimes"])
        assert settings["threads"] == (1,)
        assert settings["batch_sizes"] == (len(inputs[0]),)
        (model,) = models.values()
        left = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
        median = 100 + 12 * left / 1000
        latency = Latency(median=median, p10=median, p90=median, runs=10)
        return dict.fromkeys(models, Timing({settings["runtimes"][0]: {"1": {str(len(inputs[0])): latency}}}, ()))

    monkeypatch.setattr("prunus.measuring.costs.timings", clock)
    model, images = lenet(), torch.zeros(3, 1, 28, 28)
    prunus.prune(model, target, pattern=pattern, example_inputs=images)
    (taken,) = clock(
        {"": prunus.shrink(model, images)}, (images,), runtimes=timed[-1], threads=(1,), batch_sizes=(3,)
    ).values()
    median = taken.latency_us[timed[-1][0]]["1"]["3"].median
    assert 0.9 * 900 <= median <= 0.98 * 900  # what is left free is for a real clock
    assert set(timed) == {("onnxruntime-int8",) if "in" in target else ("prunus",)}


def test_a_real_clock() -> None:
    taken = microseconds("onnxruntime-int8", lenet(), prunus.Masks({}), False, torch.zeros(2, 1, 28, 28))
    assert 1 < taken < 1e7


@pytest.mark.parametrize("pattern", ["unstructured", "channel"])
@pytest.mark.parametrize("target", ["60 kB", "20% MACs"])
def test_a_pruner_meets_it_with_the_weights_that_training_left(pattern: str, target: str, tmp_path: Path) -> None:
    model = lenet()
    pruner = prunus.Pruner(model, target, steps=4, pattern=pattern, scope="uniform", example_inputs=IMAGE)
    planned = pruner.method.sparsity
    for _ in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.003 * torch.randn_like(parameter)
        pruner.step()
    pruner.masks.check(model)
    left = prunus.shrink(model, IMAGE) if pattern == "channel" else model
    if target == "60 kB":
        size = prunus.save(left, tmp_path / "net.prunus", IMAGE).bytes
        assert 0.9 * 60_000 <= size <= 60_000
    else:
        counted, dense = count_macs(left, (IMAGE,)), count_macs(lenet(), (IMAGE,)).total
        assert 0.17 * dense <= counted.nonzero <= 0.2 * dense
    assert pruner.sparsity == pytest.approx(planned, abs=0.1)


def test_zeros_save_no_time_in_a_dense_runtime() -> None:
    with pytest.raises(ValueError, match=r"can't be reached: .* need pattern='channel'"):
        prunus.prune(lenet(), "1 us in onnxruntime", example_inputs=IMAGE)


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"can't be timed: .*openvino"):
        prunus.prune(lenet(), "1 ms in openvino", example_inputs=IMAGE)


def test_channels_that_only_training_mixes_are_told_before_a_weight_is_zero() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x).relu()
            if self.training:
                y = y.view(len(y), 2, 4).flip(1).reshape(len(y), 8)
            z: Tensor = self.last(y)
            return z

    torch.manual_seed(0)
    for sparsity in (0.5, "50% MACs"):
        model = Mixed()
        with pytest.raises((prunus.ChannelError, prunus.ShrinkError), match="train"):
            prunus.prune(model, sparsity, pattern="channel", example_inputs=torch.randn(4, 6))
        assert bool(model.first.weight.all())


def conv_and_linear() -> nn.Module:
    """Return a net whose few weights of a convolution make most multiply-adds."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)).eval()


IMAGES = [torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))]


def test_least_error_looks_at_what_weights_cost_and_a_pruner_comes_to_the_same() -> None:
    def kept(masks: prunus.Masks) -> tuple[int, int]:
        return int(masks["0.weight"].sum()), int(masks["3.weight"].sum())

    settings: dict[str, Any] = {"scope": "least_error", "data": IMAGES, "example_inputs": IMAGES[0]}
    by_macs = prunus.prune(conv_and_linear(), "30% MACs", **settings)
    by_count = prunus.prune(conv_and_linear(), by_macs.sparsity, **settings)
    assert kept(by_macs)[0] < kept(by_count)[0]  # a weight of the convolution costs 64 multiply-adds
    model = conv_and_linear()
    pruner = prunus.Pruner(model, "30% MACs", steps=3, **settings)
    for _ in range(3):
        pruner.step()
    for mine, theirs in zip(kept(pruner.masks), kept(by_macs), strict=True):
        assert mine == pytest.approx(theirs, rel=0.05, abs=2)


@pytest.mark.parametrize("scope", ["uniform", "least_error"])
def test_what_masks_pruned_before_counts(scope: str) -> None:
    model = conv_and_linear()
    masks = prunus.prune(model, 0.9, include=["3"])
    dense = count_macs(conv_and_linear(), (IMAGES[0][:1],)).total
    target = f"{0.45 * dense:.0f} MACs"
    prunus.prune(model, target, scope=scope, masks=masks, data=IMAGES, example_inputs=IMAGES[0])
    assert 0.42 * dense <= count_macs(model, (IMAGES[0][:1],)).nonzero <= 0.45 * dense


def test_a_pruner_starts_from_masks_beyond_any_sparsity_but_the_target() -> None:
    model = lenet()
    masks = prunus.prune(model, 0.7)
    pruner = prunus.Pruner(model, "20% parameters", steps=2, masks=masks)
    for _ in range(2):
        pruner.step()
    left = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    assert 0.058 * 160_206 <= left <= 0.07 * 160_206  # a fifth of what masks had left


def test_a_pruner_that_goes_on_keeps_the_share_of_what_there_was_at_first() -> None:
    def run(interrupted: bool) -> int:
        model = lenet()
        pruner = prunus.Pruner(model, "30% parameters", steps=4)
        for step in range(4):
            if interrupted and step == 2:
                state = pruner.state_dict()
                pruner = prunus.Pruner(model, "30% parameters", steps=4)
                pruner.load_state_dict(state)
            pruner.step()
        return sum(int(parameter.count_nonzero()) for parameter in model.parameters())

    assert run(True) == run(False)
    plain = prunus.Pruner(lenet(), 0.5, steps=4)
    with pytest.raises(prunus.MaskError, match="not that of a Pruner of these"):
        plain.load_state_dict(prunus.Pruner(lenet(), "30% parameters", steps=4).state_dict())


def test_inputs_that_are_not_the_first_arguments_are_refused() -> None:
    class Later(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor, mask: Tensor | None = None, z: Tensor | None = None) -> Tensor:
            y: Tensor = self.fc(x) if z is None else self.fc(x + z)
            return y

    named = {"x": torch.zeros(2, 4), "z": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match="measured on its first arguments, x, mask; example_inputs names x, z"):
        prunus.prune(Later(), "50% MACs", example_inputs=named)


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
        ("30 us", {}, "give example_inputs"),
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
        patch.setattr("prunus.pruning.budgets.COSTS", {"steps": Unit(cost)})
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
