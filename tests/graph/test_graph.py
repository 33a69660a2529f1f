"""Reading a graph: what is accepted, and that the model is left as it was."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunus.graph import trace


class Anything(nn.Module):
    """Takes inputs in any number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 2)

    def forward(self, *args: Tensor) -> Tensor:
        return sum(self.first(each) for each in args)  # type: ignore[return-value]


def test_the_batch_is_free_however_the_forward_takes_its_inputs() -> None:
    model = Anything().train()
    for inputs in (torch.zeros(1, 4), (torch.zeros(3, 4), torch.zeros(3, 4))):
        graph = trace(model, inputs)
        given = torch.randn(5, 4)
        args = tuple(given for _ in graph.args)
        assert torch.equal(graph.program.module()(*args), model(*args))
        assert min(each.shape[0] for each in graph.args) >= 2
    assert model.training


def test_parameters_are_the_models_own() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    graph = trace(model, torch.zeros(1, 4))
    assert set(graph.tensors.values()) >= {"0.weight", "0.bias", "1.weight", "1.running_mean"}
    assert graph.tensor("0.weight").data_ptr() == model[0].weight.data_ptr()
    assert int(model[1].num_batches_tracked) == 0
