"""Models that keep a result of an earlier forward: copied, traced, pruned, shrunk, saved and compiled."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.copying import copy_model
from prunus.graph import trace


class KeepsBiases(nn.Module):
    """Keeps in a dict what it computes of its parameters, as timm's LeViT keeps its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.table = nn.Parameter(torch.randn(8, 2))
        self.register_buffer("places", torch.tensor([0, 1, 1]))
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> KeepsBiases:
        self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if "cpu" not in self.cache or self.training:
            self.cache["cpu"] = self.table[:, self.places].sum(1)
        y: Tensor = self.last((self.first(x) + self.cache["cpu"]).relu())
        return y


class KeepsItsOutput(nn.Module):
    """Keeps what it computed last as an attribute and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.calls = 0
        self.hidden: Tensor | None = None
        self.all: list[tuple[Tensor, ...]] = []
        self.places = OrderedDict(a=torch.arange(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.hidden = self.first(x).relu()
        self.all = [*self.all[-2:], (self.hidden,)]
        y: Tensor = self.last(self.hidden)
        return y


def used(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = kind().eval()
    model(torch.randn(2, 4))
    return model


KINDS = [KeepsBiases, KeepsItsOutput]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_computes_the_same_and_shares_nothing(kind: type[nn.Module]) -> None:
    model, x = used(kind), torch.randn(3, 4)
    with pytest.raises(RuntimeError, match="deepcopy protocol"):
        copy.deepcopy(model)
    twin = copy_model(model)
    assert type(twin) is kind
    assert torch.equal(twin(x), model(x))
    memory = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    assert memory.isdisjoint(tensor.data_ptr() for tensor in (*twin.parameters(), *twin.buffers()))


def test_a_buffer_that_was_computed_is_copied() -> None:
    model = used(KeepsItsOutput)
    model.register_buffer("mean", model.hidden.mean(0))
    assert model.mean.requires_grad
    assert torch.equal(copy_model(model).mean, model.mean)


def test_a_copy_does_not_remember_what_was_computed_of_other_weights() -> None:
    model = used(KeepsBiases)
    kept = model.cache["cpu"]
    twin = copy_model(model)
    twin.table.data.zero_()
    assert model.cache["cpu"] is kept
    assert torch.equal(twin(torch.zeros(1, 4)), twin.last(twin.first.bias.relu())[None])


@pytest.mark.parametrize("kind", KINDS)
def test_reading_leaves_what_is_kept_and_sees_the_parameters_behind_it(kind: type[nn.Module]) -> None:
    model = used(kind)
    before = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    lengths = {name: len(value) for name, value in before.items() if isinstance(value, (dict, list))}
    graph = trace(model, torch.randn(2, 4))
    assert set(graph.tensors.values()) >= {name for name, _ in model.named_parameters()}
    assert not graph.program.constants
    after = vars(model)
    assert all(after[name] is value for name, value in before.items())
    assert all(len(after[name]) == length for name, length in lengths.items())


@pytest.mark.parametrize("kind", KINDS)
def test_every_road_takes_them(kind: type[nn.Module], tmp_path: Path) -> None:
    model, x = used(kind), torch.randn(5, 4)
    masks = prunus.prune(model, 0.5)
    small = prunus.shrink(model, x, masks=masks)
    prunus.save(model, tmp_path / "model.prunus", example_inputs=x)
    loaded = prunus.load(tmp_path / "model.prunus")
    prunus.explain(model, x, masks=masks)
    fresh = kind().eval()
    fresh.load_state_dict(model.state_dict())
    for other in (small, loaded):
        torch.testing.assert_close(other(x), fresh(x))
    assert prunus.shrink(used(kind).double(), x.double()) is not None


class KeepsAMean(nn.Module):
    """Has a buffer that was computed of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("mean", self.first.weight.mean(1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last((self.first(x) + self.mean).relu())
        return y


def test_a_buffer_that_was_computed_is_cut() -> None:
    model, x = KeepsAMean().eval(), torch.randn(5, 4)
    model.last.weight.data[:, :3] = 0
    small = prunus.shrink(model, x)
    assert isinstance(small, KeepsAMean)
    assert torch.equal(small.mean, model.mean[3:])
    torch.testing.assert_close(small(x), model(x))


class Closing(nn.Module):
    """Calls its layers by a function that it keeps, which a copy would share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.functions = {"run": lambda x: self.last(self.first(x).relu())}

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.functions["run"](x)
        return y


def test_a_function_that_closes_over_a_layer_is_named() -> None:
    model, x = Closing().eval(), torch.randn(5, 4)
    masks = prunus.Masks({"last.weight": torch.arange(8).expand(3, 8) > 2})
    with pytest.raises(TypeError, match=r"attribute 'functions' is a function that closes over a layer"):
        prunus.shrink(model, x, masks)
    assert bool(model.last.weight.all())
