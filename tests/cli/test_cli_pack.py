"""`prunus pack` and `prunus unpack`: the weights that come back, the table against the file, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import prunus
from command_line import Command, refused
from prunus.files import load_tensors
from prunus.packing.sizes import sizes


def test_a_packed_lenet_comes_back_to_the_bit_as_a_model_and_as_a_file(command: Command, lenet_file: Path) -> None:
    command("prune", "--weights", lenet_file, "--sparsity", 0.9, "--out", "sparse.safetensors")
    packed = command("pack", "--weights", "sparse.safetensors", "--model", "lenet", "--out", "lenet.prunus")
    assert packed.exit_code == 0, packed.output
    expected = load_tensors("sparse.safetensors")
    model = prunus.load("lenet.prunus")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    unpacked = command("unpack", "lenet.prunus", "--out", "back.safetensors")
    assert unpacked.exit_code == 0, unpacked.output
    back = load_tensors("back.safetensors")
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in expected.items())
    assert "8 tensors" in unpacked.stdout

    size, others = Path("lenet.prunus").stat().st_size, sizes(expected).bytes
    assert f"has {size:,} bytes" in packed.stdout
    assert f"{others['safetensors']:,} as safetensors" in packed.stdout
    assert f"{others['zstd']:,} through zstd -19" in packed.stdout
    rows = {line.split()[0]: line.split() for line in packed.stdout.splitlines() if re.search(r"\d$", line)}
    assert {name: row[-2] for name, row in rows.items() if name in expected} == {
        name: f"{int(tensor.count_nonzero()):,}" for name, tensor in expected.items()
    }
    told = sum(int(row[-1].replace(",", "")) for name, row in rows.items() if name in expected or name == "header")
    assert told == pytest.approx(size, abs=16)


def test_a_model_of_ones_own_is_traced_and_few_bits_make_it_smaller(command: Command, linear_file: Path) -> None:
    options = ["--weights", linear_file, "--model", "my_models:linear", "--shape", 3]
    assert command("pack", *options, "--out", "exact.prunus").exit_code == 0
    assert command("pack", *options, "--codebook-bits", 1, "--out", "bits.prunus").exit_code == 0
    model, shared = prunus.load("exact.prunus"), prunus.load("bits.prunus")
    expected = load_tensors(linear_file)
    inputs = torch.randn(5, 3)
    assert torch.allclose(model(inputs), inputs @ expected["weight"].T + expected["bias"], atol=1e-5)
    weight = shared.state_dict()["weight"]
    assert torch.equal(weight == 0, expected["weight"] == 0)
    assert len(weight.unique()) == 3


BAD = [
    (["--out", "my_models.py"], "'my_models.py' is there already; give another name, or --force"),
    (["--out", "."], "is a directory; give the name of a file in it"),
    (["--model", "my_models:linear"], "does not fit"),
    (
        ["--model", "my_models:linear", "--weights", "linear.safetensors"],
        "give the --shape of one for",
    ),
    (["--codebook-bits", 9], "bits must be a whole number from 1 to 8, got 9"),
    (["--weights", "none.safetensors"], "no file at 'none.safetensors'"),
    (["--shape", "x"], "--shape: it takes whole numbers"),
]


@pytest.mark.parametrize(("options", "told"), BAD, ids=range(len(BAD)))
def test_a_mistake_is_one_clear_line_and_writes_nothing(
    command: Command, lenet_file: Path, linear_file: Path, folder: Path, options: list[object], told: str
) -> None:
    before = sorted(folder.iterdir())
    defaults = ["--weights", lenet_file, "--model", "lenet", "--out", "lenet.prunus"]
    assert told in refused(command("pack", *defaults, *options))
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_unpack_refuses_what_is_no_packed_file_and_replaces_only_by_force(command: Command, lenet_file: Path) -> None:
    assert "a safetensors file" in refused(command("unpack", lenet_file, "--out", "out.safetensors"))
    assert "expected a .prunus file" in refused(command("unpack", "none", "--out", "out.safetensors"))
    assert not Path("out.safetensors").exists()
    command("pack", "--weights", lenet_file, "--model", "lenet", "--out", "lenet.prunus")
    Path("out.safetensors").write_text("mine")
    assert "there already" in refused(command("unpack", "lenet.prunus", "--out", "out.safetensors"))
    assert "give max_bytes" in refused(command("unpack", "lenet.prunus", "--max-bytes", 9, "--out", "o.safetensors"))
    assert Path("out.safetensors").read_text() == "mine"
    assert command("unpack", "lenet.prunus", "--out", "out.safetensors", "--force").exit_code == 0
    assert len(load_tensors("out.safetensors")) == 8
