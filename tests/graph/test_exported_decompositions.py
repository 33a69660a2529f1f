"""Layers whose operations no document may hold are saved as what these are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import prunus


class Bag(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(10, 4, **options), nn.Linear(4, 3)

    def forward(self, *inputs: Tensor) -> Tensor:
        y: Tensor = self.last(self.bag(*inputs))
        return y


def with_norm(norm: Callable[..., nn.Module], **options: Any) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    norm(model[0], **options)
    return model


ROWS = torch.tensor([[0, 1, 2], [3, 3, 0], [9, 0, 9], [0, 0, 0]])
FLAT = torch.tensor([1, 2, 0, 5, 5, 9, 0])
STARTS = torch.tensor([0, 3, 3, 6])  # the second bag is empty, the last holds one
X = torch.linspace(-1, 1, 12).reshape(3, 4)

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "weight norm": (lambda: with_norm(parametrizations.weight_norm), (X,)),
    "weight norm of columns": (lambda: with_norm(parametrizations.weight_norm, dim=1), (X,)),
    "weight norm of all": (lambda: with_norm(parametrizations.weight_norm, dim=-1), (X,)),
    "weight norm of a convolution": (
        lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 2)),
        (X[:, None].repeat(1, 2, 1),),
    ),
    "orthogonal": (lambda: with_norm(parametrizations.orthogonal), (X,)),
    "orthogonal by Cayley": (lambda: with_norm(parametrizations.orthogonal, orthogonal_map="cayley"), (X,)),
    "orthogonal by exp": (lambda: with_norm(parametrizations.orthogonal, orthogonal_map="matrix_exp"), (X,)),
    "spectral norm": (lambda: with_norm(parametrizations.spectral_norm), (X,)),
    "bags of rows": (lambda: Bag(), (ROWS,)),
    "bags of rows, summed": (lambda: Bag(mode="sum"), (ROWS,)),
    "bags of rows, weighted": (lambda: Weighted(mode="sum"), (ROWS, X[:1, :3].repeat(4, 1))),
    "bags of rows, largest": (lambda: Bag(mode="max"), (ROWS,)),
    "bags with starts": (lambda: Bag(), (FLAT, STARTS)),
    "bags with starts, largest": (lambda: Bag(mode="max", padding_idx=0), (FLAT, STARTS)),
    "bags with starts and the end": (lambda: Bag(include_last_offset=True), (FLAT, torch.tensor([0, 3, 3, 7]))),
    "bags with padding": (lambda: Bag(padding_idx=0), (ROWS,)),
    "bags with padding, summed": (lambda: Bag(mode="sum", padding_idx=-10), (ROWS,)),
}


class Weighted(Bag):
    def forward(self, *inputs: Tensor) -> Tensor:
        y: Tensor = self.last(self.bag(inputs[0], per_sample_weights=inputs[1]))
        return y


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_loaded_computes_the_same_and_has_the_same_gradients(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs = LAYERS[name]
    model = make().eval()
    prunus.save(model, tmp_path / "model.prunus", example_inputs=inputs)
    loaded = prunus.load(tmp_path / "model.prunus")
    torch.testing.assert_close(loaded(*inputs), model(*inputs))
    assert set(loaded.state_dict()) == set(model.state_dict())
    for module in (model, loaded):
        module(*inputs).square().sum().backward()
    wanted = dict(model.named_parameters())
    for parameter, value in loaded.named_parameters():
        if "largest" not in name:  # among equal ones another may be chosen
            torch.testing.assert_close(value.grad, wanted[parameter].grad, msg=parameter)
    torch.testing.assert_close(loaded.double()(*map(_double, inputs)), model.double()(*map(_double, inputs)))


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


@pytest.mark.parametrize("inputs", [(ROWS,), (FLAT, STARTS)])
def test_an_index_outside_of_the_table_is_an_error(inputs: tuple[Tensor, ...], tmp_path: Path) -> None:
    prunus.save(Bag(), tmp_path / "model.prunus", example_inputs=inputs)
    with pytest.raises(IndexError):
        prunus.load(tmp_path / "model.prunus")(inputs[0] + 5, *inputs[1:])
