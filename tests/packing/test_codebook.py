"""Shared values: against the best clustering by brute force, and a step of training against autograd's own."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.packing import Codebook
from prunus.packing.codebook import snapped


def squared_error(values: Tensor, shared: Tensor) -> float:
    return float((values.double() - shared.double()).square().sum())


def best_error(values: list[float], count: int) -> float:
    """Return the least squared error of `count` clusters: of sorted values each is a run, so all cuts are tried."""
    ordered = np.sort(values)
    cuts = itertools.combinations(range(1, len(ordered)), count - 1)
    return min(sum(part.var() * len(part) for part in np.split(ordered, cut)) for cut in cuts)


@given(st.lists(st.floats(-3, 3, width=32).filter(lambda x: abs(x) > 1e-3), min_size=6, max_size=12, unique=True))
@settings(deadline=None, max_examples=60)
def test_few_values_are_not_far_from_the_best_few(values: list[float]) -> None:
    weight = torch.tensor([values, [0.0] * len(values)])
    shared = snapped("weight", weight, 2)
    assert len(set(shared[0].tolist())) <= 4
    assert not shared[1].any()
    assert (shared[0] != 0).all()
    assert squared_error(weight, shared) <= 3 * best_error(values, 4) + 0.02 * squared_error(weight, 0 * weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_each_weight_gets_the_nearest_value_and_more_bits_are_nearer(dtype: torch.dtype, bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(60, 50, generator=generator) * (torch.rand(60, 50, generator=generator) < 0.3)).to(dtype)
    shared = snapped("weight", weight, bits)
    assert shared.dtype == dtype
    values = shared.unique()
    values = values[values != 0]
    assert len(values) <= 2**bits
    assert torch.equal(shared == 0, weight == 0)
    nonzero = weight[weight != 0]
    distance = (nonzero.double()[:, None] - values.double()).abs()
    chosen = (nonzero.double() - shared[weight != 0].double()).abs()
    assert torch.allclose(chosen, distance.min(dim=1).values, rtol=1e-3, atol=1e-4)
    if bits < 8:
        finer = snapped("weight", weight, bits + 1)
        assert squared_error(weight, finer) < squared_error(weight, shared)


def test_a_file_of_few_bits_holds_the_shared_values_and_all_else_exactly(tmp_path: Path) -> None:
    model, images = prunus.models.create("lenet"), torch.zeros(1, 1, 28, 28)
    prunus.prune(model, 0.9)
    exact = prunus.save(model, tmp_path / "exact.prunus", images).bytes
    sizes = []
    for bits in (2, 4, 6):
        sizes.append(prunus.save(model, tmp_path / "model.prunus", images, codebook_bits=bits).bytes)
        found = prunus.load(tmp_path / "model.prunus").state_dict()
        for name, tensor in model.state_dict().items():
            expected = snapped(name, tensor, bits) if tensor.ndim > 1 else tensor
            assert torch.equal(found[name], expected)
    assert sizes == sorted(sizes)
    assert sizes[1] < 0.5 * exact


def model_and_data() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).double()
        prunus.prune(model, 0.5)
        return model, torch.randn(30, 8).double(), torch.randn(30, 4).double()


def test_a_step_moves_each_value_by_the_summed_gradient_of_its_weights() -> None:
    model, inputs, targets = model_and_data()
    codebook = Codebook(model, bits=2)
    codebook.apply()
    weights = [model[0].weight.detach().clone(), model[2].weight.detach().clone()]
    # independent of the class: the weights as a function of the values, differentiated by autograd
    values = [weight[weight != 0].unique().requires_grad_() for weight in weights]
    rebuilt = []
    for weight, value in zip(weights, values, strict=True):
        chooses = (weight[..., None] == value.detach()).double()
        rebuilt.append(chooses @ value)
    hidden = torch.tanh(inputs @ rebuilt[0].T + model[0].bias.detach())
    loss = (hidden @ rebuilt[1].T + model[2].bias.detach() - targets).square().mean()
    gradients = torch.autograd.grad(loss, values)

    optimizer = torch.optim.SGD(codebook.parameters(), lr=0.1)
    (model(inputs) - targets).square().mean().backward()
    codebook.step(optimizer)
    for place, weight, value, gradient in zip((0, 2), weights, values, gradients, strict=True):
        moved = value.detach() - 0.1 * gradient
        for before, after in zip(value.tolist(), moved.tolist(), strict=True):
            found = model[place].weight[weight == before]
            assert torch.allclose(found, torch.tensor(after, dtype=torch.float64))
        assert torch.equal(model[place].weight == 0, weight == 0)


def test_training_the_values_lowers_the_loss_and_the_file_is_as_small(tmp_path: Path) -> None:
    model, inputs, _ = model_and_data()
    targets = model(inputs).detach()  # what the model said before its weights were shared
    codebook = Codebook(model, bits=2)
    codebook.apply()
    before = float((model(inputs) - targets).detach().square().mean())
    optimizer = torch.optim.Adam(codebook.parameters(), lr=0.003)
    for _ in range(50):
        (model(inputs) - targets).square().mean().backward()
        codebook.step(optimizer)
    assert float((model(inputs) - targets).detach().square().mean()) < 0.8 * before
    assert all(len(weight[weight != 0].unique()) <= 4 for weight in (model[0].weight, model[2].weight))
    facts = prunus.save(model, tmp_path / "model.prunus", weights_only=True)
    assert all(tensor.coding.endswith("listed") for tensor in facts.tensors if len(tensor.shape) > 1)


def test_tied_weights_share_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    codebook = Codebook(model, bits=1)
    codebook.apply()
    assert len(codebook.parameters()) == 1
    assert model[1].weight is model[0].weight
