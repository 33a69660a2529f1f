"""Scales from samples: what they compute against whole numbers by hand, and what is refused."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.proving.verification import tensors
from prunus.quantizing import calibrating, planning
from prunus.quantizing.calibrating import Options
from prunus.quantizing.integer_graph import integer_module
from prunus.quantizing.quantizer import rounding_of
from prunus.quantizing.ranges import RANGES
from prunus.recovering.batches import read
from quantized_nets import Residual, apart, images, residual
from zoo import ZOO


def rounded(model: nn.Module, scales: prunus.Scales, inputs: Tensor) -> Tensor:
    """Return what a model gives as its scales round it."""
    with torch.no_grad(), prunus.Quantizer(model, scales):
        result: Tensor = model(inputs)
    return result


def test_a_net_of_two_layers_computes_what_its_whole_numbers_do() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
    scales = prunus.quantize(model, [torch.randn(64, 6)], ranges="minmax")
    value = torch.randn(20, 6)
    whole = value.numpy()
    for key, layer, source in (("0/linear#0", model[0], "/input"), ("2/linear#0", model[2], "1/relu#0")):
        step, own = scales.values[source], scales.layers[key]
        # an equalised net multiplies channels before they are rounded
        factors = scales.factors.get(source, torch.ones(layer.in_features)).numpy()
        inputs = numpy.clip(numpy.rint(whole * factors / numpy.float32(step.scale)) + step.zero_point, 0, 255)
        weight = numpy.rint(layer.weight.detach().numpy() / factors / own.weight[:, None].numpy())
        assert numpy.abs(weight).max() <= 127
        units = own.weight.double().numpy() * step.scale
        bias = numpy.rint((layer.bias.detach().double() + own.correction).numpy() / units)
        sums = (inputs.astype(numpy.int64) - step.zero_point) @ weight.astype(numpy.int64).T + bias
        whole = sums * units
        if key == "0/linear#0":
            whole = numpy.maximum(whole, 0)
    numpy.testing.assert_allclose(rounded(model, scales, value).numpy(), whole, atol=1e-4)


def test_the_outputs_stay_close_and_the_model_is_not_changed() -> None:
    model = residual()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scales = prunus.quantize(model, list(images().split(32)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    new = images(64, seed=99)
    with torch.no_grad():
        wanted = model(new)
    assert apart(rounded(model, scales, new), wanted) < 0.005
    assert scales.error < 0.005
    assert len(scales.layers) == 4
    assert not scales.in_float
    assert re.search(r"stem/conv2d#0 +int8 +0\.0\d+%", str(scales))


@pytest.mark.parametrize("name", ZOO)
def test_whole_numbers_and_fake_quantisation_agree_on_every_network_of_the_zoo(name: str) -> None:
    case = ZOO[name]
    model = case.make()
    inputs: Any = case.inputs(8)
    names = list(inspect.signature(model.forward).parameters)
    inputs = dict(zip(names, inputs, strict=False)) if isinstance(inputs, tuple) else inputs
    if name == "hf-gpt2":  # its products have their weights the other way round
        with pytest.raises(ValueError, match="no layer of GPT2LMHeadModel can get 8 bits"):
            prunus.quantize(model, [inputs])
        return
    scales = prunus.quantize(model, [inputs], max_error=0.05)
    kwargs = inputs if isinstance(inputs, dict) else {names[0]: inputs}
    call = ((), kwargs) if isinstance(inputs, dict) else ((inputs,), {})
    with torch.no_grad():
        plain = tensors(model(**kwargs))
        whole = tensors(integer_module(rounding_of(model, scales))(*call[0], **call[1]))
        with prunus.Quantizer(model, scales):
            fake = tensors(model(**kwargs))
        after = tensors(model(**kwargs))
    for one, two, dense, again in zip(whole, fake, plain, after, strict=True):
        assert torch.equal(dense, again)
        if dense.is_floating_point():
            assert apart(one, two) <= max(1e-5, apart(two, dense) / 2)
            assert apart(two, dense) < 0.2


def calibrated(model: nn.Module, **options: Any) -> float:
    """Return the error of the outputs on held-out samples."""
    samples = read(model, list(images(192).split(64)))
    own = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
    own = {name: own[name] for name in samples.graph.tensors.values() if name in own}
    chosen = Options(RANGES["minmax"], **options)
    with torch.no_grad():
        return calibrating.calibrate(planning.plan(samples.graph, {}), own, samples, chosen)[2]


def test_equalisation_helps_where_channels_have_other_ranges() -> None:
    model = residual()
    spread = torch.logspace(-1.5, 1.5, 8)[torch.randperm(8, generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():  # the same function, its channels before the depthwise layer of other sizes
        model.norm.weight *= spread
        model.norm.bias *= spread
        model.first.weight *= spread.view(-1, 1, 1, 1) / spread.view(1, -1, 1, 1)
        model.first.bias *= spread
        model.deep.weight /= spread.view(-1, 1, 1, 1)
    assert calibrated(model, equalise=True) < calibrated(model, equalise=False) / 4


def test_the_correction_gives_each_channel_its_mean_back() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(40, 6))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(6, 40).pow(6))  # many weights that are rounded to zero
    data = torch.rand(256, 40) + 1
    scales = prunus.quantize(model, [data])
    fitted = data[torch.arange(256) % 4 != 3]
    with torch.no_grad():
        wanted = model(fitted).mean(0)
    step = scales.layers["0/linear#0"].weight * scales.values["/input"].scale  # a bias has whole steps
    assert bool(((rounded(model, scales, fitted).mean(0) - wanted).abs() <= step + 1e-5).all())
    assert bool((scales.layers["0/linear#0"].correction.abs() > 5 * step).any())


def test_a_layer_that_costs_too_much_goes_back_to_float_and_the_reason_is_said() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    data = torch.randn(256, 8)
    data[:, 0] *= 3000  # the first layer's input has no bits left for the others
    with torch.no_grad():
        model[0].weight[:, 0] /= 3000
    all_rounded = prunus.quantize(model, [data], max_error=1e9)
    scales = prunus.quantize(model, [data])
    assert all_rounded.error > 0.01 >= scales.error
    assert list(scales.in_float) == ["0/linear#0"]
    assert "it alone costs an error of" in scales.in_float["0/linear#0"]
    with torch.no_grad():
        assert apart(rounded(model, scales, data), model(data)) < 0.01


def test_layers_stay_in_float_as_asked() -> None:
    scales = prunus.quantize(residual(), [images()], in_float=["stem", "la*"])
    assert scales.in_float == {"stem/conv2d#0": "as asked", "last/linear#0": "as asked"}
    assert scales.layers.keys() == {"first/conv2d#0", "deep/conv2d#0"}


def test_activations_of_int8_have_no_zero_points() -> None:
    model = residual()
    scales = prunus.quantize(model, [images()], activations="int8")
    assert {value.zero_point for value in scales.values.values()} == {0}
    with torch.no_grad():
        assert apart(rounded(model, scales, images(seed=5)), model(images(seed=5))) < 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_rounded_likewise(dtype: torch.dtype) -> None:
    model = residual().to(dtype)
    scales = prunus.quantize(model, [images().to(dtype)])
    value = images(seed=3).to(dtype)
    assert rounded(model, scales, value).dtype == dtype
    with torch.no_grad():
        assert apart(rounded(model, scales, value).float(), model(value).float()) < 0.01


def test_a_model_in_training_mode_is_measured_in_eval_mode_and_goes_on_training() -> None:
    model = residual().train()
    scales = prunus.quantize(model, [images()])
    assert model.training
    assert scales.error == prunus.quantize(model.eval(), [images()]).error


def test_mistakes_are_told_before_any_work() -> None:
    model, batches = residual(), [images()]
    with pytest.raises(ValueError, match="unknown ranges 'mean'"):
        prunus.quantize(model, batches, ranges="mean")
    with pytest.raises(ValueError, match="unknown kind of activations 'int4'"):
        prunus.quantize(model, batches, activations="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_error must be a number above 0"):
        prunus.quantize(model, batches, max_error=0)
    with pytest.raises(ValueError, match="in_float 'head'"):
        prunus.quantize(model, batches, in_float=["head"])
    with pytest.raises(TypeError, match="one batch is"):
        prunus.quantize(model, images())
    with pytest.raises(ValueError, match="it has no linear layer and no convolution"):
        prunus.quantize(nn.Sequential(nn.ReLU()), [torch.randn(8, 3)])
    with pytest.raises(ValueError, match="is not finite on these batches"):
        prunus.quantize(model, [images() * math.inf])
    with torch.no_grad():
        model.last.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="not all finite"):
        prunus.quantize(model, batches)


def test_a_model_whose_code_fixes_the_batch_is_quantised_for_it() -> None:
    class Fixed(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(16, 2, 8, 8))

    torch.manual_seed(0)
    model = Fixed().eval()
    scales = prunus.quantize(model, list(images().split(16)))
    with torch.no_grad():
        assert apart(rounded(model, scales, images(16)), model(images(16))) < 0.01


class ReadTwice(nn.Module):
    """A value that a layer reads, and something else that factors don't go through."""

    def __init__(self, other: str) -> None:
        super().__init__()
        self.other = other
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.shift = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 6) to (n, 3)."""
        v = self.first(x)
        other = {"relu": lambda: v.relu(), "number": lambda: v + 1.0, "parameter": lambda: v + self.shift}[self.other]()
        return self.last(self.second(v) + self.second.weight.sum() * 0 + other)


class Sequences(nn.Module):
    """Layers of matrices along sequences as long as they are wide, and a convolution over them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.across, self.last = nn.Conv1d(6, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 6, 6) to (n, 6, 3)."""
        return self.last(self.across(self.second(self.first(x).relu()).relu()).relu())


@pytest.mark.parametrize(
    ("model", "shape"),
    [*((ReadTwice(other), (6,)) for other in ("relu", "number", "parameter")), (Sequences(), (6, 6))],
    ids=["relu", "number", "parameter", "sequences"],
)
def test_scales_move_only_where_everything_lets_them_through(model: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    with torch.no_grad():  # channels of other sizes, so that factors are not ones
        model.first.weight *= torch.logspace(-1, 1, len(model.first.weight))[:, None]
    data = torch.randn(64, *shape)
    scales = prunus.quantize(model, [data], max_error=1e9)
    whole = integer_module(rounding_of(model, scales))
    with torch.no_grad():
        assert apart(whole(data), rounded(model, scales, data)) < 1e-5
        assert apart(whole(data), model(data)) < 0.05


def test_no_number_is_lost_that_is_not_one() -> None:
    class Divides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x / x)

    with pytest.raises(ValueError, match="is not finite on these batches"):
        prunus.quantize(Divides(), [torch.cat([torch.zeros(1, 4), torch.ones(31, 4)])])


def test_an_error_that_no_layer_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer can have 8 bits with max_error=1e-12"):
        prunus.quantize(residual(), [images()], max_error=1e-12)


def test_terms_of_sums_have_one_scale_also_by_way_of_what_they_are_joined_with() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(2, 4, 1) for _ in range(4))
            self.e, self.f = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            c = self.c(x)
            return self.e(torch.cat([self.a(x) + self.b(x), c], 1)), self.f(c + self.d(x))

    model = Joined()
    with torch.no_grad():
        model.d.weight *= 100  # so all have the scale of what is largest
    values = prunus.quantize(model, [torch.randn(32, 2, 5, 5)]).values
    names = ("a/conv2d#0", "b/conv2d#0", "/add#0", "/cat#0", "c/conv2d#0", "d/conv2d#0", "/add#1")
    assert len({values[name].scale for name in names}) == 1
    assert values["/cat#0"] == values["/add#0"] == values["c/conv2d#0"]
