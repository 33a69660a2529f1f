"""Saved models take the image sizes and lengths that the model does, and compute the same there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.exporting import inputs_of
from prunus.graph.exported import ExportedModule
from prunus.graph.open_sizes import trace_open

Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, run: Forward) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 2, 2), nn.Conv2d(8, 3, 1)
        self.head, self.table = nn.Linear(4, 5), nn.Parameter(torch.randn(4, 16, 16))
        self.flat = nn.Linear(4 * 16 * 16, 2)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def pooled(m: Net, x: Tensor) -> Tensor:
    return m.head(m.conv(x).relu().mean((2, 3)))


def pooled_to_one(m: Net, x: Tensor) -> Tensor:
    return m.head(F.adaptive_avg_pool2d(m.conv(x), 1).flatten(1))


def as_tokens(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x).flatten(2).transpose(1, 2)
    return m.head((y @ y.transpose(1, 2)).softmax(-1) @ y)


def down_and_up(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x)
    wide = F.interpolate(m.down(y), scale_factor=2)
    return m.up(torch.cat([y, wide], 1))


def up_to_its_input(m: Net, x: Tensor) -> Tensor:
    return m.up(torch.cat([m.conv(x), F.interpolate(m.down(m.conv(x)), x.shape[2:], mode="bilinear")], 1))


def padded_to_even(m: Net, x: Tensor) -> Tensor:
    return m.down(m.conv(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))))


def square_only(m: Net, x: Tensor) -> Tensor:
    y = m.conv(x)
    return y + y.transpose(2, 3)


OPEN = [pooled, pooled_to_one, as_tokens, down_and_up, up_to_its_input, padded_to_even, square_only]


@pytest.mark.parametrize("run", OPEN)
def test_other_sizes_give_what_the_model_gives(run: Forward, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net(run).eval()
    prunus.save(model, tmp_path / "model.prunus", example_inputs=torch.randn(1, 3, 16, 16))
    loaded = prunus.load(tmp_path / "model.prunus")
    assert isinstance(loaded, ExportedModule)
    taken = 0
    for height, width in ((16, 16), (32, 32), (24, 24), (17, 17), (20, 36), (15, 8), (9, 9), (4, 2)):
        x = torch.randn(3, 3, height, width)
        try:
            expected = model(x)
        except RuntimeError:
            with pytest.raises((RuntimeError, ValueError)):
                loaded(x)
            continue
        torch.testing.assert_close(loaded(x), expected)
        taken += 1
    assert taken >= 4
    assert "free" in str(loaded.signature.inputs[0].shape)


def flat(m: Net, x: Tensor) -> Tensor:
    return m.flat(m.conv(x).flatten(1))


def plus_a_table(m: Net, x: Tensor) -> Tensor:
    return m.conv(x) + m.table


def another_way_when_odd(m: Net, x: Tensor) -> Tensor:
    return m.conv(x) * 2 if x.shape[2] % 2 else m.conv(x)


def another_way_when_large(m: Net, x: Tensor) -> Tensor:
    return m.conv(x) * 2 if x.shape[2] > 40 else m.conv(x)


def another_way_when_very_large(m: Net, x: Tensor) -> Tensor:
    return m.conv(x) * 2 if x.shape[3] > 5000 else m.conv(x)


def a_loop_over_rows(m: Net, x: Tensor) -> Tensor:
    return torch.stack([row.mean(-1) for row in m.conv(x).unbind(2)][::4], 1)


def as_a_number(m: Net, x: Tensor) -> Tensor:
    return m.conv(x) * float(int(x.shape[2]))


CLOSED = [
    flat,
    plus_a_table,
    another_way_when_odd,
    another_way_when_large,
    another_way_when_very_large,
    a_loop_over_rows,
]


@pytest.mark.parametrize("run", [*CLOSED, as_a_number])
def test_where_that_would_be_wrong_the_size_stays_that_of_the_example(run: Forward, tmp_path: Path) -> None:
    model = Net(run).eval()
    prunus.save(model, tmp_path / "model.prunus", example_inputs=torch.randn(1, 3, 16, 16))
    loaded = prunus.load(tmp_path / "model.prunus")
    for height in (16, 17, 18, 24, 32, 48):
        x = torch.randn(2, 3, height, 16)
        if height == 16:
            torch.testing.assert_close(loaded(x), model(x))
        else:
            with pytest.raises(ValueError, match="must have the shape"):
                loaded(x)


class Reads(nn.Module):
    """Tokens and their mask, with a table of positions."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(positions, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        y: Tensor = self.encoder(x, src_key_padding_mask=mask == 0)
        return y.mean(1)


def test_lengths_of_tokens_and_their_mask_are_free_together(tmp_path: Path) -> None:
    model = Reads(40).eval()
    ids, mask = torch.randint(0, 11, (2, 10)), torch.ones(2, 10, dtype=torch.int64)
    prunus.save(model, tmp_path / "model.prunus", example_inputs={"ids": ids, "mask": mask})
    loaded = prunus.load(tmp_path / "model.prunus")
    for length in (2, 7, 10, 33):
        ids, mask = torch.randint(0, 11, (3, length)), torch.ones(3, length, dtype=torch.int64)
        mask[1, 1:] = 0
        torch.testing.assert_close(loaded(ids=ids, mask=mask), model(ids, mask))
    with pytest.raises(ValueError, match="input 'mask' must have the shape"):
        loaded(ids=ids, mask=mask[:, :5])


def test_a_file_tells_inputs_that_its_model_takes(tmp_path: Path) -> None:
    prunus.save(Net(pooled), tmp_path / "model.prunus", example_inputs=torch.randn(1, 3, 12, 18))
    inputs = inputs_of(prunus.load(tmp_path / "model.prunus"))
    assert isinstance(inputs, tuple)
    assert inputs[0].shape == (2, 3, 12, 18)


FORGED: list[object] = [[1, 3, 12], [1, 3, 0, 4], [1, 2, 4, 4], "x", [1, 3, 2**40, 2], [1, 3, 2**20, 2**20]]


@pytest.mark.parametrize("example", FORGED)
def test_a_forged_example_is_refused(example: object) -> None:
    module = ExportedModule.from_program(trace_open(Net(pooled), torch.randn(2, 3, 16, 16)).program)
    document = module.to_document()
    assert document["inputs"][0]["example"] == [2, 3, 16, 16]
    document["inputs"][0]["example"] = example
    with pytest.raises(ValueError, match="has an example"):
        ExportedModule.from_document(document, module.tensors())
