"""Samples of batches and example inputs, in every form that users give them in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunus.graph.samples import call_of_size, in_order, inputs_of, of_size

ROWS = torch.arange(6.0).reshape(3, 2)


class Joined(nn.Module):
    def forward(self, first: Tensor, second: Tensor, third: Tensor | None = None) -> Tensor:
        return first + second


@pytest.mark.parametrize("batch", [ROWS, {"first": ROWS}, [], "text"])
def test_a_batch_without_labels_is_its_own_inputs(batch: object) -> None:
    assert inputs_of(batch) is batch


@pytest.mark.parametrize("inputs", [ROWS, {"first": ROWS}])
def test_labels_are_left_out(inputs: object) -> None:
    assert inputs_of((inputs, torch.zeros(3))) is inputs
    assert inputs_of([inputs]) is inputs


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_samples_go_round_in_every_form(size: int) -> None:
    expected = torch.stack([ROWS[place % 3] for place in range(size)])
    one, several, named = (of_size(given, size) for given in (ROWS, (ROWS, -ROWS), {"b": ROWS, "a": -ROWS}))
    assert isinstance(one, Tensor)
    assert torch.equal(one, expected)
    assert isinstance(several, tuple)
    assert [value.tolist() for value in several] == [expected.tolist(), (-expected).tolist()]
    assert isinstance(named, dict)
    assert {name: value.tolist() for name, value in named.items()} == {
        "b": expected.tolist(),
        "a": (-expected).tolist(),
    }
    args, kwargs = call_of_size({"b": ROWS}, size)
    assert args == ()
    assert torch.equal(kwargs["b"], expected)


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample; got \\(0, 2\\)"):
        of_size(ROWS[:0], 2)


def test_named_inputs_get_the_forwards_order() -> None:
    first, second = ROWS, -ROWS
    assert all(map(torch.equal, in_order(Joined(), {"second": second, "first": first}), (first, second)))
    assert all(map(torch.equal, in_order(Joined(), (first, second)), (first, second)))
    assert all(map(torch.equal, in_order(Joined(), first), (first,)))


def test_inputs_behind_one_that_is_left_out_can_not_be_given_by_position() -> None:
    with pytest.raises(ValueError, match="on its first arguments, first, second; --input names first, third"):
        in_order(Joined(), {"first": ROWS, "third": ROWS}, "--input")
