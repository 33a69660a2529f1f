"""What is printed at the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import made_up
from prunus.lab import report
from prunus.lab.report import receipt_tables, savings
from prunus.lab.report.caveats import caveats
from prunus.lab.report.outcome import headline
from prunus.measuring import overview
from prunus.measuring.receipt import Embedded, Receipt


def printed(receipt: Receipt, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    report.terminal(receipt, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def summarised(receipts: list[Receipt], width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    report.summary(receipts, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, name: str) -> list[str]:
    """Return the cells of the first line that starts with a name."""
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name])


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_the_width_and_lose_nothing(run, width):
    text = printed(run.with_controls(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for name in ("dense", "pruned", "finetuned", "random", "small-dense", "dense-longer", "conv4.weight"):
        assert name in text


@pytest.mark.parametrize("width", [80, 100])
def test_no_table_is_wider_than_the_terminal_and_every_cell_is_printed(run, width):
    programs = run.with_programs()
    text = printed(programs, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for table in receipt_tables.all_tables(programs):
        for row_of_table in table.rows:
            assert all(cell in text for cell in row_of_table if len(cell) < 30)


def test_the_road_says_what_each_step_saved(run):
    smaller = run.made_smaller()
    table = savings.road(smaller)
    assert table is not None
    assert savings.road(run.receipt) is None
    dense, _, finetuned, shrunk, packed = smaller.models
    names = ("dense", "prune, finetune", "shrink", "pack")
    for row_of_step, name, facts in zip(table.rows, names, (dense, finetuned, shrunk, packed), strict=False):
        size = 290_000 if facts is packed else facts.bytes["safetensors"]
        figures = [f"{facts.parameters:,}", f"{facts.macs:,}", f"{size:,}"]
        assert [row_of_step[0], *(cell.split()[0] for cell in row_of_step[1:4])] == [name, *figures]
    share = 100 * (1 - shrunk.parameters / dense.parameters)
    assert table.rows[-1][:2] == ("together", f"{shrunk.parameters:,} (\N{MINUS SIGN}{share:.1f}%)")
    assert table.columns[4:] == ("PyTorch, 1 thread, batch 1", "ONNX Runtime, 1 thread, batch 1")
    assert table.rows[1][4] == "149 µs (not told apart)"
    # 0.7 of the dense model's time, and 0.7 / 0.98 of the finetuned one's
    assert [row_of_step[4] for row_of_step in table.rows[2:]] == [
        "106 µs (\N{MINUS SIGN}28.6%)",
        "106 µs (not told apart)",
        "106 µs (\N{MINUS SIGN}30.0%)",
    ]


def test_times_of_ends_only_have_no_column_among_the_steps(run):
    table = savings.road(run.with_programs())
    assert table is not None
    assert not any("OpenVINO" in column for column in table.columns)


def test_each_time_is_in_the_row_of_its_runtime_and_model(run):
    programs = run.with_programs()
    table = overview.latencies(programs)
    assert table is not None
    rows = {row_of_table[0]: row_of_table[1:] for row_of_table in table.rows}
    for runtime, spelled in (("openvino", "OpenVINO"), ("prunus", "prunus"), ("torch-compile", "torch.compile")):
        dense = programs.models[0].latency_us[runtime]["1"]["1"]
        assert rows[f"{spelled}: dense"][0] == f"{dense.median:.3g} [{dense.p10:.3g}, {dense.p90:.3g}] µs"
    assert len(rows) == 5 + 5 + 2 + 2 + 2


def test_layers_show_the_shapes_they_had(run):
    table = receipt_tables.layers(run.made_smaller())
    assert table is not None
    shapes = [row_of_layer[1].replace("\N{MULTIPLICATION SIGN}", "x") for row_of_layer in table.rows]
    assert shapes == ["20x1x5x5", "50x20x5x5", "166x50x4x4 → 100x50x4x4", "10x166 → 10x100"]


def test_bytes_of_exported_c_have_columns_of_their_own(receipt):
    in_c = replace(receipt.models[-1], embedded=Embedded(532_852, 15_586))
    table = overview.sizes(replace(receipt, models=(*receipt.models[:-1], in_c)))
    assert table is not None
    assert table.columns[-2:] == ("C: flash", "C: RAM")
    assert table.rows[-1][-2:] == ("532,852", "15,586")
    assert table.rows[0][-2:] == ("\N{EN DASH}",) * 2


def test_a_row_holds_the_models_figures(receipt):
    finetuned = receipt.models[-1]
    assert row(printed(receipt), "finetuned")[:4] == ["finetuned", "160,206", "128,214", "20.0%"]
    assert f"{finetuned.bytes['safetensors']:,}" in printed(receipt)
    measured = finetuned.latency_us["torch"]["1"]["1"]
    assert f"{measured.median:.0f} [{measured.p10:.0f}, {measured.p90:.0f}] µs" in printed(receipt)


def test_the_outcome_and_every_caveat_are_printed(receipt):
    squeezed = "".join(printed(receipt).split())
    for sentence in (headline(receipt), *(sentence for _, sentence in caveats(receipt))):
        assert "".join(sentence.split()) in squeezed


def test_names_are_shown_and_not_obeyed(receipt):
    hostile = replace(receipt.models[-1], name="[bold]x[/bold]\x1b[2J")
    text = printed(replace(receipt, models=(receipt.models[0], hostile), comparisons=()))
    assert "[bold]x[/bold]\N{REPLACEMENT CHARACTER}[2J" in text
    assert "\x1b" not in text


def test_what_was_measured_of_no_model_has_no_column():
    bare = (made_up.model("dense", 10, 10), made_up.model("pruned", 10, 8))
    text = printed(Receipt(prunus="0.1.0", torch="2.13.0", machine=made_up.machine(), models=bare))
    assert row(text, "pruned") == ["pruned", "10", "8", "20.0%"]  # a column that nobody fills is left out
    assert "bytes" not in text


def test_a_model_that_was_not_tested_beside_one_that_was_has_dashes():
    models = (made_up.model("dense", 10, 10, accuracy=made_up.accuracy_of(9, 10)), made_up.model("pruned", 10, 8))
    text = printed(Receipt(prunus="0.1.0", torch="2.13.0", machine=made_up.machine(), models=models))
    assert row(text, "pruned") == ["pruned", "10", "8", "20.0%", *["\N{EN DASH}"] * 3]


def test_models_compared_without_a_recipe_have_no_seed(receipt):
    assert "models compared" in printed(replace(receipt, recipe={}))
    assert "seed" not in printed(replace(receipt, recipe={}))
    assert "lenet · seed 0" in printed(receipt)


def test_many_layers_are_cut_with_their_number(receipt):
    layers = tuple(made_up.layer(f"conv1.{at}.weight", torch.ones(2, 3)) for at in range(50))
    big = replace(made_up.model("pruned", 300, 300, macs=10**9), layers=layers)
    text = printed(replace(receipt, models=(receipt.models[0], big), comparisons=()))
    assert "conv1.39.weight" in text
    assert "conv1.40.weight" not in text
    assert "and 10 more" in text


def test_summary_gives_mean_deviation_and_range():
    receipts = [seed_of(seed, correct) for seed, correct in enumerate((9900, 9910, 9935))]
    text = summarised(receipts)
    # by hand: mean of 99.00, 99.10, 99.35 is 99.15; squared deviations .0225 + .0025 + .04 = .065; sqrt(.065 / 2) = .18
    assert "99.15 ± 0.18%" in text
    assert "99.00 to 99.35" in text
    assert "3 seeds: 0, 1, 2" in text


def test_summary_lists_each_seeds_test(receipt):
    text = summarised([receipt, replace(receipt, seed=1)])
    lines = [line for line in text.splitlines() if "0.46" in line or "→" in line]
    assert any(line.startswith("dense → finetuned") for line in lines)
    assert text.count("mean ± sd") == 1 + len(receipt.comparisons)
    assert max(map(len, text.splitlines())) <= 100


def test_one_seed_has_no_deviation():
    assert "99.00%" in row(summarised([seed_of(0, 9900)]), "dense")


def test_seeds_of_one_recipe_may_name_different_seeds():
    recipes = [{"name": "lenet", "seeds": [seed], "train": {"epochs": 3}} for seed in (0, 1)]
    assert summarised([replace(seed_of(seed, 9900), recipe=recipe) for seed, recipe in enumerate(recipes)])


def test_summary_refuses_what_does_not_belong_together():
    with pytest.raises(ValueError, match="at least one receipt"):
        summarised([])
    with pytest.raises(ValueError, match=r"one receipt per seed, got the seeds \[0, 0\]"):
        summarised([seed_of(0, 9900), seed_of(0, 9900)])
    other = replace(seed_of(1, 9900), recipe={"train": {"epochs": 4}})
    with pytest.raises(ValueError, match="seeds 0 and 1 differ in train"):
        summarised([replace(seed_of(0, 9900), recipe={"train": {"epochs": 3}}), other])


def seed_of(seed: int, correct: int) -> Receipt:
    tested = made_up.model("dense", 10, 10, accuracy=made_up.accuracy_of(correct, 10_000))
    return Receipt(prunus="0.1.0", torch="2.13.0", machine=made_up.machine(), models=(tested,), seed=seed)
