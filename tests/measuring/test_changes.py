"""What changed beside the average: against counts by hand, in compare and on the command line."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import prunus
from prunus.measuring.evaluate import changes

ANSWERS = st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=40)


@given(ANSWERS)
def test_counts_are_those_of_a_loop(rows: list[tuple[int, int, int, int]]) -> None:
    labels, *models = (torch.tensor(column) for column in zip(*rows, strict=True))
    found = changes(dict(zip("abc", models, strict=True)), labels)
    for change, place in zip(found, (2, 3), strict=True):
        assert change.flipped == sum(row[1] != row[place] for row in rows)
        losses = {}
        for label in {row[0] for row in rows}:
            own = [row for row in rows if row[0] == label]
            losses[label] = (sum(r[1] == label for r in own) - sum(r[place] == label for r in own)) / len(own)
        assert change.worst_loss == pytest.approx(max(losses.values()))
        assert losses[change.worst_class] == pytest.approx(change.worst_loss)
        lost = [at for at, row in enumerate(rows) if row[1] == row[0] != row[place]]
        assert sorted(change.lost) == lost[:24] if len(lost) <= 24 else len(change.lost) == 24
        often = [sum(rows[at][model] != rows[at][0] for model in (2, 3)) for at in change.lost]
        assert often == sorted(often, reverse=True)


def test_the_interval_of_the_worst_of_many_classes_is_wider_than_that_of_one() -> None:
    labels = torch.arange(1000) % 10
    answers = labels.clone()
    answers[:100:10] = 1
    (change,) = changes({"dense": labels, "pruned": answers}, labels)
    alone = prunus.measuring.evaluate.paired_interval(0, 10, 100)
    assert (change.worst_class, change.worst_loss) == (0, 0.1)
    assert change.worst_ci95[0] < alone[0] < alone[1] < change.worst_ci95[1]


def data() -> list[tuple[Tensor, Tensor]]:
    """Return two batches of inputs, labelled by a net."""
    torch.manual_seed(0)
    inputs = torch.randn(80, 4)
    return list(zip(inputs.split(50), net()(inputs).argmax(1).split(50), strict=True))


def net() -> nn.Module:
    """Return a small classifier."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(), nn.ReLU(), nn.Linear(16, 3)).eval()


def test_compare_classifies_and_tells_what_changed() -> None:
    dense, pruned = net().train(), net()
    prunus.prune(pruned, 0.8)
    receipt = prunus.compare({"dense": dense, "pruned": pruned}, latency=False, data=data())
    inputs, labels = (torch.cat(parts) for parts in zip(*data(), strict=True))
    with torch.no_grad():
        answers = copy.deepcopy(pruned).eval()(inputs).argmax(1)
    accuracies = [model.accuracy.correct for model in receipt.models if model.accuracy]
    assert accuracies == [80, int((answers == labels).sum())]
    (change,), (test,) = receipt.changes, receipt.comparisons
    assert change.flipped == test.only_first == 80 - accuracies[1] > 0
    assert dense.training
    assert prunus.Receipt.from_json(receipt.to_json()) == receipt


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "data holds no batch of inputs and labels"),
        ([torch.zeros(2, 4)], TypeError, "data must hold pairs of inputs and labels, got a Tensor"),
        ([(torch.zeros(2, 4), torch.tensor([0, 9]))], ValueError, "labels must be in"),
    ],
)
def test_data_that_does_not_fit_is_refused(batches: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prunus.compare({"net": net()}, latency=False, data=batches)


def test_a_model_that_the_data_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"model 'wide' can't run a batch of 50, made from data \(\(50, 4\) float32\)"):
        prunus.compare({"wide": nn.Linear(5, 3)}, latency=False, data=data())
