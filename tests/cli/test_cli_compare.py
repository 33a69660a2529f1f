"""`prunus measure` and `prunus compare`: figures against arithmetic by hand, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from command_line import Command, refused
from prunus.files import save_tensors
from prunus.lab import models
from prunus.measuring.receipt import Receipt


def test_the_figures_of_a_linear_layer_are_those_one_counts_by_hand(command: Command, linear_file: Path) -> None:
    """Linear(3, 2): 6 weights, 2 of them zero, and 2 biases; one input meets each weight once."""
    result = command(
        "measure", "--model", "my_models:linear", "--weights", linear_file, "--shape", 3, "--no-latency", "--json", "-"
    )
    assert result.exit_code == 0, result.output
    (facts,) = json.loads(result.stdout)["models"]
    assert (facts["name"], facts["parameters"], facts["nonzero"], facts["sparsity"]) == ("linear", 8, 6, 0.25)
    assert (facts["macs"], facts["nonzero_macs"]) == (6, 4)
    assert facts["bytes"]["safetensors"] == linear_file.stat().st_size
    assert facts["latency_us"] == {}


def test_names_and_figures_of_what_is_compared(command: Command, linear_file: Path, folder: Path) -> None:
    (folder / "other").mkdir()
    save_tensors(folder / "other" / "linear.safetensors", nn.Linear(3, 2).state_dict())
    items = ["linear.safetensors", "other/linear.safetensors", "my_models:shared"]
    options = ["--shape", "3", "--batch-sizes", "1,5", "--threads", "1", "--json", "receipt.json"]
    result = command("compare", *items, "--model", "my_models:linear", *options)
    assert result.exit_code == 0, result.output
    receipt = Receipt.load("receipt.json")
    names = ["linear.safetensors", "other/linear.safetensors", "my_models:shared"]
    assert [facts.name for facts in receipt.models] == names
    assert [facts.nonzero for facts in receipt.models] == [6, 8, 8]
    assert [facts.nonzero_macs for facts in receipt.models] == [4, 6, 6]
    for facts in receipt.models:
        assert facts.latency_us["torch"].keys() == {"1"}
        assert facts.latency_us["torch"]["1"].keys() == {"1", "5"}
        assert facts.name in result.stdout


def test_several_runtimes_are_timed(command: Command) -> None:
    options = ["--shape", "3", "--batch-sizes", "1", "--threads", "1", "--json", "-"]
    result = command("compare", "my_models:linear", "my_models:shared", "--runtimes", "torch, onnxruntime", *options)
    assert result.exit_code == 0, result.output
    for facts in json.loads(result.stdout)["models"]:
        assert facts["latency_us"].keys() == {"torch", "onnxruntime"}
    told = refused(command("measure", "--model", "my_models:linear", "--runtimes", "onnx", *options))
    assert told.startswith("unknown runtime 'onnx'; did you mean 'onnxruntime'?")


def test_models_of_prunus_know_their_shape_and_take_arguments(command: Command) -> None:
    result = command("compare", "lenet", "resnet20", "--arg", "in_channels=1", "--no-latency", "--json", "-")
    assert result.exit_code == 0, result.output
    lenet, resnet = json.loads(result.stdout)["models"]
    assert lenet["parameters"] == 160_206
    # by hand: 24 x 24 outputs of 25 weights, 8 x 8 of 500 and one each of 800 and 166, times their channels
    assert lenet["macs"] == 576 * 25 * 20 + 64 * 500 * 50 + 800 * 166 + 1660
    assert resnet["parameters"] == sum(p.numel() for p in models.create("resnet20", in_channels=1).parameters())
    assert resnet["macs"] > 0


def test_a_half_precision_file_is_measured_as_such(command: Command, folder: Path) -> None:
    save_tensors(folder / "half.safetensors", nn.Linear(3, 2).bfloat16().state_dict())
    options = ["--weights", "half.safetensors", "--shape", "3", "--no-latency", "--json", "-"]
    result = command("measure", "--model", "my_models:linear", *options)
    assert result.exit_code == 0, result.output
    (facts,) = json.loads(result.stdout)["models"]
    assert facts["bytes"]["safetensors"] == (folder / "half.safetensors").stat().st_size
    assert facts["macs"] == 6


def test_without_a_shape_it_says_what_is_left_out(command: Command) -> None:
    result = command("measure", "--model", "my_models:linear")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("Note: no --shape was given")
    assert re.search(r"my_models:linear +8 +8 +0\.0%", result.stdout)


def test_tables_fit_the_width_and_lines_in_a_pipe_hold_whole_rows(command: Command, linear_file: Path) -> None:
    result = command("measure", "--model", "my_models:linear", "--weights", linear_file, "--shape", 3, "--no-latency")
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert re.search(r"^linear +8 +6 +25\.0%", result.stdout, re.MULTILINE)


def test_the_same_model_object_is_not_loaded_twice_over_itself(command: Command, linear_file: Path) -> None:
    """The factory of `my_models:shared` is one object: comparing it before and after must not mix them up."""
    result = command(
        "compare",
        "my_models:shared",
        f"my_models:shared={linear_file.name}",
        "--shape",
        3,
        "--no-latency",
        "--json",
        "-",
    )
    assert [facts["nonzero"] for facts in json.loads(result.stdout)["models"]] == [8, 6]


def test_packed_files_are_models_by_themselves(command: Command, linear_file: Path, folder: Path) -> None:
    """A Linear(3, 1) in a packed file is no Linear(3, 2), though --model says so of the file of weights beside it."""
    prunus.save(nn.Linear(3, 1), "small.prunus", example_inputs=torch.zeros(1, 3))
    result = command(
        "compare", linear_file, "small.prunus", "--model", "my_models:linear", "--no-latency", "--json", "-"
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == ""  # the packed file tells the shape
    large, small = json.loads(result.stdout)["models"]
    assert (large["name"], large["parameters"], large["macs"]) == ("linear", 8, 6)
    assert (small["name"], small["parameters"], small["macs"]) == ("small", 4, 3)
    (measured,) = json.loads(command("measure", "small.prunus", "--no-latency", "--json", "-").stdout)["models"]
    assert (measured["parameters"], measured["macs"]) == (4, 3)


def test_a_packed_model_tells_the_shape_of_its_inputs(command: Command, folder: Path) -> None:
    narrow = models.create("lenet", in_channels=3, image_size=32, widths=(4, 5, 6))
    prunus.save(narrow, "narrow.prunus", torch.zeros(1, 3, 32, 32))
    result = command("measure", "narrow.prunus", "--no-latency", "--json", "-")
    assert result.exit_code == 0, result.output
    (facts,) = json.loads(result.stdout)["models"]
    # by hand: 28 x 28 outputs of 75 weights, 10 x 10 of 100, 2 x 2 of 80, and 24 x 10 at the end
    assert facts["macs"] == 784 * 75 * 4 + 100 * 100 * 5 + 4 * 80 * 6 + 240


def test_a_packed_file_fills_the_model_it_is_given_to(command: Command, linear_file: Path) -> None:
    options = ["--weights", linear_file, "--model", "my_models:linear", "--shape", 3]
    assert command("pack", *options, "--out", "linear.prunus").exit_code == 0
    result = command("compare", "my_models:linear=linear.prunus", "--shape", 3, "--no-latency", "--json", "-")
    assert result.exit_code == 0, result.output
    (facts,) = json.loads(result.stdout)["models"]
    assert (facts["name"], facts["nonzero"]) == ("linear", 6)


BAD = [
    (["measure"], "there is no model; give a .prunus file, or --model with --weights"),
    (["measure", "linear.safetensors"], "--model MODEL --weights linear.safetensors"),
    (["measure", "lenet"], r"'lenet' is not named as a .prunus file is; did you mean --model lenet\?"),
    (["measure", "none.prunus"], "none.prunus"),
    (["measure", "none.prunus", "--model", "lenet"], "tells its model itself; leave out --model"),
    (["measure", "damaged.prunus"], "damaged.prunus"),
    (["compare", "lenet", "damaged.prunus"], "damaged.prunus"),
    (["compare", "damaged.prunus", "--arg", "a=1"], "--arg is for what makes a model"),
    (["measure", "--model", "lenett"], "unknown model 'lenett'; did you mean 'lenet'"),
    (["measure", "--model", "lenet", "--weights", "linear.safetensors"], "'linear.safetensors' does not fit LeNet"),
    (["measure", "--model", "my_models:linear", "--shape", "4"], "can't run a batch of 1.*cannot be multiplied"),
    (
        ["measure", "--model", "my_models:linear", "--shape", "3x2"],
        "--shape: it takes whole.*got '3x2'",
    ),
    (["measure", "--model", "my_models:linear", "--shape", ""], "--shape: it takes whole numbers.*got ''"),
    (["measure", "--model", "my_models:linear", "--shape", "0"], "--shape: it takes whole numbers"),
    (["measure", "--model", "my_models:linear", "--shape", "3", "--batch-sizes", "1,-4"], "--batch-sizes: it takes"),
    (["measure", "--model", "my_models:linear", "--shape", "3", "--threads", "two"], "--threads: it takes.*got 'two'"),
    (["measure", "--model", "lenet", "--device", "cpuu"], "device 'cpuu' can't be used here"),
    (["compare", "linear.safetensors"], "holds weights but not the model.*--model.*MODEL=linear.safetensors"),
    (["compare", "nothing.safetensors", "--model", "lenet"], "no file at 'nothing.safetensors'"),
    (["compare", "lenet=", "--model", "lenet"], "unknown model 'lenet='"),
    (["compare", ""], "unknown model ''"),
    (["compare", "[bold]", "lenet"], r"unknown model '\[bold\]'"),
    (
        ["compare", "linear.safetensors", "linear.safetensors", "--model", "lenet"],
        "the same is given twice: linear.saf",
    ),
    (["compare", "lenet", "lenet"], "the same is given twice: lenet, lenet"),
]


@pytest.mark.parametrize(
    ("arguments", "told"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_clear_line(command: Command, linear_file: Path, arguments: list[str], told: str) -> None:
    assert linear_file.exists()
    prunus.save(nn.Linear(3, 2), "damaged.prunus", example_inputs=torch.zeros(1, 3))
    whole = Path("damaged.prunus").read_bytes()
    Path("damaged.prunus").write_bytes(whole[:-3] + bytes(3))
    assert re.search(told, refused(command(*arguments)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_is_measured_where_it_is_sent(command: Command, linear_file: Path) -> None:
    options = ["--device", "cuda", "--shape", "3", "--weights", linear_file, "--json", "-"]
    result = command("measure", "--model", "my_models:linear", *options)
    assert result.exit_code == 0, result.output
    (facts,) = json.loads(result.stdout)["models"]
    assert (facts["nonzero"], facts["macs"]) == (6, 6)
    assert facts["latency_us"]["torch"]


def test_the_command_line_classifies_a_data_set(command: Command) -> None:
    torch.manual_seed(0)
    model = prunus.models.create("lenet")
    save_tensors("dense.safetensors", model.state_dict())
    prunus.prune(model, 0.9)
    save_tensors("pruned.safetensors", model.state_dict())
    words = ("compare", "dense.safetensors", "pruned.safetensors", "--model", "lenet", "--no-latency")
    result = command(*words, "--data", "digits")
    assert result.exit_code == 0, result.output
    assert "other answers [95%]" in result.stdout
    receipt = Receipt.from_json(command(*words, "--data", "digits", "--json", "-").stdout)
    (change,) = receipt.changes
    assert change.total == receipt.models[1].accuracy.total == len(prunus.data.load("digits").test)  # type: ignore[union-attr]
    assert 0 < change.flipped < change.total
    assert "unknown dataset 'digit'" in refused(command(*words, "--data", "digit"))
