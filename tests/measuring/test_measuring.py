from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prunus.lab import models
from prunus.measuring import compare, facts, measure
from prunus.measuring.receipt import Receipt
from prunus.pruning import prune

MODULE = sys.modules[measure.__module__]


def pruned_lenet() -> nn.Module:
    model = models.create("lenet")
    prune(model, 0.2)
    return model


def test_lenet_has_the_sources_numbers():
    dense, pruned = facts(models.create("lenet")), facts(pruned_lenet())
    assert (dense.parameters, dense.nonzero, dense.sparsity) == (160_206, 160_206, 0.0)
    assert (pruned.parameters, pruned.nonzero) == (160_206, 128_214)
    assert pruned.sparsity == pytest.approx(31_992 / 160_206)
    assert [layer.name for layer in pruned.layers] == ["conv1.weight", "conv2.weight", "conv4.weight", "fc.weight"]
    assert [layer.parameters for layer in pruned.layers] == [500, 25_000, 132_800, 1_660]
    assert sum(layer.parameters - layer.nonzero for layer in pruned.layers) == 31_992
    assert pruned.bytes["safetensors"] == dense.bytes["safetensors"]


def test_nonzero_macs_are_nonzero_weights_times_their_uses():
    found = facts(pruned_lenet(), torch.zeros(1, 1, 28, 28))
    uses = {"conv1.weight": 576, "conv2.weight": 64, "conv4.weight": 1, "fc.weight": 1}
    for layer in found.layers:
        assert layer.macs == uses[layer.name] * layer.parameters
        assert layer.nonzero_macs == uses[layer.name] * layer.nonzero
    assert found.macs == 2_022_460
    assert found.nonzero_macs == sum(layer.nonzero_macs or 0 for layer in found.layers)


def test_without_inputs_what_needs_a_forward_is_absent():
    found = measure(models.create("lenet"))
    assert (found.macs, found.nonzero_macs, found.peak_memory_bytes, found.latency_us) == (None, None, None, {})
    assert all(layer.macs is None for layer in found.layers)
    assert set(found.bytes) == {"safetensors", "gzip", "zstd"}


def test_macs_are_for_one_sample_and_memory_for_the_largest_batch():
    model = nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 5))
    found = measure(model, torch.randn(7, 10), batch_sizes=(1, 16), latency=False)
    assert found.macs == 450
    assert found.peak_memory_bytes == 4 * 16 * 60
    assert found.latency_us == {}


def test_tied_weights_count_once_and_buffers_only_in_the_bytes():
    model = nn.Sequential(nn.Linear(50, 50), nn.BatchNorm1d(50), nn.Linear(50, 50))
    model[2].weight = model[0].weight
    found = facts(model, torch.randn(1, 50))
    assert found.parameters == 2500 + 50 + 50 + 50 + 50
    assert [layer.name for layer in found.layers] == ["0.weight"]
    assert found.layers[0].macs == 2 * 2500
    assert found.bytes["safetensors"] > 4 * (2 * 2500 + 4 * 50 + 2 * 50)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4), st.integers(0, 2**31))
def test_counts_against_plain_python(shapes: list[tuple[int, int]], seed: int):
    generator = torch.Generator().manual_seed(seed)
    model = nn.ParameterList([nn.Parameter(torch.randn(s, generator=generator).round()) for s in shapes])
    model.append(nn.Parameter(torch.tensor([0.0, float("nan"), -0.0, 2.0])))
    values = [value for parameter in model for value in parameter.flatten().tolist()]
    found = facts(model, compress_limit=0)
    assert found.parameters == len(values)
    assert found.nonzero == sum(value != 0 for value in values)
    assert [layer.shape for layer in found.layers] == shapes
    for layer, parameter in zip(found.layers, model, strict=False):
        assert layer.nonzero == sum(value != 0 for value in parameter.flatten().tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype):
    model = models.create("lenet-300-100").to(dtype)
    found = measure(model, torch.randn(1, 1, 28, 28).to(dtype), latency=False)
    assert found.macs == 266_200
    assert found.bytes["safetensors"] == pytest.approx(266_610 * dtype.itemsize, abs=1000)


def test_measuring_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(18, 2)).train()
    model[1].eval()
    image = torch.randn(2, 1, 5, 5)
    model(image).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [parameter.grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    measure(model, image, batch_sizes=[2], threads=[1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is grad for parameter, grad in zip(model.parameters(), grads, strict=True))
    assert [module.training for module in model] == [True, False, True, True, True]
    assert torch.equal(torch.get_rng_state(), random)
    assert model(image).requires_grad


def test_compare_gives_a_receipt_that_survives_json():
    models_ = {"dense": models.create("lenet-300-100"), "pruned": models.create("lenet-300-100")}
    prune(models_["pruned"], 0.5)
    receipt = compare(models_, torch.randn(1, 1, 28, 28), batch_sizes=[1, 3], threads=[1])
    assert [found.name for found in receipt.models] == ["dense", "pruned"]
    assert receipt.torch == torch.__version__
    for found in receipt.models:
        assert set(found.latency_us["torch"]["1"]) == {"1", "3"}
    dense, pruned = receipt.models
    # interleaved: the same number of runs in each cell
    assert dense.latency_us["torch"]["1"]["3"].runs == pruned.latency_us["torch"]["1"]["3"].runs
    assert Receipt.from_json(receipt.to_json()) == receipt


def test_a_receipt_holds_each_runtime_and_why_one_is_missing():
    models_ = {"linear": nn.Linear(4, 2), "half": nn.Conv2d(1, 1, 1).bfloat16()}
    settings = {"batch_sizes": [1], "threads": [1], "runtimes": ("torch", "onnxruntime")}
    receipt = compare({"linear": models_["linear"]}, torch.randn(1, 4), **settings)
    (linear,) = receipt.models
    assert linear.latency_us.keys() == {"torch", "onnxruntime"}
    assert Receipt.from_json(receipt.to_json()) == receipt
    half = measure(models_["half"], torch.randn(1, 1, 3, 3).bfloat16(), **settings)
    assert half.latency_us.keys() == {"torch"}
    assert "latency in onnxruntime: the model (Conv2d) can't be exported" in half.notes[-1]
    with pytest.raises(ValueError, match="unknown runtime 'onnx'"):
        measure(models_["linear"], torch.randn(1, 4), runtimes=["onnx"])


def test_what_was_left_out_is_noted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MODULE, "peak_memory", lambda *_, **__: None)
    found = facts(nn.Linear(2, 2), torch.ones(1, 2), compress_limit=10)
    assert "peak memory" in found.notes[0]
    assert "above the limit of 10" in found.notes[1]


def test_facts_can_be_completed():
    found = dataclasses.replace(facts(nn.Linear(2, 2)), seconds=1.5)
    assert found.seconds == 1.5


def test_bad_input_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MODULE, "facts", lambda *_, **__: pytest.fail("measured already"))
    net, ones = nn.Linear(2, 2), torch.ones(1, 2)
    with pytest.raises(TypeError, match=r"model 'model' must be a torch.nn.Module, got int"):
        measure(3)
    with pytest.raises(ValueError, match="models is empty"):
        compare({})
    with pytest.raises(ValueError, match="threads must be whole numbers above 0"):
        measure(net, ones, threads=[0])
    with pytest.raises(ValueError, match="batch_sizes must be whole numbers above 0"):
        measure(net, ones, batch_sizes=[0])
    with pytest.raises(ValueError, match="model 'model' is on cpu"):
        measure(net, torch.ones(1, 2, device="meta"))
    with pytest.raises(TypeError, match="a tensor or a tuple of tensors"):
        measure(net, [[1.0, 2.0]])


def test_a_model_without_parameters():
    found = facts(nn.ReLU(), torch.ones(1, 3))
    assert (found.parameters, found.nonzero, found.sparsity, found.macs, found.layers) == (0, 0, 0.0, 0, ())
