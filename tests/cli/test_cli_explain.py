"""`prunus explain`: what it says of layers whose channels are counted by hand, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import prunus
from command_line import Command, Result, refused
from prunus.files import load_tensors
from prunus.pruning.masks import Masks

INPUT = "protected: it comes from no layer, such as the model's input"
OUTPUT = "protected: it is an output of the model"


def told(result: Result) -> dict[str, tuple[str, ...]]:
    """Return layer -> all, gone, stay and why, as the table has them."""
    assert result.exit_code == 0, result.output
    found = re.findall(r"^(.+?)  +\w+ +\d+ +(\d+) +(\d+) +(\d+)  (.+)$", result.stdout, re.MULTILINE)
    return {name: tuple(rest) for name, *rest in found}


OWN = ["--model", "my_models:two_linear", "--shape", 3]


def test_zeros_are_counted_as_what_shrinking_removes(command: Command, holey_file: Path) -> None:
    """Two of four neurons go: for each 3 weights and a bias before it, 2 weights behind; 12 of 26 in all."""
    result = command("explain", *OWN, "--weights", holey_file)
    assert told(result) == {
        "input of 0": ("3", "0", "3", INPUT),
        "0": ("4", "2", "2", "free"),
        "2": ("2", "0", "2", OUTPUT),
    }
    assert "Of 26 parameters 12 (46.2%) go when the model is shrunk, and 14 stay." in result.stdout


def test_masks_are_taken_in_the_place_of_zeros(command: Command, folder: Path) -> None:
    keep = torch.tensor([True, False, True, True])
    Masks({"0.weight": keep[:, None].expand(4, 3).clone(), "0.bias": keep}).save("masks.safetensors")
    assert told(command("explain", *OWN, "--masks", "masks.safetensors"))["0"][:3] == ("4", "1", "3")
    assert told(command("explain", *OWN))["0"][:3] == ("4", "0", "4")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--exclude", "0"], "protected: it is excluded"),
        (["--include", "2"], "protected: it is not included"),
        (["--pattern", "channel:round_to=2"], "free, rounded to a multiple of 2"),
        (["--pattern", "channel:round_to=8"], "stays whole: fewer than the multiple of 8 that has to stay"),
        (["--scope", "global:min_kept=2"], "down to the 2 that each layer keeps"),
        (["--arg", "width=1"], "protected: it is the only channel of its layer"),
    ],
)
def test_why_channels_stay_is_told(command: Command, holey_file: Path, options: list[object], why: str) -> None:
    weights = [] if "--arg" in options else ["--weights", holey_file]
    assert told(command("explain", *OWN, *weights, *options))["0"][3] == why


def test_a_model_in_which_nothing_can_go_is_explained(command: Command, folder: Path) -> None:
    result = command("explain", "--model", "my_models:Normed", "--shape", 3)
    assert {name: row[1] for name, row in told(result).items()} == {"input of first": "0", "first": "0", "last": "0"}
    assert told(result)["first"][3] == "protected: layer_norm normalises over it"
    assert "Of 34 parameters 0 go" in result.stdout


def test_coupled_layers_name_each_other(command: Command) -> None:
    rows = told(command("explain", "--model", "resnet20"))
    assert rows["stage1.0.conv1"][3] == "free"
    assert rows["stage1.0.conv2"][3] == "free; coupled with conv, stage1.1.conv2, stage1.2.conv2 and 6 more"
    assert rows["fc"] == ("10", "0", "10", OUTPUT)


def test_a_packed_file_tells_its_model_and_its_shape(command: Command, holey_file: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    model.load_state_dict(load_tensors(holey_file))
    prunus.save(model, "m.prunus", example_inputs=torch.zeros(1, 3))
    assert told(command("explain", "m.prunus")) == told(command("explain", *OWN, "--weights", holey_file))


BAD = [
    ([], "there is no model; give a .prunus file, or --model with --weights"),
    (["--model", "my_models:two_linear"], "give the --shape of one for 'my_models:two_linear'"),
    ([*OWN[:3], 4], r"can't run the example inputs \(\(1, 4\)\)"),
    ([*OWN, "--weights", "none.safetensors"], "no file at 'none.safetensors'"),
    ([*OWN, "--masks", "none.safetensors"], "none.safetensors"),
    ([*OWN, "--masks", "holey.safetensors"], "'holey.safetensors' does not hold masks"),
    ([*OWN, "--exclude", "1x"], "'1x'"),
    ([*OWN, "--pattern", "channel:round_to=0"], "round_to must be at least 1, got 0"),
    (["none.prunus"], "none.prunus"),
    (["damaged.prunus"], "damaged.prunus"),
    (["holey.safetensors"], "--model MODEL --weights holey.safetensors"),
    (["damaged.prunus", "--model", "lenet"], "leave out --model"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=range(len(BAD)))
def test_a_mistake_is_one_clear_line(
    command: Command, holey_file: Path, options: list[object], message: str, folder: Path
) -> None:
    model = torch.nn.Linear(3, 2)
    prunus.save(model, "damaged.prunus", example_inputs=torch.zeros(1, 3))
    whole = Path("damaged.prunus").read_bytes()
    Path("damaged.prunus").write_bytes(whole[:-3] + bytes(3))
    assert re.search(message, refused(command("explain", *options)))
