"""`prunus shrink`: the smaller model against the pruned one, what is said of it, and what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

import prunus
from command_line import Command, refused
from prunus.files import load_tensors, save_tensors
from prunus.lab import models
from prunus.pruning.masks import Masks

OWN = ["--model", "my_models:two_linear", "--shape", 3]


def test_the_whole_way_from_weights_to_a_smaller_model(command: Command, lenet_file: Path) -> None:
    """What `prune` says to do next is what is done here."""
    options = ["--model", "lenet", "--weights", lenet_file, "--sparsity", 0.5, "--pattern", "channel"]
    pruned = command("prune", *options, "--out", "pruned.safetensors")
    (said,) = re.findall(r": prunus (shrink .+)$", pruned.stdout, re.MULTILINE)
    result = command(*said.split())
    assert result.exit_code == 0, result.output
    before = models.create("lenet").eval()
    before.load_state_dict(load_tensors("pruned.safetensors"))
    after = prunus.load("pruned.prunus")
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(after(x), before(x), atol=1e-5)
    left = sum(parameter.numel() for parameter in after.parameters())
    assert 0.45 < left / 160_206 < 0.55
    assert f"The model has {left:,} parameters in the place of 160,206 ({left / 160_206:.1%})" in result.stdout
    size, old = Path("pruned.prunus").stat().st_size, Path("pruned.safetensors").stat().st_size
    assert f"'pruned.prunus' has {size:,} bytes, 'pruned.safetensors' has {old:,}." in result.stdout
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if ".weight" in line}
    for name, (shape, new_shape, numel, new_numel) in rows.items():
        old_weight, new_weight = before.get_parameter(name), after.get_parameter(name)
        assert (shape, new_shape) == tuple("x".join(map(str, w.shape)) for w in (old_weight, new_weight))
        assert (numel, new_numel) == (f"{old_weight.numel():,}", f"{new_weight.numel():,}")


def test_plain_weights_and_the_sums_by_hand(command: Command, holey_file: Path) -> None:
    result = command("shrink", *OWN, "--weights", holey_file, "--out", "small.safetensors")
    assert result.exit_code == 0, result.output
    before, after = load_tensors(holey_file), load_tensors("small.safetensors")
    stays = [0, 3]
    assert torch.equal(after["0.weight"], before["0.weight"][stays])
    assert torch.equal(after["0.bias"], before["0.bias"][stays])
    assert torch.equal(after["2.weight"], before["2.weight"][:, stays])
    assert re.search(r"^0\.weight +4x3 +2x3 +12 +6$", result.stdout, re.MULTILINE)
    assert re.search(r"^2\.weight +2x4 +2x2 +8 +4$", result.stdout, re.MULTILINE)
    assert re.search(r"^biases and norms +6 +4$", result.stdout, re.MULTILINE)
    assert re.search(r"^all of them +26 +14$", result.stdout, re.MULTILINE)
    assert "they don't fit the model as its code makes it" in result.stdout


def test_masks_are_applied_before(command: Command, holey_file: Path) -> None:
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[:, :3] = False
    Masks({"2.weight": mask}).save("masks.safetensors")
    options = [*OWN, "--weights", holey_file, "--masks", "masks.safetensors"]
    assert command("shrink", *options, "--out", "small.safetensors").exit_code == 0
    assert load_tensors("small.safetensors")["0.weight"].tolist() == load_tensors(holey_file)["0.weight"][3:].tolist()


@pytest.mark.parametrize(("sparsity", "why"), [(None, "no weight is zero"), (0.5, r"the 79,980 zeros stay: a channel")])
def test_when_nothing_can_go_it_says_why(command: Command, lenet_file: Path, sparsity: float | None, why: str) -> None:
    weights = lenet_file
    if sparsity is not None:
        command("prune", "--weights", lenet_file, "--sparsity", sparsity, "--out", "sparse.safetensors")
        weights = Path("sparse.safetensors")
    result = command("shrink", "--model", "lenet", "--weights", weights, "--out", "same.safetensors")
    assert result.exit_code == 0, result.output
    assert re.search(rf"Nothing could be removed.*{why}", result.stdout)
    assert "Checked: the outputs of 64" in result.stdout, "no operation was compared: it is a copy"
    expected = load_tensors(weights)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_tensors("same.safetensors").items())


def test_a_model_with_a_size_in_its_code_becomes_a_graph_and_says_so(command: Command, folder: Path) -> None:
    options = ["--model", "my_models:HardCoded", "--shape", 3]
    weights = {"first.weight": torch.randn(4, 3), "first.bias": torch.randn(4), "last.bias": torch.randn(2)}
    weights["last.weight"] = torch.tensor([[1.0, 0.0, 2.0, 0.0], [3.0, 0.0, 4.0, 0.0]])
    save_tensors("in.safetensors", weights)
    result = command("shrink", *options, "--weights", "in.safetensors", "--out", "small.prunus")
    assert result.exit_code == 0, result.output
    assert "kept as its graph, not in its own class: the forward of HardCoded hard-codes a size" in result.stdout
    before = sys.modules["my_models"].HardCoded()
    before.load_state_dict(weights)
    small = prunus.load("small.prunus")
    x = torch.randn(5, 3)
    assert torch.allclose(small(x), before(x), atol=1e-5)
    assert sum(parameter.numel() for parameter in small.parameters()) == 2 * 3 + 2 + 2 * 2 + 2


BAD = [
    (["--out", "small.onnx"], "--out must end in .prunus or .safetensors"),
    (["--out", "mine.prunus"], "'mine.prunus' is there already; give another name, or --force"),
    (["--weights", "none.safetensors"], "no file at 'none.safetensors'"),
    (["--weights", "mine.prunus"], "mine.prunus"),
    (["--masks", "none.safetensors"], "none.safetensors"),
    (["--shape", 4], r"can't run the example inputs"),
    (["--shape", "3x3"], "--shape: it takes whole numbers"),
    (["--model", "lenet"], "does not fit LeNet"),
    (["--arg", "width=8"], r"'0.weight' has shape \[4, 3\] in the file, \[8, 3\] in the model"),
    (["--arg", "width"], "is not of the form key=value"),
]


@pytest.mark.parametrize(("options", "told"), BAD, ids=range(len(BAD)))
def test_a_mistake_is_one_clear_line_and_writes_nothing(
    command: Command, holey_file: Path, folder: Path, options: list[object], told: str
) -> None:
    (folder / "mine.prunus").write_text("mine")
    before = sorted(folder.iterdir())
    defaults = [*OWN, "--weights", holey_file, "--out", "small.prunus"]
    assert re.search(told, refused(command("shrink", *defaults, *options)))
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before
    assert (folder / "mine.prunus").read_text() == "mine"


def test_the_shape_of_a_model_of_ones_own_is_asked_for(command: Command, holey_file: Path) -> None:
    options = ["--model", "my_models:two_linear", "--weights", holey_file, "--out", "small.prunus"]
    assert "give the --shape of one for 'my_models:two_linear'" in refused(command("shrink", *options))


def test_a_file_is_replaced_by_force(command: Command, holey_file: Path) -> None:
    options = ["shrink", *OWN, "--weights", holey_file, "--out", holey_file]
    assert "is there already" in refused(command(*options))
    assert command(*options, "--force").exit_code == 0
    assert load_tensors(holey_file)["0.weight"].shape == (2, 3)
