"""Tables as text: nothing is lost but what they say they leave out, and everything that is returned prints as one."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given
from torch import nn

import prunus
from prunus.exporting import ExportFacts
from prunus.exporting.c.export import CFacts
from prunus.measuring.sensitivity import sensitivity
from prunus.tables import MAX_ROWS, WIDTH, Table

words = st.text("abc ", min_size=1, max_size=30).map(str.strip).filter(bool)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.tuples(*[words] * n), min_size=2, max_size=6)))
def test_every_cell_is_printed_within_the_width(texts):
    columns, *rows = texts
    text = str(Table(columns, tuple(rows)))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(cell in text for row in rows for cell in row)


def test_a_long_table_says_how_many_rows_it_leaves_out():
    text = str(Table(("name", "figure"), tuple((f"row{at}", str(at)) for at in range(100))))
    assert len(text.splitlines()) == 1 + MAX_ROWS + 1
    assert text.splitlines()[-1].strip() == f"and {100 - MAX_ROWS} more"


def test_columns_that_do_not_fit_come_below_with_the_names():
    wide = Table(("name", *"abc"), (("x", "1" * 45, "2" * 45, "3" * 45),))
    first, second = str(wide).split("\n\n")
    assert first.splitlines()[1].split() == ["x", "1" * 45, "2" * 45]
    assert second.splitlines()[1].split() == ["x", "3" * 45]


def test_breaks_are_empty_lines_and_words_are_aligned_to_the_left():
    table = Table(("model", "what", "size"), (("a", "one", "1"), ("bb", "three", "10")), words=(1,), breaks=(1,))
    assert str(table).splitlines() == ["model  what   size", "a      one       1", "", "bb     three    10"]


def test_headings_are_wrapped_to_their_cells():
    assert str(Table(("model", "peak memory"), (("dense", "3"),))).splitlines() == [
        "         peak",
        "model  memory",
        "dense       3",
    ]


def test_masks_print_each_parameter_and_the_total():
    masks = prunus.prune(small(), 0.5)
    lines = str(masks).splitlines()
    assert lines[0].split() == ["parameter", "shape", "weights", "pruned", "sparsity"]
    pruned = [int(line.split()[3]) for line in lines[1:3]]
    assert pruned == [int((~mask).sum()) for mask in masks.values()]
    assert lines[-1] == "28 of 56 weights are pruned (50.0%)."
    assert "2 parameters" in repr(masks)


def test_what_save_wrote_prints_each_tensor_and_the_file(tmp_path):
    found = prunus.save(small(), tmp_path / "small.prunus", torch.zeros(1, 4))
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert lines[-1].startswith(f"{(tmp_path / 'small.prunus').stat().st_size:,} bytes, ")


def test_what_shrink_compared_prints_as_pairs():
    whole, halved = small(), small()
    halved[2].weight.data[:, ::2] = 0
    for model, compared in ((whole, "no"), (halved, "yes")):
        text = str(prunus.shrink(model, torch.zeros(1, 4)).checked)
        lines = dict(line.split("  ", 1) for line in text.splitlines())
        assert lines["at the sizes (without the batch)"].strip().startswith("4")
        assert lines["each operation compared"].strip() == compared, "of a copy only the outputs are"
        assert lines["of the types"].strip() == "float32"


def test_figures_of_a_model_print_with_their_units():
    text = str(prunus.measure(small(), torch.zeros(1, 4), batch_sizes=[1], threads=[1]))
    rows = dict(line.split("  ", 1) for line in text.splitlines())
    assert rows["parameters"].strip() == "67"
    assert rows["multiply-adds"].strip() == "56"
    assert "safetensors, bytes" in rows
    assert rows["PyTorch: 1 thread, batch 1"].strip().endswith(("µs", "ms"))
    assert len(text.splitlines()) <= MAX_ROWS


def test_a_comparison_prints_a_row_for_each_model():
    text = str(prunus.compare({"dense": small(), "other": small()}, torch.zeros(1, 4), latency=False))
    assert text.splitlines()[1].split() == ["dense", "67", "67", "0.0%"]
    assert sum(line.startswith("other") for line in text.splitlines()) == 3


def test_a_receipt_of_many_models_fits_one_screen():
    text = str(prunus.compare({f"model {at}": small() for at in range(12)}, torch.zeros(1, 4), latency=False))
    assert text.count("and 4 more") == 3


def test_sensitivity_prints_a_row_for_each_layer():
    curves = sensitivity(small(), lambda model: 0.5, sparsities=(0.0, 0.25))
    assert str(curves).splitlines() == [
        "sparsity       0%    25%",
        "all layers  0.500  0.500",
        "0.weight    0.500  0.500",
        "2.weight    0.500  0.500",
    ]
    assert curves == {"all layers": [0.5, 0.5], "0.weight": [0.5, 0.5], "2.weight": [0.5, 0.5]}


def test_what_export_wrote_prints_without_what_was_not_measured():
    c = CFacts(900, 600, None, 128, None, "net", 8, "not built: no compiler")
    lines = str(ExportFacts("c", 900, 400, None, c)).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "format",
        "file, bytes",
        "plain weights, bytes",
        "function",
        "weights",
        "flash for constants, bytes",
        "RAM for buffers, bytes",
        "checked",
    ]
