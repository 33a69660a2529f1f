"""`prunus run` and `prunus report`, on a recipe that takes seconds."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import TINY, Command, Result, invoke, refused
from prunus.files import load_tensors
from prunus.lab import stages
from prunus.lab.recipe import Recipe
from prunus.lab.run_folder import locked
from prunus.measuring.receipt import Receipt


@pytest.fixture
def recipe_file(folder: Path) -> Path:
    (folder / "tiny.yaml").write_text(TINY)
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run with two seeds, and what the command printed."""
    folder = tmp_path_factory.mktemp("a [run]")
    (folder / "tiny.yaml").write_text(TINY)
    arguments = ["run", str(folder / "tiny.yaml"), "seeds=[0,1]", "--out", str(folder / "out"), "--no-download"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small steps gain nothing from two, and lose much on a busy machine
    try:
        return folder, invoke(arguments)
    finally:
        torch.set_num_threads(threads)


def test_a_run_of_several_seeds_ends_with_their_summary_and_pages(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    assert result.exit_code == 0, result.output
    assert "tiny · 2 seeds: 0, 1" in result.stdout
    for seed in (0, 1):
        page = folder / "out" / f"seed-{seed}" / "report.html"
        assert page.is_file()
        assert f"Report: {page}\n" in result.stdout
        assert Receipt.load(page.with_name("receipt.json")).seed == seed
    model = folder / "out" / "seed-1" / "model.prunus"
    assert f"{model.stat().st_size:,} bytes; to have it in Python: prunus.load({str(model)!r})" in result.stderr
    assert "train" in result.stderr
    assert "train" not in result.stdout


def test_the_same_command_again_finds_everything_done(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    command = ["run", str(folder / "tiny.yaml"), "--out", str(folder / "out"), "--no-download"]
    result = invoke(command)  # one seed of the two
    assert result.exit_code == 0, result.output
    assert "done before" in result.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*.safetensors")} == before
    assert "tiny · seed 0 · digits" in result.stdout
    receipt = Receipt.load(folder / "out" / "seed-0" / "receipt.json")
    assert re.search(rf"^finetuned +{receipt.models[-1].parameters:,} ", result.stdout, re.MULTILINE)


def test_a_report_of_one_seed_is_its_receipt_and_its_page_anew(finished: tuple[Path, Result], command: Command) -> None:
    seed = finished[0] / "out" / "seed-1"
    page = (seed / "report.html").read_bytes()
    (seed / "report.html").unlink()
    result = command("report", seed)
    assert result.exit_code == 0, result.output
    assert "tiny · seed 1" in result.stdout
    assert f"Report: {seed / 'report.html'}" in result.stdout
    assert (seed / "report.html").read_bytes() == page
    assert max(map(len, result.stdout.replace(str(seed), "").splitlines())) <= 100


def test_a_report_of_a_run_sums_its_seeds_up(finished: tuple[Path, Result], command: Command) -> None:
    result = command("report", finished[0] / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout == finished[1].stdout


def test_seeds_are_read_in_the_order_of_their_numbers(command: Command, folder: Path) -> None:
    from prunus.cli.run import _seeds

    for seed in (10, 9, 100):
        (folder / "out" / f"seed-{seed}").mkdir(parents=True)
        (folder / "out" / f"seed-{seed}" / "receipt.json").write_text("{}")
    assert [path.name for path in _seeds(folder / "out")] == ["seed-9", "seed-10", "seed-100"]


def test_a_report_of_a_folder_that_a_run_is_working_in_is_refused(
    finished: tuple[Path, Result], command: Command
) -> None:
    out = finished[0] / "out"
    page = (out / "seed-0" / "report.html").stat()
    with locked(out / "seed-1"):
        for folder in (out, out / "seed-1"):
            message = refused(command("report", folder))
            assert message.startswith(f"another prunus run is using {str(out / 'seed-1')!r}")
    assert (out / "seed-0" / "report.html").stat().st_mtime_ns == page.st_mtime_ns
    assert command("report", out).exit_code == 0


def test_what_is_no_run_is_refused(command: Command, folder: Path) -> None:
    (folder / "[bold] empty").mkdir()
    (folder / "damaged" / "seed-0").mkdir(parents=True)
    (folder / "damaged" / "seed-0" / "receipt.json").write_text('{"schema": 99}')
    assert "there is no folder 'nothing'" in refused(command("report", "nothing"))
    assert "there is no folder 'my_models.py'" in refused(command("report", "my_models.py"))
    assert "no finished run in '[bold] empty'" in refused(command("report", "[bold] empty"))
    assert "schema 99" in refused(command("report", "damaged"))
    assert not (folder / "nothing").exists()
    assert not list((folder / "[bold] empty").iterdir())


class CalledError(Exception):
    """Stands for a run: what it was asked for is what is tested."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `stages.run` was called with; nothing is run."""
    found: dict[str, Any] = {}

    def run(recipe: Recipe, out: Path, **settings: Any) -> list[stages.SeedRun]:
        found.update(recipe=recipe, out=out, **settings)
        logging.getLogger("prunus").info("a [bold]plain[/] line")
        logging.getLogger("prunus").warning("a notice")
        settings["say"]("[/] said")
        raise CalledError

    monkeypatch.setattr(stages, "run", run)
    return found


def test_options_reach_the_library(command: Command, asked: dict[str, Any]) -> None:
    result = command(
        "run", "lenet", "prune.sparsity=0.9", "seeds=[3,4]", "--out", "here [x]", "--data", "there", "--devices", 2,
        "--accelerator", "cpu", "--no-download", "--redo",
    )  # fmt: skip
    assert isinstance(result.exception, CalledError)
    recipe = asked.pop("recipe")
    assert (recipe.prune.sparsity, recipe.seeds, recipe.devices) == (0.9, (3, 4), 2)
    asked.pop("say")
    assert asked == {
        "out": Path("here [x]"), "data_folder": Path("there"), "accelerator": "cpu", "download": False, "redo": True,
    }  # fmt: skip
    assert result.stderr == "a [bold]plain[/] line\nNote: a notice\n[/] said\n"
    assert logging.getLogger("prunus").handlers == []


def test_without_options_a_run_goes_to_runs_and_may_download(command: Command, asked: dict[str, Any]) -> None:
    command("run", "lenet-95")
    asked.pop("say")
    assert asked.pop("recipe").devices == 1
    assert asked == {
        "out": Path("runs/lenet-95"), "data_folder": None, "accelerator": "auto", "download": True, "redo": False,
    }  # fmt: skip


BAD = [
    (["lenett"], "unknown recipe 'lenett'; did you mean 'lenet'"),
    ([""], "unknown recipe ''"),
    (["nothing.yaml"], "no recipe file at 'nothing.yaml'"),
    (["lenet", "prune.sparsity"], "'prune.sparsity' is not of the form key=value"),
    (["lenet", "prune.sparsty=0.5"], "did you mean 'sparsity'"),
    (["lenet", "prune.sparsity=20"], "can't be used: prune.sparsity: sparsity must be in"),
    (["tiny.yaml", "model.name=lenett"], "unknown model 'lenett'"),
    (["lenet", "--devices", "0"], "devices: .*at least 1, got 0"),
    (["lenet", "--accelerator", "gpu"], '"gpu" for --accelerator.*Did you mean "cpu"'),
    (["tiny.yaml", "--out", "my_models.py"], "Not a directory|File exists"),
    (["lenet", "--data", "nowhere"], "'nowhere', which is not a folder"),
]


@pytest.mark.parametrize(
    ("arguments", "told"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_clear_line(command: Command, recipe_file: Path, arguments: list[str], told: str) -> None:
    assert recipe_file.is_file()
    assert re.search(told, refused(command("run", *arguments, "--no-download")))


def test_every_problem_of_a_recipe_is_told_at_once(command: Command) -> None:
    result = command("run", "lenet", "prune.sparsity=20", "train.epochs=-1")
    assert result.exit_code == 2
    assert [line.strip().partition(":")[0] for line in result.stderr.splitlines()[1:]] == [
        "train.epochs",
        "prune.sparsity",
    ]


def test_a_folder_that_is_in_use_or_belongs_to_another_recipe_is_refused(
    command: Command, recipe_file: Path, folder: Path
) -> None:
    with locked(folder / "out" / "seed-0"):
        assert "another prunus run is using" in refused(command("run", recipe_file, "--out", "out"))
    (folder / "other" / "seed-0").mkdir(parents=True)
    (folder / "other" / "seed-0" / "recipe.yaml").write_text(TINY.replace("epochs: 2", "epochs: 9"))
    message = refused(command("run", recipe_file, "--out", "other"))
    assert "train.epochs: 9 -> 2" in message
    assert "--out" in message
    assert "--redo" in message


def test_ctrl_c_says_how_to_go_on(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any, **settings: Any) -> list[stages.SeedRun]:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "run", run)
    result = command("run", "lenet", "--out", "my runs")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1].endswith("prunus run lenet --out 'my runs'")


def test_the_weights_a_run_leaves_can_be_compared(finished: tuple[Path, Result], command: Command) -> None:
    seed = finished[0] / "out" / "seed-0"
    arguments = ["--model", "lenet-300-100", "--arg", "widths=[24,12]", "--no-latency", "--json", "-"]
    result = command("compare", seed / "dense.safetensors", seed / "finetuned.safetensors", *arguments)
    assert result.exit_code == 0, result.output
    dense, finetuned = json.loads(result.stdout)["models"]
    for facts in (dense, finetuned):
        tensors = load_tensors(seed / f"{facts['name']}.safetensors")
        assert facts["nonzero"] == sum(int(tensor.count_nonzero()) for tensor in tensors.values())
        assert facts["parameters"] == sum(tensor.numel() for tensor in tensors.values())
