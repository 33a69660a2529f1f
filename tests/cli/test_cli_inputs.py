"""What the command line says of a model's inputs: shapes, types, several of them, and what files know themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from command_line import Command, refused
from prunus.cli import inputs

NETS = """
import torch
from torch import nn

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.linear = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, tokens, mask):
        return self.linear((self.table(tokens) * mask[..., None]).mean(1))

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.linear = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.linear(self.table(tokens).mean(1)).relu()

def conv():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""


@pytest.fixture(autouse=True)
def nets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside `my_models`, a module `nets` of models that take integers, or several inputs."""
    (folder / "nets.py").write_text(NETS)
    monkeypatch.delitem(__import__("sys").modules, "nets", raising=False)


def figures(command: Command, *words: object) -> dict[str, object]:
    result = command("measure", *words, "--no-latency", "--json", "-")
    assert result.exit_code == 0, result.output
    (facts,) = json.loads(result.stdout)["models"]
    return facts


@pytest.mark.parametrize(
    "described", [("int64:6", "bool:6"), ("tokens=int64:6", "mask=bool:6"), ("mask=float32:6", "tokens=int32:6")]
)
def test_several_inputs_are_described_one_by_one_in_order_or_by_name(command: Command, described: list[str]) -> None:
    """One linear layer after the mean over the six tokens: 4 x 3 multiply-adds."""
    options = [word for text in described for word in ("--input", text)]
    assert figures(command, "--model", "nets:Masked", *options)["macs"] == 12


def test_a_file_knows_its_integers_and_its_several_inputs(command: Command) -> None:
    options = ["--model", "nets:Masked", "--input", "int64:6", "--input", "bool:6"]
    assert command("pack", *options, "--out", "masked.prunus").exit_code == 0
    assert figures(command, "masked.prunus")["macs"] == 12
    explained = command("explain", "masked.prunus")
    assert explained.exit_code == 0, explained.output
    assert explained.stdout == command("explain", *options).stdout


def test_a_graph_in_a_file_is_explained_shrunk_compiled_and_packed_again_without_a_shape(command: Command) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight[:, 1:3] = 0
    prunus.save(model, "graph.prunus", torch.zeros(1, 3))
    for words in (
        ["explain", "graph.prunus"],
        ["shrink", "graph.prunus", "--out", "small.prunus"],
        ["compile", "small.prunus", "--batch-size", "2", "--cores", "1", "--no-dense", "--out", "small.program"],
        ["pack", "small.prunus", "--codebook-bits", "1", "--out", "bits.prunus"],
    ):
        result = command(*words)
        assert result.exit_code == 0, result.output
    example = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    expected = model(example)
    small = prunus.load("small.prunus")
    assert sum(parameter.numel() for parameter in small.parameters()) == 2 * 3 + 2 + 2 * 2 + 2
    for program in (small, prunus.load("small.program")):
        assert torch.allclose(program(example), expected, atol=1e-5)
    weights = prunus.load("bits.prunus").state_dict()
    assert {name: len(tensor.unique()) for name, tensor in weights.items() if tensor.ndim > 1} == {
        "0.weight": 2,
        "2.weight": 2,
    }


def test_the_next_command_repeats_the_inputs(command: Command, folder: Path) -> None:
    model = ["--model", "nets:Tokens", "--input", "int64:6"]
    assert command("pack", *model, "--out", "tokens.prunus").exit_code == 0
    assert command("unpack", "tokens.prunus", "--out", "tokens.safetensors").exit_code == 0
    options = ["--weights", "tokens.safetensors", "--pattern", "channel", "--sparsity", "0.25", "--include", "table"]
    result = command("prune", *model, *options, "--out", "pruned.safetensors")
    assert result.exit_code == 0, result.output
    assert "prunus shrink --model nets:Tokens --input int64:6 --weights pruned.safetensors" in result.stdout


BAD = [
    (["--shape", "1,3,8,8"], "without the batch: the model takes --shape 3,8,8, not 1,3,8,8"),
    (["--shape", "64,3,8,8"], "the model takes --shape 3,8,8, not 64,3,8,8"),
    (["--shape", "4,8,8"], "can't run the example inputs"),
    (["--model", "nets:Tokens", "--shape", "6"], "the model takes integers: give --input int64:6"),
    (["--shape", "3,8,8", "--input", "3,8,8"], "--shape and --input both describe the inputs"),
    (["--input", "3x8x8"], "--input takes [NAME=][TYPE:]SHAPE, such as 3,224,224 or int64:128"),
    (["--input", ""], "--input takes [NAME=][TYPE:]SHAPE"),
    (["--input", "a="], "--input takes [NAME=][TYPE:]SHAPE"),
    (["--input", "int46:8"], "unknown type of --input 'int46'; did you mean 'int64'?"),
    (["--input", "a=3", "--input", "3"], "give each --input a name of its own, or none of them a name"),
    (["--input", "a=3", "--input", "a=4"], "give each --input a name of its own"),
    (["--input", "y=3,8,8"], "y"),
]


@pytest.mark.parametrize(
    ("options", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_clear_line(command: Command, options: list[str], message: str) -> None:
    assert message in refused(command("explain", "--model", "nets:conv", *options))


def test_names_that_are_not_the_first_arguments_can_not_be_timed(command: Command) -> None:
    message = refused(command("measure", "--model", "nets:Masked", "--input", "tokens=int64:6"))
    assert "1, made from example_inputs" in message
    message = refused(command("measure", "--model", "nets:Masked", "--input", "mask=bool:6"))
    assert message == "a model is measured on its first arguments, tokens; --input names mask"


def test_inputs_have_the_types_and_shapes_that_are_described() -> None:
    example = inputs.described(["a=2,3", "b=uint8:4", "c=int64", "d=float16:1"], nn.Linear(1, 1).double())
    assert isinstance(example, dict)
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in example.items()} == {
        "a": ((1, 2, 3), torch.float64),
        "b": ((1, 4), torch.uint8),
        "c": ((1,), torch.int64),
        "d": ((1, 1), torch.float16),
    }
    assert {*inputs.described(["int64:999"], nn.Linear(1, 1))[0].flatten().tolist()} == {0, 1}
