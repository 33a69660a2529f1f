"""Training in one process: what it computes, what it leaves alone, what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prunus
from prunus.errors import MaskError
from prunus.lab import data as datasets
from prunus.lab.recipe import TrainingSection
from prunus.lab.train import DivergedError, Fit, Phase, calibration_batches, fit
from prunus.lab.train.loop import summed_loss
from prunus.lab.train.optimization import one_cycle
from prunus.pruning.masks import Masks
from training_parts import cubic, plain_network, small_network, striped, striped_images

SECTION = TrainingSection(epochs=2, batch_size=16, lr=0.1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """So small a network is trained faster so, whatever else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(model: nn.Module, folder: Path, section: TrainingSection = SECTION, **options: Any) -> Fit:
    data, masks = options.pop("data", striped()), options.pop("masks", None)
    accelerator = options.pop("accelerator", "cpu")
    settings: dict[str, Any] = {"name": "train", "seed": 3} | options
    return fit(model, data, Phase(section=section, folder=folder, **settings), masks=masks, accelerator=accelerator)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# What it computes


def test_a_phase_is_gradient_descent_with_nesterov_momentum_and_decay_of_weights_alone(tmp_path: Path) -> None:
    data, lr, momentum, decay = striped(), 0.2, 0.9, 0.1
    model = plain_network(dtype=torch.float64)
    expected = copy.deepcopy(model)
    images = (data.train.images.double() / 255 - data.mean[0]) / data.std[0]
    velocity = [torch.zeros_like(p) for p in expected.parameters()]
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(expected(images), data.train.labels)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for p, g, v in zip(expected.parameters(), gradients, velocity, strict=True):
                g = g + decay * p * (p.dim() > 1)
                v.mul_(momentum).add_(g)
                p -= lr * (g + momentum * v)
    section = TrainingSection(
        epochs=3, batch_size=49, lr=lr, lr_schedule="constant", momentum=momentum, weight_decay=decay
    )
    fitted = train(model, tmp_path, section)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)
    assert [record["loss"] for record in fitted.history] == pytest.approx(losses, rel=1e-5)


def test_adamw_takes_the_first_step_that_torch_takes(tmp_path: Path) -> None:
    data = striped()
    model, expected = plain_network(dtype=torch.float64), plain_network(dtype=torch.float64)
    images = (data.train.images.double() / 255 - data.mean[0]) / data.std[0]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in expected.parameters() if p.dim() > 1], "weight_decay": 0.3},
            {"params": [p for p in expected.parameters() if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=0.01,
    )
    F.cross_entropy(expected(images), data.train.labels).backward()
    optimizer.step()
    section = TrainingSection(
        epochs=1, batch_size=49, optimizer="adamw", lr=0.01, lr_schedule="constant", weight_decay=0.3
    )
    train(model, tmp_path, section)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


@given(steps=st.integers(1, 300), peak=st.floats(1e-4, 10))
@settings(deadline=None, max_examples=40)
def test_one_cycle_is_that_of_torch(steps: int, peak: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert one_cycle(step, steps, peak) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()


@given(smoothing=st.floats(0, 0.99), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_label_smoothing_is_the_formula(smoothing: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 4, (5,), generator=generator)
    wanted = torch.full((5, 4), smoothing / 4, dtype=torch.float64)
    wanted[torch.arange(5), targets] += 1 - smoothing
    expected = -(wanted * torch.log(logits.exp() / logits.exp().sum(1, keepdim=True))).sum()
    torch.testing.assert_close(summed_loss(logits, targets, smoothing), expected)
    with_stranger = summed_loss(torch.cat([logits, logits[:1]]), torch.cat([targets, torch.tensor([-100])]), smoothing)
    torch.testing.assert_close(with_stranger, expected)


def test_the_loss_of_half_precision_is_computed_in_float32() -> None:
    logits = torch.tensor([[300.0, 0.0]], dtype=torch.float16)
    assert summed_loss(logits.repeat(400, 1), torch.ones(400, dtype=torch.int64)).item() == 120_000


def test_lenet_learns_digits(tmp_path: Path) -> None:
    digits = datasets.load("digits")
    torch.manual_seed(0)
    model = prunus.models.create("lenet-300-100", image_size=digits.input_shape[1])
    fitted = train(model, tmp_path, TrainingSection(epochs=3, batch_size=64, lr=0.1), data=digits)
    assert fitted.history[-1]["validation_accuracy"] > 0.9
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"] / 3


def test_the_record_of_an_epoch_says_what_is_so(tmp_path: Path) -> None:
    data = striped()
    model = small_network()
    fitted = train(model, tmp_path, data=data)
    model.eval()
    images = (data.validation.images.float() / 255 - data.mean[0]) / data.std[0]
    right = (model(images).argmax(1) == data.validation.labels).float().mean().item()
    last = fitted.history[-1]
    assert last["validation_accuracy"] == pytest.approx(right)
    assert last["epoch"] == 2
    assert last["lr"] == one_cycle(7, 8, 0.1)
    assert last["sparsity"] == 0
    assert fitted.seconds == pytest.approx(sum(record["seconds"] for record in fitted.history))
    assert fitted.masks is None


# The same again, and not the same


def test_the_same_seed_gives_the_same_bits_and_another_gives_others(tmp_path: Path) -> None:
    models = [small_network() for _ in range(5)]
    train(models[0], tmp_path / "a", shift=1)
    torch.rand(7)  # whatever was drawn before
    train(models[1], tmp_path / "b", shift=1)
    train(models[2], tmp_path / "c", shift=1, seed=4)
    train(models[3], tmp_path / "d", shift=1, name="finetune")
    train(models[4], tmp_path / "e", shift=0)
    assert same(models[0], models[1])
    assert not any(same(models[0], other) for other in models[2:])


def test_the_callers_random_state_stays(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    model = small_network()
    torch.manual_seed(5)
    train(model, tmp_path)
    assert torch.equal(torch.rand(3), expected)


class Watching(nn.Module):
    """Notes which images it is shown while training, by their sums; it is copied, so the notes are not its own."""

    shown: ClassVar[list[float]] = []

    def __init__(self) -> None:
        super().__init__()
        self.network = plain_network(dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.shown.extend(images.sum((1, 2, 3)).tolist())
        logits: torch.Tensor = self.network(images)
        return logits


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    data = striped()
    images = (data.train.images.double() / 255 - data.mean[0]) / data.std[0]
    every = sorted(images.sum((1, 2, 3)).tolist())
    Watching.shown.clear()
    train(Watching(), tmp_path, data=data)
    first, second = Watching.shown[:49], Watching.shown[49:]
    assert sorted(first) == pytest.approx(every)
    assert sorted(second) == pytest.approx(every)
    assert first != second


# What it leaves alone


def test_the_model_stays_the_object_it_was(tmp_path: Path) -> None:
    model = small_network().eval()
    parameters = [(p, p.data_ptr(), p.stride()) for p in model.parameters()]
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    train(model, tmp_path)
    assert [(p, p.data_ptr(), p.stride()) for p in model.parameters()] == [
        (p, address, stride) for p, address, stride in parameters
    ]
    assert not model.training
    assert torch.equal(model[0].weight, frozen)
    assert all(p.grad is None for p in model.parameters())


def test_a_view_that_channels_last_breaks_still_trains(tmp_path: Path) -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.fc = nn.Linear(64, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(images).view(-1, 64))

    model = Viewing()
    with pytest.raises(RuntimeError, match="view size"):
        copy.deepcopy(model).to(memory_format=torch.channels_last)(torch.zeros(2, 1, 6, 6))
    assert train(model, tmp_path).history[-1]["loss"] < 2


def test_the_test_split_is_never_touched(tmp_path: Path) -> None:
    model, other = small_network(), small_network()
    train(model, tmp_path / "a")
    train(other, tmp_path / "b", data=replace(striped(), test=None))  # type: ignore[arg-type]
    assert same(model, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_of_the_model_is_trained_in(tmp_path: Path, dtype: torch.dtype) -> None:
    model = plain_network(dtype=dtype)
    fitted = train(model, tmp_path, TrainingSection(epochs=4, batch_size=16, lr=0.05))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]


# Pruning while training


def test_zeros_stay_zero_through_momentum_and_decay(tmp_path: Path) -> None:
    model = small_network()
    train(model, tmp_path, name="before")
    masks = prunus.prune(model, 0.5)
    before = {name: p.clone() for name, p in model.named_parameters()}
    fitted = train(model, tmp_path, masks=masks)
    assert fitted.masks == masks
    for name, parameter in model.named_parameters():
        living = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.count_nonzero(parameter[~living]) == 0
        if parameter.dim() > 1:
            assert torch.count_nonzero(parameter[living] != before[name][living]) > 0.9 * living.sum()
    assert fitted.history[-1]["sparsity"] == masks.sparsity


def test_masks_are_applied_where_the_model_was_not_pruned(tmp_path: Path) -> None:
    model = small_network()
    masks = Masks({"3.weight": torch.rand(6, 4, 3, 3) < 0.5})
    train(model, tmp_path / "a", masks=masks)
    masks.check(model)
    untrained = small_network()
    train(untrained, tmp_path / "b", TrainingSection(epochs=0), masks=masks)
    masks.check(untrained)


@pytest.mark.parametrize("criterion", ["magnitude", "gradient", "activation", "random"])
def test_a_schedule_ends_at_its_sparsity_with_the_last_step(tmp_path: Path, criterion: str) -> None:
    model = small_network()
    section = cubic(SECTION, 0.6).model_copy(update={"criterion": criterion})
    fitted = train(model, tmp_path, prune=section)
    assert fitted.masks is not None
    assert fitted.masks.num_pruned == round(0.6 * (4 * 9 + 6 * 36 + 3 * 24))
    fitted.masks.check(model)
    assert 0 < fitted.history[0]["sparsity"] < fitted.history[1]["sparsity"] == fitted.masks.sparsity


def test_pruning_starts_from_the_masks_given(tmp_path: Path) -> None:
    model = small_network()
    masks = prunus.prune(model, 0.3)
    fitted = train(model, tmp_path, prune=cubic(SECTION, 0.6), masks=masks)
    assert fitted.masks is not None
    assert all(bool((~fitted.masks[name][~mask]).all()) for name, mask in masks.items())


def test_calibration_images_come_from_all_over_the_split_once_each() -> None:
    images = striped_images(30, 1)
    order = images.labels.argsort()
    data = replace(striped(), train=images.take(order))
    few = calibration_batches(data, 2, 3)
    assert [len(labels) for _, labels in few] == [2, 2, 2]
    assert set(torch.cat([labels for _, labels in few]).tolist()) == {0, 1, 2}
    every = calibration_batches(data, 8, 9)
    assert torch.equal(torch.cat([labels for _, labels in every]), data.train.labels)


# What it refuses


def test_divergence_says_where_and_leaves_the_model(tmp_path: Path) -> None:
    model = plain_network()
    before = copy.deepcopy(model)
    section = TrainingSection(epochs=3, batch_size=16, lr=1e30, lr_schedule="constant")
    with pytest.raises(DivergedError, match=r"epoch 1 of 3, step [23] of 4, at learning rate 1e\+30; try a lower lr"):
        train(model, tmp_path, section)
    assert same(model, before)


def test_weights_that_the_last_step_of_an_epoch_breaks_are_noticed(tmp_path: Path) -> None:
    section = TrainingSection(epochs=1, batch_size=49, lr=1e38, lr_schedule="constant", weight_decay=1e3)
    with pytest.raises(DivergedError, match="a weight became NaN or infinite"):
        train(plain_network(), tmp_path, section)


class Numbered(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"number": 1}


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (plain_network(), {"name": "../train"}, ValueError, "name must be usable as a file name"),
        (plain_network(), {"devices": 0}, ValueError, "devices must be at least 1, got 0"),
        (plain_network(), {"devices": 17}, ValueError, "batch_size 16 can't be shared by 17 devices"),
        (plain_network(), {"data": replace(striped(), validation=striped_images(0, 0))}, ValueError, "no images"),
        (plain_network(), {"masks": Masks({"9.weight": torch.ones(2) > 0})}, MaskError, "no parameter '9.weight'"),
        (plain_network(), {"devices": 2, "accelerator": "tpu"}, ValueError, "got 'tpu'"),
        (plain_network().requires_grad_(False), {}, ValueError, "so it can't be trained"),
        (nn.Sequential(nn.Flatten(), nn.Linear(30, 3)), {}, ValueError, "can't take the images of 'striped'"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), {}, ValueError, r"logits of shape \(2, 3\)"),
        (nn.Conv2d(1, 3, 3), {}, ValueError, r"got \(2, 3, 4, 4\)"),
        (nn.Sequential(nn.Flatten(), Numbered(36, 3)), {}, TypeError, "'1._extra_state' of type dict"),
    ],
)
def test_what_can_not_be_trained_is_refused_before_anything_is_written(
    tmp_path: Path, model: nn.Module, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        train(model, tmp_path, **options)
    assert not list(tmp_path.iterdir())
    assert str(model.state_dict()) == str(before)


def test_no_epochs_change_nothing_but_pruning_needs_some(tmp_path: Path) -> None:
    model = small_network()
    none = TrainingSection(epochs=0)
    assert train(model, tmp_path, none) == Fit(None, (), 0.0)
    assert same(model, small_network())
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        train(model, tmp_path, none, prune=cubic(SECTION))


def test_a_model_that_can_not_be_sent_to_processes_is_refused(tmp_path: Path) -> None:
    model = plain_network()
    model.hook = lambda: None  # type: ignore[assignment]
    with pytest.raises(TypeError, match="top level of a module, or train with devices=1"):
        train(model, tmp_path, devices=2)


def test_more_gpus_than_there_are_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="devices is 2, but there are 1 GPUs; give accelerator 'cpu'"):
        train(plain_network(), tmp_path, devices=2, accelerator="auto")
