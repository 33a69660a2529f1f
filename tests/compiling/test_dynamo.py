"""``torch.compile(model, backend="prunus")``: the same outputs, for any batch, and gradients where they are wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from counting import Counting
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


@torch.no_grad()
def test_models_of_one_class_keep_their_own_weights() -> None:
    one, other = small(), small()
    fast = [torch.compile(model, backend="prunus") for model in (one, other)]
    x = torch.randn(4, 3, 8, 8)
    for _ in range(2):
        for model, compiled in zip((one, other), fast, strict=True):
            close(compiled(x), model(x))
    one[0].weight = nn.Parameter(torch.randn_like(one[0].weight))
    one.load_state_dict({name: value + 1 for name, value in other.state_dict().items()}, assign=True)
    close(fast[0](x), one(x))


def test_what_an_optimizer_writes_without_a_trace_is_seen() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    fast, x = torch.compile(model, backend="prunus"), torch.randn(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.5, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        fast(x).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            close(fast(x), model(x))


@torch.no_grad()
def test_what_a_graph_writes_to_is_written_to() -> None:
    model = Counting().eval()
    fast = torch.compile(model, backend="prunus")
    for calls in (1, 2, 3):
        x = torch.ones(2, 4)
        close(fast(x), model.layer(torch.full((2, 4), 2.0)) + calls)
        assert torch.equal(x, torch.full((2, 4), 2.0))


@torch.no_grad()
def test_a_size_that_no_tensor_has_leaves_the_graph_in_pytorch() -> None:
    layer = nn.Linear(4, 4).eval()
    fast = torch.compile(lambda x, n: layer(x) * n, backend="prunus")
    x = torch.randn(3, 4)
    for number in (2, 3, 5):
        close(fast(x, number), layer(x) * number)
    cut = torch.randn(10, 12)
    alone = torch.compile(layer, backend="prunus")
    for inputs in (x, cut[::2, ::3]):
        close(alone(inputs), layer(inputs))


@torch.no_grad()
def test_number_types_of_outputs_are_kept() -> None:
    layer = nn.Linear(4, 4).eval()
    fast = torch.compile(lambda x: layer(x).double(), backend="prunus")
    assert fast(torch.randn(2, 4)).dtype == torch.float64
