"""What is printed at the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import made_up
from prunus.lab import report
from prunus.measuring.receipt import Receipt


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
def test_a_run_that_shrank_and_packed_says_what_each_step_saved(run, width):
    smaller = run.made_smaller()
    text = printed(smaller, width)
    assert max(map(len, text.splitlines())) <= width
    table = text[text.index("step saved") :]
    dense, _, finetuned, shrunk, packed = smaller.models
    for name, model in (("dense", dense), ("prune,", finetuned), ("shrink", shrunk), ("pack", packed)):
        size = 290_000 if model is packed else model.bytes["safetensors"]
        figures = [f"{model.parameters:,}", f"{model.macs:,}", f"{size:,}"]
        assert [cell for cell in row(table, name) if cell != "finetune"][1:4] == figures
    share = 100 * (1 - shrunk.parameters / dense.parameters)
    assert row(table, "together")[1] == f"\N{MINUS SIGN}{share:.1f}%"
    assert {"166\N{MULTIPLICATION SIGN}50\N{MULTIPLICATION SIGN}4\N{MULTIPLICATION SIGN}4", "together"} <= set(
        text.split()
    )
    assert "step saved" not in printed(run.receipt, width)


@pytest.mark.parametrize("width", [80, 100])
def test_several_runtimes_are_told_apart(run, width):
    programs = run.with_programs()
    text = printed(programs, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    times = text[text.index("one call") :]
    for runtime, spelled in (("openvino", "OpenVINO"), ("prunus", "prunus"), ("torch-compile", "torch.compile")):
        dense = programs.models[0].latency_us[runtime]["1"]["1"]
        figures = f"{dense.median:.3g} [{dense.p10:.3g}, {dense.p90:.3g}] µs".split()
        assert ["dense", spelled, *figures] == next(
            line.split()[:6] for line in times.splitlines() if line.split()[:2] == ["dense", spelled]
        )
    # the steps between the ends were not timed in these, so they have no column among the steps
    steps = text[: text.index("the file: plain")]
    assert "PyTorch" in steps
    assert "OpenVINO" not in steps


def test_a_row_holds_the_models_figures(receipt):
    finetuned = receipt.models[-1]
    assert row(printed(receipt), "finetuned")[:4] == ["finetuned", "160,206", "128,214", "20.0%"]
    assert f"{finetuned.bytes['safetensors']:,}" in printed(receipt)
    measured = finetuned.latency_us["torch"]["1"]["1"]
    assert f"{measured.median:.0f} [{measured.p10:.0f}, {measured.p90:.0f}] µs" in printed(receipt)


def test_every_word_is_printed(receipt):
    squeezed = "".join(printed(receipt).split())
    for sentence in report.words(receipt):
        assert all(part in squeezed for part in sentence.replace(".", " ").split()), sentence


def test_names_are_shown_and_not_obeyed(receipt):
    hostile = replace(receipt.models[-1], name="[bold]x[/bold]\x1b[2J")
    text = printed(replace(receipt, models=(receipt.models[0], hostile), comparisons=()))
    assert "[bold]x[/bold]\N{REPLACEMENT CHARACTER}[2J" in text
    assert "\x1b" not in text


def test_what_was_measured_of_no_model_has_no_column():
    bare = (made_up.model("dense", 10, 10), made_up.model("pruned", 10, 8))
    text = printed(Receipt(prunus="0.1.0", torch="2.13.0", machine=made_up.machine(), models=bare))
    assert row(text, "pruned") == ["pruned", "10", "8", "20.0%"]  # a column that nobody fills is left out
    assert "bytes" not in text.split("Parameters")[0]


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
    assert "and 10 more layers" in text


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
