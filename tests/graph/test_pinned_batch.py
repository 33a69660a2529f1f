"""Models whose code pins the batch, or doesn't: what is traced, saved, loaded, and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import GraphError
from prunus.graph import trace
from prunus.graph.exported import ExportedModule

Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, run: Forward) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.register_buffer("rows", torch.randn(4, 1))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def plain(m: Net, x: Tensor) -> Tensor:
    return m.layer(x).relu()


def into_two(m: Net, x: Tensor) -> Tensor:
    return m.layer(x).view(2, 6) * 2


def into_three(m: Net, x: Tensor) -> Tensor:
    return m.layer(x).reshape(3, 6).sum(1)


def one_row_each(m: Net, x: Tensor) -> Tensor:
    return m.layer(x) + m.rows


def halves(m: Net, x: Tensor) -> Tensor:
    return m.layer(x).view(2, -1, 6).sum(0)


def folded(m: Net, x: Tensor) -> Tensor:
    return m.layer(x).view(-1, 2, 6).mean(1)


def fold_time(m: Net, x: Tensor) -> Tensor:
    frames = x.view(-1, 2, 2).flatten(1)
    return m.layer(frames).view(x.shape[0], 6)


def one_by_one(m: Net, x: Tensor) -> Tensor:
    return torch.stack([m.layer(x[place]) for place in range(x.shape[0])])


def doubled_up_to_ten(m: Net, x: Tensor) -> Tensor:
    return m.layer(x) * (2 if x.shape[0] <= 10 else 1)


def doubled_where_even(m: Net, x: Tensor) -> Tensor:
    return m.layer(x) * (2 if x.shape[0] % 2 == 0 else 1)


def doubled_for_three_pairs(m: Net, x: Tensor) -> Tensor:
    return m.layer(x) * (2 if math.ceil(x.shape[0] / 2) <= 3 else 1)


def doubled_below_a_fraction(m: Net, x: Tensor) -> Tensor:
    return m.layer(x) * (2 if float(x.shape[0]) < 20.5 else 1)


def complex_numbers(m: Net, x: Tensor) -> Tensor:
    return torch.complex(m.layer(x), m.layer(x).relu()).square()


def another_way_for_one(m: Net, x: Tensor) -> Tensor:
    return m.layer(x) * (2 if x.shape[0] == 1 else 1)


def by_the_count(m: Net, x: Tensor) -> Tensor:
    return m.layer(x) / x.shape[0]


# (what the model does with a batch of the example's size; whether the batch stays free)
FREE: dict[Forward, tuple[int, ...]] = {
    plain: (1, 2, 3, 4),
    folded: (2, 4),
    halves: (4,),
    fold_time: (1, 2, 3),
    by_the_count: (1, 3),
    complex_numbers: (1, 3),
}
PINNED: dict[Forward, tuple[int, ...]] = {
    into_two: (2,),
    into_three: (3,),
    one_row_each: (1, 4),
    one_by_one: (1, 2, 3),
    doubled_up_to_ten: (1, 2, 3),
    doubled_where_even: (2, 3),
    doubled_for_three_pairs: (1, 2, 3),
    doubled_below_a_fraction: (1, 2, 3),
}
free = [pytest.param(run, size, id=f"{run.__name__}-{size}") for run, sizes in FREE.items() for size in sizes]
pinned = [pytest.param(run, size, id=f"{run.__name__}-{size}") for run, sizes in PINNED.items() for size in sizes]


@pytest.mark.parametrize(("run", "size"), free)
def test_a_free_batch_is_right_for_all_that_the_model_takes(run: Forward, size: int, tmp_path: Path) -> None:
    model = Net(run).eval()
    assert trace(model, torch.randn(size, 4)).batch is None
    facts = prunus.save(model, tmp_path / "model.prunus", example_inputs=torch.randn(size, 4))
    loaded = prunus.load(tmp_path / "model.prunus")
    assert facts.batch is None
    assert loaded.signature.inputs[0].shape == ("batch", 4)
    for other in range(1, 13):
        x = torch.randn(other, 4)
        try:
            expected = model(x)
        except RuntimeError:
            continue
        torch.testing.assert_close(loaded(x), expected)


@pytest.mark.parametrize(("run", "size"), pinned)
def test_a_pinned_batch_is_the_examples_own_and_said(run: Forward, size: int, tmp_path: Path) -> None:
    model, x = Net(run).eval(), torch.randn(size, 4)
    graph = trace(model, x)
    assert graph.batch == size == graph.args[0].shape[0]
    with pytest.warns(UserWarning, match=rf"pins the batch.*{size} sample"):
        facts = prunus.save(model, tmp_path / "model.prunus", example_inputs=x)
    assert facts.batch == size
    loaded = prunus.load(tmp_path / "model.prunus")
    assert isinstance(loaded, ExportedModule)
    assert loaded.signature.inputs[0].shape == (size, 4)
    assert f"{size} sample" in loaded.why
    torch.testing.assert_close(loaded(x), model(x))
    with pytest.raises(ValueError, match=rf"input 'x' must have the shape \({size}, 4\)"):
        loaded(torch.randn(size + 1, 4))


@pytest.mark.parametrize(("run", "size"), [(into_two, 3), (into_three, 1), (one_row_each, 2)])
def test_an_example_that_the_model_refuses_is_an_error(run: Forward, size: int, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="can't run the example inputs") as refused:
        prunus.save(Net(run), tmp_path / "model.prunus", example_inputs=torch.randn(size, 4))
    cause = refused.value.__cause__
    assert isinstance(cause, RuntimeError), "the model's own error"
    assert cause.__context__ is None, "and not that of torch.export, which is pages long"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_one_sample_may_be_another_case(size: int, tmp_path: Path) -> None:
    model, x = Net(another_way_for_one).eval(), torch.randn(size, 4)
    with pytest.warns(UserWarning, match="pins the batch"):
        assert prunus.save(model, tmp_path / "model.prunus", example_inputs=x).batch == size
    torch.testing.assert_close(prunus.load(tmp_path / "model.prunus")(x), model(x))


def test_shrinking_takes_a_pinned_batch() -> None:
    model, x = Net(one_row_each).eval(), torch.randn(4, 4)
    model.layer.weight.data[1:4] = 0
    small = prunus.shrink(model, x)
    torch.testing.assert_close(small(x), model(x))


def test_an_input_that_has_no_batch_pins_nothing() -> None:
    class WithTable(nn.Module):
        def forward(self, x: Tensor, table: Tensor) -> Tensor:
            return x @ table.view(8, 4).T

    graph = trace(WithTable(), (torch.randn(3, 4), torch.randn(8, 4)))
    assert graph.batch is None


def test_on_the_meta_device() -> None:
    model = Net(halves).to("meta")
    assert trace(model, torch.empty(4, 4, device="meta")).batch is None


class AloneReversed(nn.Module):
    """Treats single samples another way than batches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.last(y.flip(1) if x.shape[0] == 1 else y)


@pytest.mark.parametrize("samples", [1, 4])
def test_a_model_that_treats_single_samples_another_way_is_read_for_the_example_only(samples: int) -> None:
    model = AloneReversed().eval()
    assert trace(model, torch.randn(samples, 6)).batch == samples
    model.last.weight.data[:, :3] = 0
    inputs = torch.randn(samples, 6)
    smaller = prunus.shrink(model, torch.zeros(samples, 6))
    assert smaller.checked.batch == samples
    assert torch.allclose(smaller(inputs), model(inputs), atol=1e-6)
    with pytest.raises(ValueError, match="must have the shape"):
        smaller(torch.randn(5 - samples, 6))


class SeldomAnother(AloneReversed):
    """Treats large batches another way, which shows where the first channel is above zero: hardly ever."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.last(torch.cat([y[:, :1] * 2, y[:, 1:]], 1) if x.shape[0] > 30 else y)


def test_other_functions_tell_what_outputs_seldom_show() -> None:
    model = SeldomAnother().eval()
    model.first.bias.data[0] = -50
    assert trace(model, torch.randn(3, 6)).batch == 3
    assert trace(nn.Sequential(model.first, model.last), torch.randn(3, 6)).batch is None
