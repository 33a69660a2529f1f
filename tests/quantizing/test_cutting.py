"""Scales cut along with channels: the smaller model is rounded as the larger one is, or the call is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.errors import ScalesError
from prunus.graph.exported import ExportedModule
from prunus.quantizing.integer_graph import integer_module
from prunus.quantizing.quantizer import rounding_of
from quantized_nets import apart, images, residual
from zoo import ZOO


@torch.no_grad()
def rounded(model: nn.Module, scales: prunus.Scales, inputs: Tensor) -> Tensor:
    """Return a model's outputs in 8 bits."""
    with prunus.Quantizer(model, scales):
        return model(inputs)


def of_zoo(name: str) -> Callable[[], tuple[nn.Module, Tensor]]:
    return lambda: (ZOO[name].make(), ZOO[name].inputs(8))


NETS = {name: of_zoo(name) for name in ("conv-bn", "residual-projection", "densenet", "plain-cnn", "tied-embedding")}
NETS |= {"depthwise-silu": lambda: (residual(), images())}
GRAPHS = {name: of_zoo(name) for name in ("shufflenet-v2", "residual-padded", "vit")}


@pytest.mark.parametrize("name", [*NETS, *GRAPHS])
def test_the_smaller_model_is_rounded_as_the_pruned_one_is(name: str, tmp_path: Path) -> None:
    model, inputs = (NETS | GRAPHS)[name]()
    scales = prunus.quantize(model, [inputs])
    sparsity = 0.38 if name == "depthwise-silu" else 0.4
    masks = prunus.prune(copy.deepcopy(model), sparsity, pattern="channel", example_inputs=inputs)
    small, small_scales = prunus.shrink(model, inputs, masks, scales=scales)
    assert isinstance(small, ExportedModule) == (name in GRAPHS)
    masks.apply(model)
    with torch.no_grad():
        wanted, whole = small(inputs), integer_module(rounding_of(small, small_scales))(inputs)
    in_8_bits = rounded(small, small_scales, inputs)
    assert 1e-6 < (error := apart(in_8_bits, wanted)) < 0.03
    assert apart(rounded(model, scales, inputs), in_8_bits) < error / 20
    assert apart(whole, in_8_bits) < 1e-4

    fresh = prunus.quantize(small, [inputs])
    assert small_scales.graph == fresh.graph != scales.graph
    assert (small_scales.values.keys(), small_scales.layers.keys()) == (fresh.values.keys(), fresh.layers.keys())
    assert {key: len(own) for key, own in small_scales.factors.items()} == {
        key: len(own) for key, own in fresh.factors.items()
    }
    small_scales.save(tmp_path / "scales.safetensors")
    again = prunus.load(tmp_path / "scales.safetensors", expect=prunus.Scales)
    assert torch.equal(rounded(small, again, inputs), in_8_bits)


def test_each_channel_that_stays_keeps_its_numbers() -> None:
    model = residual()
    scales = prunus.quantize(model, [images()])
    stays = [0, 2, 3, 4, 5, 7]
    with torch.no_grad():  # channels 1 and 6 feed nothing
        model.deep.weight[[1, 6]] = 0
        model.first.weight[:, [1, 6]] = 0
        model.last.weight[:, [1, 6]] = 0
    small, small_scales = prunus.shrink(model, images(), scales=scales)
    assert small.stem.out_channels == 6
    assert torch.equal(small.stem.weight, model.stem.weight[stays])
    assert small_scales.values == scales.values
    for key in ("stem/conv2d#0", "first/conv2d#0", "deep/conv2d#0"):
        own, whole = small_scales.layers[key], scales.layers[key]
        assert torch.equal(own.weight, whole.weight[stays])
        assert torch.equal(own.correction, whole.correction[stays])
        assert own.error == whole.error
    assert torch.equal(small_scales.layers["last/linear#0"].weight, scales.layers["last/linear#0"].weight)
    assert scales.factors
    for key, factors in scales.factors.items():
        assert torch.equal(small_scales.factors[key], factors[stays])


def test_layers_that_stay_in_float_do_so() -> None:
    model, inputs = GRAPHS["shufflenet-v2"]()
    scales = prunus.quantize(model, [inputs], in_float=["0.*"])
    masks = prunus.prune(model, 0.4, pattern="channel", example_inputs=inputs)
    small, small_scales = prunus.shrink(model, inputs, masks, scales=scales)
    assert list(small_scales.in_float.values()) == list(scales.in_float.values()) == ["as asked"]
    assert set(small_scales.in_float) == {"/conv2d#0"}
    assert apart(rounded(model, scales, inputs), rounded(small, small_scales, inputs)) < 1e-6


def test_constants_that_go_into_biases_are_rounded_no_worse_than_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False),
        nn.BatchNorm2d(6), nn.SiLU(), nn.Flatten(), nn.Linear(96, 5),
    )  # fmt: skip
    for step in range(5):
        model(images(seed=step))
    model.eval()
    with torch.no_grad():
        model[1].weight[:3] = 0
        model[1].bias[:3] = 0.7
    scales = prunus.quantize(model, [images()])
    small, small_scales = prunus.shrink(model, images(), scales=scales)
    assert (small[3].in_channels, small[3].bias.shape) == (5, (6,))
    assert small_scales.layers.keys() == scales.layers.keys()
    with torch.no_grad():
        wanted = model(images())
    larger, smaller = rounded(model, scales, images()), rounded(small, small_scales, images())
    assert apart(smaller, wanted) < max(2 * apart(larger, wanted), 1e-3)
    assert 0 < apart(smaller, larger) < 1e-3


def test_where_nothing_can_go_the_scales_are_the_same() -> None:
    model = residual()
    scales = prunus.quantize(model, [images()])
    small, small_scales = prunus.shrink(model, images(), scales=scales)
    assert small_scales.graph == scales.graph
    assert torch.equal(rounded(small, small_scales, images()), rounded(model, scales, images()))


class Broadcast(nn.Module):
    """A sum that broadcasts one number over eight features, until seven of them are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 4) to (n, 2)."""
        return self.last(F.relu(self.left(x) + self.right(x).amax(1, keepdim=True)))


def test_scales_that_do_not_fit_are_refused_before_anything_changed() -> None:
    torch.manual_seed(0)
    model, data = Broadcast(), torch.randn(64, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scales = prunus.quantize(model, [data])
    with torch.no_grad():
        model.last.weight[:, 1:] = 0
    other = prunus.quantize(residual(), [images()])
    for own, error, message in (
        (other, ScalesError, "belong to another model, or to one of other sizes, than this Broadcast"),
        ({}, TypeError, r"scales must be what prunus\.quantize returned, got dict"),
        (prunus.quantize(model, [data[:, None]]), ScalesError, "of other sizes"),
        (
            scales,
            ScalesError,
            r"in the smaller Broadcast other operations get 8 bits, such as left/linear#0; shrink without scales",
        ),
    ):
        with pytest.raises(error, match=message):
            prunus.shrink(model, data, optimizer=optimizer, scales=own)
    assert model.left.out_features == 8
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    assert prunus.shrink(model, data, optimizer=optimizer).left.out_features == 1


@pytest.mark.parametrize("in_float", [(), ("conv2",)])
def test_a_packed_file_takes_the_scales_of_the_model_that_it_holds(in_float: tuple[str, ...], tmp_path: Path) -> None:
    """Its operations are in no submodule, so their keys have no module path."""
    torch.manual_seed(0)
    model = prunus.models.create("lenet").eval()
    images = torch.rand(64, 1, 28, 28)
    scales = prunus.quantize(model, list(images.split(16)), in_float=in_float)
    prunus.save(model, tmp_path / "net.prunus", images[:2])
    packed = prunus.load(tmp_path / "net.prunus")
    if in_float:
        with pytest.raises(prunus.ScalesError, match=r"another form of this ExportedModule.*call prunus\.quantize"):
            prunus.Quantizer(packed, scales)
        return
    with torch.no_grad(), prunus.Quantizer(model, scales), prunus.Quantizer(packed, scales):
        torch.testing.assert_close(packed(images), model(images))
    facts = prunus.export(packed, tmp_path / "net.onnx", images[:2], scales=scales)
    assert facts.bytes == (tmp_path / "net.onnx").stat().st_size
