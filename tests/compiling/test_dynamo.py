"""``torch.compile(model, backend="prunus")``: the same outputs, for any batch, and gradients where they are wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from prunus.compiling import dynamo
from zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_it_is_found_by_its_name() -> None:
    assert "prunus" in torch._dynamo.list_backends()


@torch.no_grad()
def test_batches_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    made: list[torch.Size] = []
    compile_ = dynamo.compile
    monkeypatch.setattr(
        dynamo,
        "compile",
        lambda module, inputs, **more: made.append(inputs[0].shape) or compile_(module, inputs, **more),
    )
    fast = torch.compile(model, backend="prunus")
    for shape in ((4, 3, 8, 8), (5, 3, 8, 8), (1, 3, 8, 8), (6, 3, 9, 8), (2, 3, 9, 8)):
        x = torch.randn(shape)
        close(fast(x), model(x))
    assert made, "programs were made"


@torch.no_grad()
def test_weights_that_are_written_to_are_seen() -> None:
    model = small()
    fast, x = torch.compile(model, backend="prunus"), torch.randn(4, 3, 8, 8)
    close(fast(x), model(x))
    model[0].weight.mul_(-2)
    model[1].running_mean.add_(1)
    close(fast(x), model(x))


def test_gradients_are_those_of_the_model() -> None:
    model, x = small(), torch.randn(4, 3, 8, 8)
    torch.compile(model, backend="prunus")(x).square().sum().backward()
    found = model[0].weight.grad
    model.zero_grad()
    model(x).square().sum().backward()
    assert found is not None
    close(found, model[0].weight.grad)


@torch.no_grad()
def test_a_model_in_training_mode_stays_in_pytorch_and_its_statistics_move() -> None:
    model, x = small().train(), torch.randn(4, 3, 8, 8)
    before = model[1].running_mean.clone()
    out = torch.compile(model, backend="prunus")(x)
    assert not torch.equal(model[1].running_mean, before)
    close(out, model(x))


@torch.no_grad()
@pytest.mark.parametrize("name", ["conv-bn", "dict-output", "multihead-attention", "hf-llama"])
def test_networks(name: str) -> None:
    case = ZOO[name]
    model = case.make().eval()
    args, kwargs = case.arguments(3)
    found, expected = torch.compile(model, backend="prunus")(*args, **kwargs), model(*args, **kwargs)
    pairs = zip(*(torch.utils._pytree.tree_leaves(value) for value in (found, expected)), strict=True)
    for one, other in pairs:
        if isinstance(other, Tensor):
            close(one, other)
