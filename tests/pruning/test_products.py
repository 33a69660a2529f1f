"""Layers as products of matrices: rows of inputs times rows of weights give what PyTorch's layers give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.pruning import products, stats
from prunus.pruning.moments import Moments, damped, inverse_diagonal
from prunus.pruning.targets import resolve

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5, bias=False), (3, 6)),
    "linear of a sequence": (nn.Linear(6, 5, bias=False), (3, 4, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, 2, 1, 2, bias=False), (3, 4, 15)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), bias=False), (3, 4, 9, 7)),
    "conv3d": (nn.Conv3d(2, 3, 2, 2, 1, bias=False), (2, 2, 4, 5, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1, bias=False), (2, 4, 5, 6)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 5, 6)),
    "same": (nn.Conv2d(4, 6, (2, 3), padding="same", dilation=(1, 2), bias=False), (2, 4, 5, 6)),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=False), (2, 4, 5, 6)),
    "one sample": (nn.Conv2d(4, 6, 3, bias=False), (4, 5, 6)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, dilation=2, bias=False), (2, 4, 5, 6)),
    "transposed, padded past its kernel": (nn.ConvTranspose1d(4, 6, 3, 2, 3, bias=False), (2, 4, 9)),
    "transposed in groups": (nn.ConvTranspose2d(4, 6, (3, 2), groups=2, bias=False), (2, 4, 5, 6)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", LAYERS)
def test_rows_of_inputs_times_rows_of_weights_are_the_outputs_of_the_layer(name: str) -> None:
    layer, shape = LAYERS[name]
    inputs = torch.randn(shape)
    weight: Tensor = layer.weight.detach()
    linear, padded = products.of_module(layer, inputs)
    expected = layer(inputs).detach()
    expected = expected if expected.ndim == padded.ndim else expected.unsqueeze(0)
    (rows,) = linear.patches(padded)
    torch.testing.assert_close(rows @ linear.rows(weight).transpose(1, 2), linear.positions(expected))
    torch.testing.assert_close(linear.outputs(padded, weight), expected)
    assert torch.equal(linear.weight(linear.rows(weight), weight.shape), weight)
    toward = torch.randn_like(expected)
    by_rows = linear.positions(toward).transpose(1, 2) @ rows
    torch.testing.assert_close(linear.rows(linear.correlate(padded, toward, weight)), by_rows, rtol=1e-4, atol=1e-4)


def test_large_inputs_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, inputs = nn.Conv2d(2, 3, 3), torch.randn(7, 2, 8, 8)
    linear, _ = products.of_module(layer, inputs)
    (whole,) = linear.patches(inputs)
    monkeypatch.setattr(products, "_MOST_ELEMENTS", 3 * 2 * 64 * 9)
    pieces = list(linear.patches(inputs))
    assert [piece.shape[1] for piece in pieces] == [3 * 36, 3 * 36, 36]
    assert torch.equal(torch.cat(pieces, 1), whole)


def test_moments_are_those_of_all_rows_and_centred_ones_of_the_rows_less_their_mean() -> None:
    rows = torch.randn(2, 30, 5) + 3
    moments = Moments()
    moments.add(rows.split((7, 23), 1))
    wide = rows.double()
    torch.testing.assert_close(moments.gram, wide.transpose(1, 2) @ wide, rtol=1e-6, atol=1e-4)
    centred = wide - wide.mean(1, keepdim=True)
    torch.testing.assert_close(moments.centred(), centred.transpose(1, 2) @ centred, rtol=1e-5, atol=1e-3)


def test_the_score_of_obs_is_the_growth_of_the_error_when_a_weight_goes_and_its_row_is_refitted() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3, bias=False).double()
    inputs = torch.randn(40, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    curvature = stats.curvatures(model, resolve(model), [inputs])["weight"]
    scores = prunus.pruning.criteria.obs(model.weight.detach(), prunus.Stats(curvature=curvature))
    gram = damped((inputs.T @ inputs).unsqueeze(0), 1e-2)[0]
    for row in range(3):
        weight = model.weight[row].detach()
        for gone in range(5):
            rest = [place for place in range(5) if place != gone]
            # least squares in the other weights, by the normal equations of the quadratic form itself
            change = torch.zeros(5, dtype=torch.float64)
            change[gone] = -weight[gone]
            change[rest] = torch.linalg.solve(gram[rest][:, rest], gram[rest, gone] * weight[gone])
            torch.testing.assert_close(scores[row, gone], change @ gram @ change)


def test_curvatures_in_several_passes_and_of_long_rows_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    batches = [torch.randn(8, 3, 6, 6) for _ in range(2)]
    whole = stats.curvatures(model, resolve(model), batches)
    monkeypatch.setattr(stats, "_MOST_MOMENTS", 1)
    assert {name: value.shape for name, value in whole.items()} == {
        name: value.shape for name, value in model.named_parameters() if value.ndim > 1
    }
    for name, value in stats.curvatures(model, resolve(model), iter(batches)).items():
        torch.testing.assert_close(value, whole[name])
    monkeypatch.setattr(stats, "MOST_INPUTS", 10)
    rows = torch.cat([model[:3](batch) for batch in batches]).detach().double()
    parts = [inverse_diagonal(damped((part.T @ part).unsqueeze(0), 1e-2))[0] for part in rows.split(10, 1)]
    by_parts = stats.curvatures(model, resolve(model), batches)["3.weight"]
    torch.testing.assert_close(by_parts, torch.cat(parts).reciprocal().expand(2, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3)), [torch.ones(2, 2, 3)], "exclude it or use another criterion"),
        (nn.Linear(3, 3), [], "held no batch"),
        (nn.Linear(3, 3), None, "needs the layers' inputs"),
        (nn.Linear(3, 3), [torch.full((2, 3), torch.nan)], "NaN scores"),
        (nn.Linear(3, 3), [torch.full((2, 3), 1e30)], "NaN scores"),
    ],
)
def test_obs_says_what_it_needs(model: nn.Module, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prunus.prune(model, 0.5, criterion="obs", data=data)
