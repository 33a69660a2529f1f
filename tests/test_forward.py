from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunus.forward import batch_of, check_inputs, check_models, run, undisturbed, unique_parameters


class Restless(nn.Module):
    """Changes all it can in a forward, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.frozen = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4).eval()
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("seen", torch.zeros(4))
        self.register_buffer("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = self.seen + x.sum(0)
        self.nothing = torch.ones(1)
        self.register_buffer(f"late{int(self.calls)}", torch.zeros(1), persistent=False)
        assert not self.training
        return self.norm(self.fc(x)) + torch.rand(4)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_undisturbed_leaves_no_trace():
    model = Restless().train()
    model.frozen.eval()
    before, buffers = snapshot(model), {name: id(buffer) for name, buffer in model.named_buffers()}
    flags = [module.training for module in model.modules()]
    versions = [buffer._version for buffer in model.buffers()]
    random = torch.get_rng_state()
    model.fc.weight.grad = torch.ones(4, 4)
    with undisturbed(model), torch.no_grad():
        model(torch.randn(3, 4))
        model(torch.randn(3, 4))
        assert int(model.calls) == 2
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {name: id(buffer) for name, buffer in model.named_buffers()} == buffers
    assert [buffer._version for buffer in model.buffers()] == versions
    assert model.nothing is None
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(model.fc.weight.grad, torch.ones(4, 4))


def test_undisturbed_restores_after_an_error():
    model = Restless().train()
    with pytest.raises(RuntimeError, match="stop"), undisturbed(model):
        raise RuntimeError("stop")
    assert model.training
    assert int(model.calls) == 0


def test_undisturbed_keeps_shared_buffers_shared():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model[1].running_mean = model[0].running_mean
    with undisturbed(model):
        assert model[1].running_mean is model[0].running_mean
    assert model[1].running_mean is model[0].running_mean


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_batches_go_round_the_samples(size: int):
    tokens, image = torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.randn(3, 2, 4).transpose(1, 2).requires_grad_()
    made = batch_of((tokens, image), size)
    assert [value.shape[0] for value in made] == [size, size]
    assert made[0].dtype == torch.int64
    assert made[1].is_contiguous()
    assert not made[1].requires_grad
    for i in range(size):
        assert torch.equal(made[0][i], tokens[i % 3])
        assert torch.equal(made[1][i], image[i % 3])


def test_wrong_inputs_are_refused():
    models = {"net": nn.Linear(2, 2)}
    with pytest.raises(TypeError, match=r"a tensor or a tuple of tensors, got \(list\)"):
        check_inputs(models, [torch.ones(1, 2)])
    with pytest.raises(TypeError, match="got \\(Tensor, int\\)"):
        check_inputs(models, (torch.ones(1, 2), 3))
    for inputs in (torch.tensor(1.0), torch.ones(0, 2), (torch.ones(1, 2), torch.ones(3, 2))):
        with pytest.raises(ValueError, match="share their first dimension, the batch"):
            check_inputs(models, inputs)
    with pytest.raises(
        ValueError, match=r"on meta, model 'net' is on cpu; move them there: example_inputs.to\('cpu'\)"
    ):
        check_inputs(models, torch.ones(1, 2, device="meta"))


def test_wrong_models_are_refused():
    with pytest.raises(TypeError, match=r"mapping such as .* got Linear"):
        check_models(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="models is empty"):
        check_models({})
    with pytest.raises(TypeError, match=r"model 'net' must be a torch.nn.Module, got function"):
        check_models({"net": lambda x: x})
    with pytest.raises(ValueError, match="name must be a non-empty text, got ''"):
        check_models({"": nn.Linear(1, 1)})


def test_a_failing_forward_names_the_model_and_the_batch():
    with pytest.raises(
        ValueError, match=r"model 'net' can't run a batch of 5.*\(5, 3\) float32.*RuntimeError"
    ) as caught:
        run("net", nn.Linear(2, 2), (torch.ones(5, 3),))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_tied_parameters_appear_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[1].bias = nn.Parameter(model[0].bias.data)
    assert list(unique_parameters(model)) == ["0.weight", "0.bias"]


def test_parameters_in_one_storage_or_without_elements_are_not_tied():
    model = nn.ParameterList([nn.Parameter(part) for part in torch.randn(2, 3).unbind()])
    model.extend([nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(0))])
    assert len(unique_parameters(model)) == 4
