"""The zoo's cases are what other tests take them for: deterministic, batched, and free of zeros."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from zoo import ZOO, Case

CASES = pytest.mark.parametrize("case", ZOO.values(), ids=list(ZOO))
pytestmark = pytest.mark.usefixtures("one_thread")


def first_tensors(output: Any) -> list[Tensor]:
    """Return all tensors of an output, whatever holds them."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for value in output.values() for tensor in first_tensors(value)]


@CASES
def test_a_row_of_the_output_does_not_depend_on_the_batch(case: Case) -> None:
    model = case.make()
    outputs = []
    for batch in (2, 3):
        args, kwargs = case.arguments(batch)
        with torch.no_grad():
            outputs.append(first_tensors(model(*args, **kwargs)))
    for two, three in zip(*outputs, strict=True):
        assert (two.shape[0], three.shape[0]) == (2, 3)
        torch.testing.assert_close(two[0], three[0])
        assert not torch.allclose(two[0], two[1], rtol=1e-3), "the output does not depend on the input"


@CASES
def test_a_case_is_the_same_each_time_and_nothing_in_it_is_zero(case: Case) -> None:
    model, again = case.make(), case.make()
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert all(parameter.dtype == torch.float32 and (parameter != 0).all() for parameter in model.parameters())
    assert 1_000 < sum(parameter.numel() for parameter in model.parameters()) < 300_000
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            assert buffer.abs().max() > 0.1
        if name.endswith("running_var"):
            assert 0.5 <= buffer.min() < buffer.max() <= 1.5
