"""`prunus.explain`: its figures against the model that `shrink` makes, and models that have nothing to say."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.lab import models

CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "resnet20": (lambda: models.create("resnet20"), torch.zeros(1, 3, 32, 32)),
    "transformer": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), torch.zeros(1, 5, 16)),
    "groups": (
        lambda: nn.Sequential(nn.Conv1d(2, 8, 1), nn.Conv1d(8, 8, 1, groups=4), nn.Conv1d(8, 2, 1)),
        torch.zeros(1, 2, 5),
    ),
}
NAMED = CASES | {"lstm": (lambda: nn.LSTM(3, 4, batch_first=True), torch.zeros(1, 2, 3))}


@pytest.mark.parametrize("name", CASES)
def test_what_goes_is_what_shrink_removes(name: str) -> None:
    make, inputs = CASES[name]
    model = make()
    before = copy.deepcopy(model.state_dict())
    masks = prunus.prune(copy.deepcopy(model), 0.5, pattern="channel", example_inputs=inputs)
    explanation = prunus.explain(model, inputs, masks=masks)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    smaller = prunus.shrink(model, inputs, masks)
    assert explanation.num_parameters == sum(p.numel() for p in model.parameters())
    assert explanation.num_parameters - explanation.num_gone == sum(p.numel() for p in smaller.parameters())
    left = dict(smaller.named_parameters())
    totals: dict[str, int] = {}
    for layer in explanation.layers:
        totals[layer.name] = totals.get(layer.name, 0) + layer.rows * layer.stay
    checked = [key for key in totals if f"{key}.weight" in left or key in left]
    assert checked
    for key in checked:
        weight = left.get(f"{key}.weight", left.get(key))
        assert weight is not None
        assert totals[key] == weight.shape[0]
    assert f"{explanation.num_gone:,}" in str(explanation)


@pytest.mark.parametrize(
    ("case", "name", "unit", "rows", "count"),
    [
        ("transformer", "self_attn.in_proj_weight", "head", 12, 4),
        ("groups", "1", "group", 2, 4),
        ("lstm", "weight_ih_l0", "unit", 4, 4),
    ],
)
def test_what_goes_as_a_whole_is_named(case: str, name: str, unit: str, rows: int, count: int) -> None:
    make, inputs = NAMED[case]
    found = {layer.name: layer for layer in prunus.explain(make(), inputs).layers}[name]
    assert (found.unit, found.rows, found.count, found.gone) == (unit, rows, count, 0)


def test_what_has_no_channels_says_so() -> None:
    assert "No layer of this model has channels." in str(prunus.explain(nn.ReLU(), torch.zeros(1, 3)))
    table = prunus.explain(nn.Embedding(5, 3), torch.zeros(1, 2, dtype=torch.long))
    assert [layer.gone for layer in table.layers] == [0]


def test_masks_of_another_model_and_strange_arguments_are_refused() -> None:
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3)
    with pytest.raises(prunus.MaskError, match="no parameter 'x'"):
        prunus.explain(model, inputs, masks={"x": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(ValueError, match="'9'"):
        prunus.explain(model, inputs, exclude=["9"])
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got str"):
        prunus.explain("lenet", inputs)  # type: ignore[arg-type]
