"""What shrink hands back: a plain model whose attributes tell the truth, that trains on; and what it refuses."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from masked import apart, num_parameters, outputs, zero_at_random
from prunus.errors import GraphError, MaskError, ShrinkError
from prunus.shrinking.finding.liveness import Sweep
from zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def dead(network: nn.Module, conv: int = 3, hidden: int = 10) -> nn.Module:
    """Prune the first channels of the test network: all that makes and takes them."""
    with torch.no_grad():
        for tensor in (network.conv.weight, network.conv.bias, network.norm.weight, network.norm.bias):
            tensor[:conv] = 0
        network.hidden.weight[:, : conv * 16] = 0
        for tensor in (network.hidden.weight, network.hidden.bias):
            tensor[:hidden] = 0
        network.head.weight[:, :hidden] = 0
    return network


def test_attributes_tell_the_truth_and_the_model_stays(network: nn.Module) -> None:
    dead(network).train()
    network.norm.weight.requires_grad = False
    before = copy.deepcopy(network.state_dict())
    smaller = prunus.shrink(network, INPUTS)
    assert type(smaller) is type(network)
    assert (smaller.conv.out_channels, smaller.norm.num_features) == (5, 5)
    assert (smaller.hidden.in_features, smaller.hidden.out_features, smaller.head.in_features) == (80, 14, 14)
    assert smaller.conv.weight.shape == (5, 4, 3, 3)
    assert smaller.training
    assert all(module.training for module in smaller.modules())
    assert [p.requires_grad for p in smaller.parameters()] == [p.requires_grad for p in network.parameters()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not {p.data_ptr() for p in smaller.parameters()} & {p.data_ptr() for p in network.parameters()}
    assert apart(outputs(network.eval(), INPUTS), outputs(smaller.eval(), INPUTS)) <= 1e-5


def test_groups_and_heads_tell_the_truth() -> None:
    convolutions = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 2, 1))
    convolutions[2].weight.data[:, [0, 5]] = 0
    smaller = prunus.shrink(convolutions, INPUTS)
    assert (smaller[1].in_channels, smaller[1].out_channels, smaller[1].groups) == (4, 4, 4)
    attention = ZOO["separate-qkv"].make()
    attention[1].attn.out.weight.data[:, 8:16] = 0  # the second of four heads
    smaller = prunus.shrink(attention, ZOO["separate-qkv"].example_inputs)
    assert smaller[1].attn.num_heads == 3
    assert smaller[1].attn.query.out_features == smaller[1].attn.out.in_features == 24


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(6), nn.BatchNorm2d(6, affine=False), nn.GroupNorm(3, 6, affine=False)]
)
def test_norms_without_weights_tell_the_truth(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()
    model[3].weight.data[:, 2:4] = 0
    smaller = prunus.shrink(model, INPUTS)
    assert smaller[0].out_channels == 4
    assert getattr(smaller[1], "num_features", None) == 4 or (smaller[1].num_channels, smaller[1].num_groups) == (4, 2)
    assert apart(outputs(model, INPUTS), outputs(smaller, INPUTS)) <= 1e-5


def test_recurrent_sizes_tell_the_truth() -> None:
    model = ZOO["gru-bidirectional"].make()
    with torch.no_grad():
        for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
            getattr(model.gru, name)[:, 3:8] = 0
        model.fc.weight[:, [*range(3, 8), *range(27, 32)]] = 0
    inputs = ZOO["gru-bidirectional"].example_inputs
    smaller = prunus.shrink(model, inputs)
    assert (smaller.gru.hidden_size, smaller.gru.input_size, smaller.fc.in_features) == (19, 20, 38)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-5


def test_it_copies_trains_and_exports(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    smaller = prunus.shrink(dead(network), INPUTS).train()
    again = copy.deepcopy(smaller)
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    images, labels = batches[0]
    F.cross_entropy(again(images), labels).backward()
    optimizer.step()
    moved = zip(smaller.parameters(), again.parameters(), strict=True)
    assert all(not torch.equal(one, other) for one, other in moved)
    smallest = prunus.shrink(smaller, INPUTS)
    assert num_parameters(smallest) == num_parameters(smaller)
    program = torch.export.export(smaller.eval(), (INPUTS,))
    assert apart(outputs(smaller, INPUTS), outputs(program.module(), INPUTS)) <= 1e-6


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    ],
    ids=["SGD", "Adam"],
)
def test_one_more_step_is_that_of_the_masked_model(
    make: Callable[..., torch.optim.Optimizer], network: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    network.double().train()
    optimizer = make(network.parameters())

    def step(model: nn.Module, stepper: torch.optim.Optimizer) -> None:
        images, labels = batches[0]
        stepper.zero_grad()
        F.cross_entropy(model(images.double()), labels).backward()
        stepper.step()

    for _ in range(3):
        step(network, optimizer)
    dead(network)
    larger = copy.deepcopy(network)
    stepper = make(larger.parameters())
    stepper.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    smaller = prunus.shrink(network, INPUTS.double(), optimizer=optimizer)
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [id(p) for p in smaller.parameters()]
    step(smaller, optimizer)
    step(larger, stepper)
    assert torch.allclose(smaller.conv.weight, larger.conv.weight[3:], rtol=1e-9)
    assert torch.allclose(smaller.norm.bias, larger.norm.bias[3:], rtol=1e-9)
    assert torch.allclose(smaller.hidden.weight, larger.hidden.weight[10:, 48:], rtol=1e-9)
    assert torch.allclose(smaller.head.weight, larger.head.weight[:, 10:], rtol=1e-9)


def test_masks_are_taken_for_zeros_and_the_model_keeps_its_weights(network: nn.Module) -> None:
    masks = {"conv.weight": torch.ones_like(network.conv.weight, dtype=torch.bool)}
    masks["hidden.weight"] = torch.ones_like(network.hidden.weight, dtype=torch.bool)
    masks["hidden.weight"][:, :32] = False
    before = copy.deepcopy(network.state_dict())
    smaller = prunus.shrink(network, INPUTS, masks=masks)
    assert smaller.conv.out_channels == 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_half_precision(network: nn.Module, dtype: torch.dtype) -> None:
    dead(network).to(dtype).eval()
    smaller = prunus.shrink(network, INPUTS.to(dtype))
    assert smaller.conv.out_channels == 5
    assert {p.dtype for p in smaller.parameters()} == {dtype}
    limit = {torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(dtype, 1e-5)
    assert apart(outputs(network, INPUTS.to(dtype)), outputs(smaller, INPUTS.to(dtype))) <= limit


# What it refuses: the model stays as it was.


@torch.library.custom_op("prunus_tests::strange", mutates_args=())
def strange(x: Tensor) -> Tensor:
    return x.flip(1).clone()


@strange.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Calls(nn.Module):
    """A layer, a function, a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


@pytest.mark.parametrize(
    ("function", "operation"),
    [(lambda x: strange(x), "prunus_tests.strange"), (lambda x: torch.fft.fft(x).real, "aten.fft_fft")],
)
def test_an_unknown_operation_is_named_with_its_module_and_line(
    function: Callable[[Tensor], Tensor], operation: str
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Calls(function)).train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(GraphError, match=re.escape(f"operation {operation} is not known")) as caught:
        prunus.shrink(model, torch.zeros(2, 4))
    assert "module '1' (Calls)" in str(caught.value)
    assert "test_shrink.py" in str(caught.value)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_that_branches_on_its_data() -> None:
    model = Calls(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(GraphError, match=r"can't be traced .*Calls|Calls.* can't be traced"):
        prunus.shrink(model, torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("inputs", "kind", "words"),
    [
        (torch.zeros(2, 5), GraphError, r"can't run the example inputs \(\(2, 5\)\)"),
        ((torch.zeros(2, 4), torch.zeros(2, 4)), GraphError, "can't run the example inputs"),
        ({"images": torch.zeros(2, 4)}, GraphError, "can't run the example inputs"),
        (torch.tensor(1.0), ValueError, "batch"),
        (torch.zeros(0, 4), ValueError, "at least one sample"),
        ([torch.zeros(2, 4)], TypeError, "example_inputs must be a tensor"),
        (None, TypeError, "NoneType"),
        ((), TypeError, "example_inputs must be a tensor"),
    ],
)
def test_wrong_example_inputs(inputs: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        prunus.shrink(Calls(torch.relu), inputs)


def test_wrong_arguments(network: nn.Module, make_network: Callable[[int], nn.Module]) -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got function"):
        prunus.shrink(lambda x: x, INPUTS)  # type: ignore[arg-type]
    with pytest.raises(MaskError, match="other"):
        prunus.shrink(network, INPUTS, masks={"other.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(MaskError, match="shape"):
        prunus.shrink(network, INPUTS, masks={"conv.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(TypeError, match="optimizer must be"):
        prunus.shrink(network, INPUTS, optimizer=object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none of this model"):
        prunus.shrink(network, INPUTS, optimizer=torch.optim.SGD(make_network(1).parameters(), lr=0.1))


def test_outputs_that_would_differ_are_refused(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def alive_forgotten(reading: Any, staying: Tensor) -> Sweep:
        return Sweep(reading, staying | ~reading.coupling.removable)  # which has not run

    monkeypatch.setattr("prunus.shrinking.finding.removal.needed", alive_forgotten)
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(ShrinkError, match="outputs would differ"):
        prunus.shrink(network.eval(), INPUTS, optimizer=optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in network.parameters()]


def test_a_forward_that_asks_whether_gradients_are_on_is_named() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            return self.last((x * 2 if torch.is_grad_enabled() else x)[:, [0, 2, 4, 6]])

    model = Asks()
    with torch.no_grad():
        model.last.weight[:, 2:] = 0
    with pytest.raises(ShrinkError, match=r"must not branch on torch\.is_grad_enabled\(\)"):
        prunus.shrink(model, torch.rand(2, 4))


# What models do besides.


class Odd(nn.Module):
    """A hook, a buffer that is not saved, and a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("scale", torch.rand(6) + 0.5, persistent=False)
        self.called = 0
        self.twice.register_forward_hook(self.count)

    def count(self, *_: object) -> None:
        self.called += 1

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.first(x)) * self.scale))
        return self.last(torch.relu(self.twice(x)))


def test_buffers_that_are_not_saved_and_layers_called_twice() -> None:
    model = Odd().eval()
    with torch.no_grad():
        for tensor in (model.twice.weight[:, 2], model.twice.weight[2], model.twice.bias[2:3], model.last.weight[:, 2]):
            tensor.zero_()
    inputs = torch.randn(3, 4)
    smaller = prunus.shrink(model, inputs)
    assert smaller.scale.shape == (5,)
    assert smaller.state_dict().keys() == model.state_dict().keys()
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-5


def test_weight_norm_is_shrunk_or_refused_but_never_wrong() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2)).eval()
    model[2].weight.data[:, 1] = 0
    inputs = torch.randn(3, 4)
    try:
        smaller = prunus.shrink(model, inputs)
    except (GraphError, ShrinkError):
        return
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) <= 1e-5


def test_a_compiled_model_and_a_single_sample_by_name(network: nn.Module) -> None:
    dead(network).eval()
    smaller = prunus.shrink(torch.compile(network, backend="eager"), {"images": INPUTS[:1]})
    assert type(smaller) is type(network)
    assert smaller.conv.out_channels == 5
    assert apart(outputs(network, INPUTS), outputs(smaller, INPUTS)) <= 1e-5


def test_a_model_without_biases(dtype: torch.dtype) -> None:
    layers = [nn.Conv2d(4, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 1, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)]
    model = nn.Sequential(*layers).to(dtype).eval()
    zero_at_random(model, 0.3, torch.Generator().manual_seed(1))
    model[2].weight.data[:, :2] = 0
    smaller = prunus.shrink(model, INPUTS.to(dtype))
    assert smaller[0].out_channels <= 4
    assert smaller[2].out_channels == 1
    assert smaller[0].bias is None
