"""Gradients against autograd, input norms against unfolding and against the outputs of single weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.pruning.stats import Batch, gradients, input_norms, stored_gradients
from prunus.pruning.targets import Target, resolve

pytestmark = pytest.mark.usefixtures("one_thread")

Batches = list[tuple[Tensor, Tensor]]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norms_of(model: nn.Module, *inputs: Any, **options: Any) -> dict[str, Tensor]:
    return input_norms(model, resolve(model, **options), inputs)


def norm_of_single_weights(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return for each weight the norm of the outputs of the module with this weight 1, all others and the bias 0."""
    alone = copy.deepcopy(module).double()
    with torch.no_grad():
        if alone.bias is not None:
            alone.bias.zero_()
        norms = torch.empty_like(alone.weight)
        for index in range(alone.weight.numel()):
            alone.weight.zero_()
            alone.weight.view(-1)[index] = 1
            norms.view(-1)[index] = alone(inputs.double()).norm()
    return norms


CONVOLUTIONS = {
    "plain": (nn.Conv2d(2, 2, 3), (2, 2, 5, 4)),
    "stride": (nn.Conv2d(2, 2, 3, stride=2), (2, 2, 6, 5)),
    "padding": (nn.Conv2d(2, 2, (3, 2), padding=(2, 1), stride=(1, 2)), (2, 2, 5, 4)),
    "padding same": (nn.Conv2d(2, 2, 3, padding="same", bias=False), (2, 2, 5, 4)),
    "reflect": (nn.Conv2d(2, 2, 3, padding=2, padding_mode="reflect"), (2, 2, 5, 4)),
    "circular": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 2, 5, 4)),
    "dilation": (nn.Conv2d(2, 2, 3, dilation=2), (2, 2, 7, 6)),
    "groups": (nn.Conv2d(4, 2, 3, groups=2), (2, 4, 5, 4)),
    "depthwise": (nn.Conv2d(3, 3, 2, groups=3, padding=1), (2, 3, 5, 4)),
    "one-dimensional": (nn.Conv1d(2, 3, 5, stride=3), (2, 2, 17)),
    "three-dimensional": (nn.Conv3d(2, 2, 2), (2, 2, 4, 3, 5)),
    "transposed": (nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1, output_padding=1), (2, 2, 3, 4)),
    "transposed groups": (nn.ConvTranspose1d(4, 4, 3, groups=2), (2, 4, 5)),
    "no batch": (nn.Conv2d(2, 2, 3), (2, 5, 4)),
    "linear": (nn.Linear(5, 3), (4, 5)),
    "linear on sequences": (nn.Linear(5, 3), (4, 2, 6, 5)),
    "linear on one": (nn.Linear(5, 3), (5,)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_weights_input_norm_is_the_norm_of_what_it_alone_lets_through(name: str) -> None:
    module, shape = CONVOLUTIONS[name]
    inputs = randn(*shape)
    expected = norm_of_single_weights(module, inputs)
    found = norms_of(module, inputs)["weight"]
    torch.testing.assert_close(found.double().expand_as(expected), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"padding": 2, "stride": 3}])
def test_a_convolutions_norms_are_those_of_its_unfolded_input(options: dict[str, int]) -> None:
    inputs = randn(3, 4, 9, 8)
    unfolded = F.unfold(inputs.double(), 3, **options)  # (images, channels * 9, positions)
    expected = unfolded.square().sum((0, 2)).sqrt().view(1, 4, 3, 3).expand(5, 4, 3, 3)
    found = norms_of(nn.Conv2d(4, 5, 3, **options), inputs)["weight"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_norms_run_over_all_batches_and_all_calls(network: nn.Module, batches: Batches) -> None:
    seen: list[Tensor] = []
    model = copy.deepcopy(network).eval()
    model.hidden.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        for images, _ in batches:
            model(images)
    expected = torch.cat(seen).double().norm(dim=0)
    found = input_norms(network, resolve(network, "hidden"), batches)["hidden.weight"]
    torch.testing.assert_close(found.double(), expected[None])


class Shared(nn.Module):
    """One layer called twice, the second time by keyword, and its weight in a second layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.layer.weight

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        total: Tensor = self.layer(first) + self.layer(input=first * 2) + self.other(first * 3)
        return total if second is None else total + self.layer(second)


def test_norms_of_a_shared_weight_add_up_all_its_inputs() -> None:
    inputs = randn(5, 4)
    found = norms_of(Shared(), inputs)["layer.weight"]
    torch.testing.assert_close(found, inputs.norm(dim=0)[None] * (1 + 4 + 9) ** 0.5)


def test_batches_may_be_tensors_pairs_and_keyword_arguments() -> None:
    inputs = randn(5, 4)
    model = Shared()
    expected = norms_of(model, inputs)["layer.weight"]
    assert torch.equal(norms_of(model, (inputs, torch.zeros(5)))["layer.weight"], expected)
    assert torch.equal(norms_of(model, [inputs])["layer.weight"], expected)
    assert torch.equal(norms_of(model, {"first": inputs})["layer.weight"], expected)
    both = norms_of(model, {"first": inputs, "second": inputs})["layer.weight"]
    torch.testing.assert_close(both, inputs.norm(dim=0)[None] * 15**0.5)


def test_norms_are_right_in_half_precision_and_under_autocast() -> None:
    inputs = randn(4, 3, 7, 7) * 200  # whose squares no float16 holds
    for module in (nn.Conv2d(3, 4, 3), nn.Linear(7, 4)):
        expected = norms_of(module, inputs.bfloat16().float())["weight"]
        found = norms_of(copy.deepcopy(module).bfloat16(), inputs.bfloat16())["weight"]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(norms_of(module, inputs.bfloat16().float())["weight"], expected)


class Standardised(nn.Conv2d):
    """A convolution that normalises its weight at each forward: not linear in it."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight / self.weight.norm(), self.bias)


def test_norms_of_a_subclass_are_those_of_its_inputs() -> None:
    inputs = randn(2, 3, 6, 6)
    plain, own = nn.Conv2d(3, 4, 3), Standardised(3, 4, 3)
    assert torch.equal(norms_of(own, inputs)["weight"], norms_of(plain, inputs)["weight"])


def test_gradients_are_the_mean_of_autograds(network: nn.Module, batches: Batches) -> None:
    targets = resolve(network)
    found = gradients(network, targets, batches, F.cross_entropy)
    network.eval()
    sum(F.cross_entropy(network(images), labels) for images, labels in batches).div(2).backward()  # type: ignore[union-attr]
    for name, target in targets.items():
        torch.testing.assert_close(found[name], target.parameter.grad)


def test_gradients_of_half_precision_weights_are_added_up_in_float32() -> None:
    layer = nn.Linear(1, 1, bias=False).half()
    batches = [torch.ones(1, 1).half()] * 3000  # in float16, 2048 + 1 = 2048
    found = gradients(layer, resolve(layer), batches, lambda outputs, batch: outputs.sum())
    assert found["weight"].dtype == torch.float32
    assert found["weight"].item() == 1.0


def test_a_mapping_is_given_to_the_loss_whole() -> None:
    model = Shared()
    batch = {"first": randn(3, 4), "second": randn(3, 4, seed=1)}
    seen: list[Batch] = []

    def loss(outputs: Tensor, given: Batch) -> Tensor:
        seen.append(given)
        return outputs.sum()

    gradients(model, resolve(model, "layer"), [batch], loss)
    assert seen == [batch]


class Everything(nn.Module):
    """What could disturb: batch norm, dropout, random numbers in eval mode, a recurrent layer, a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.recurrent = nn.LSTM(6, 6, batch_first=True)
        self.fc = nn.Linear(6, 2)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)
        self.norm.eval()  # flags differ from module to module

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.dropout(self.recurrent(self.norm(inputs)[:, None])[0][:, 0], 0.5, training=True)
        outputs: Tensor = self.frozen(self.fc(hidden))
        return outputs + torch.rand_like(outputs)


def snapshot(model: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {f"state {name}": tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state[f"grad {name}"] = None if parameter.grad is None else parameter.grad.clone()
        state[f"requires_grad {name}"] = torch.tensor(parameter.requires_grad)
    for name, module in model.named_modules():
        state[f"training {name}"] = torch.tensor(module.training)
        state[f"keys {name}"] = torch.tensor(len(vars(module)))
        state[f"hooks {name}"] = torch.tensor(len(module._forward_pre_hooks))
    state["random"] = torch.get_rng_state()
    return state


def shuffled() -> torch.utils.data.DataLoader[Any]:
    data = torch.utils.data.TensorDataset(randn(8, 6), torch.zeros(8, dtype=torch.long))
    return torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)


class LossError(Exception):
    """What a user's loss may raise."""


def failing_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    raise LossError


RUNS: dict[str, Callable[[nn.Module], object]] = {
    "gradients": lambda model: gradients(model, resolve(model), shuffled(), F.cross_entropy),
    "input norms": lambda model: input_norms(model, resolve(model, nn.Linear), shuffled()),
    "a failing loss": lambda model: gradients(model, resolve(model), shuffled(), failing_loss),
    "a failing forward": lambda model: input_norms(model, resolve(model, nn.Linear), [randn(4, 7)]),
}


@pytest.mark.parametrize("run", RUNS)
def test_gathering_leaves_the_model_and_the_random_state_as_they_were(run: str) -> None:
    model = Everything().train()
    model(randn(3, 6)).sum().backward()
    before = snapshot(model)
    try:
        RUNS[run](model)
    except (LossError, RuntimeError, ValueError):
        assert run.startswith("a failing")
    after = snapshot(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert (value is None and after[key] is None) or torch.equal(value, after[key]), key


def generator_of(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    yield from batches


def test_a_generator_works_once_and_says_so_when_it_is_used_up(network: nn.Module, batches: Batches) -> None:
    data = generator_of(batches)
    targets = resolve(network)
    first = input_norms(network, targets, data)
    torch.testing.assert_close(first["head.weight"], input_norms(network, targets, batches)["head.weight"])
    with pytest.raises(ValueError, match=r"data held no batch; .*a generator is used up after one reading"):
        input_norms(network, targets, data)
    with pytest.raises(ValueError, match="data held no batch"):
        gradients(network, targets, [], F.cross_entropy)


def test_what_cant_be_a_loss_is_refused(network: nn.Module, batches: Batches) -> None:
    targets = resolve(network)
    with pytest.raises(ValueError, match=r"the loss must be one number, .* got a tensor of shape \(6, 8\); take its"):
        gradients(network, targets, batches, lambda outputs, labels: outputs)
    with pytest.raises(ValueError, match="the loss must be one number, a tensor of one element, got float"):
        gradients(network, targets, batches, lambda outputs, labels: outputs.sum().item())
    with pytest.raises(ValueError, match="the loss does not depend on the model's weights"):
        gradients(network, targets, batches, lambda outputs, labels: outputs.detach().sum())
    with pytest.raises(ValueError, match=r"a batch must be \(inputs, targets\) or a mapping, got a sequence of 3"):
        gradients(network, targets, [(*batches[0], 1)], F.cross_entropy)


class Unused(nn.Module):
    """A layer that forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.used(inputs)
        return outputs


def test_layers_that_take_no_part_are_named() -> None:
    model = Unused()
    with pytest.raises(ValueError, match=r"the loss does not depend on 'idle\.weight', .*; exclude it"):
        gradients(model, resolve(model), [randn(2, 4)], lambda outputs, batch: outputs.sum())
    with pytest.raises(ValueError, match=r"the modules of idle\.weight were never called on the data; exclude them"):
        norms_of(model, randn(2, 4))


def tied() -> tuple[nn.Module, dict[str, Target]]:
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Embedding(6, 4))
    model[1].weight = model[0].weight
    return model, resolve(model, "0.weight")


def test_norms_know_linear_and_convolution_weights_only() -> None:
    for model, targets in [
        (nn.LSTM(3, 3), resolve(nn.LSTM(3, 3))),
        (nn.Linear(3, 3), resolve(nn.Linear(3, 3), "bias")),
        (nn.MultiheadAttention(4, 2), resolve(nn.MultiheadAttention(4, 2))),
        tied(),
    ]:
        with pytest.raises(ValueError, match="knows the inputs of Linear and convolution weights only"):
            input_norms(model, targets, [])


def test_stored_gradients_are_those_of_the_last_backward(network: nn.Module, batches: Batches) -> None:
    targets = resolve(network)
    with pytest.raises(ValueError, match=r"found no \.grad on conv\.weight, hidden\.weight, head\.weight; pass data="):
        stored_gradients(targets)
    F.cross_entropy(network(batches[0][0]), batches[0][1]).backward()
    assert all(torch.equal(found, targets[name].parameter.grad) for name, found in stored_gradients(targets).items())


def test_a_sparse_stored_gradient_is_made_dense() -> None:
    model = nn.Embedding(5, 3, sparse=True)
    model(torch.tensor([1, 1, 4])).sum().backward()
    found = stored_gradients(resolve(model, "weight"))["weight"]
    assert found.tolist() == [[0.0] * 3, [2.0] * 3, [0.0] * 3, [0.0] * 3, [1.0] * 3]
