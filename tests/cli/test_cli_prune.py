"""`prunus prune`: the file it writes against torch and against Python's own interface, and what it refuses."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import prunus
from command_line import Command, refused
from prunus.files import load_tensors, save_tensors
from prunus.lab import models
from prunus.lab.run_folder import made_from_of, restore, store
from prunus.pruning import Channels, Global, Random

LAYERS = ("conv1", "conv2", "conv4", "fc")


def lenet_from(path: Path) -> nn.Module:
    model = models.create("lenet")
    model.load_state_dict(load_tensors(path))
    return model


@pytest.mark.parametrize("with_model", [True, False])
def test_twenty_percent_of_lenet_are_the_weights_that_torch_removes(
    command: Command, lenet_file: Path, with_model: bool
) -> None:
    theirs = lenet_from(lenet_file)
    parameters = [(getattr(theirs, name), "weight") for name in LAYERS]
    torch_prune.global_unstructured(parameters, pruning_method=torch_prune.L1Unstructured, amount=0.2)
    model = ["--model", "lenet"] if with_model else []
    result = command("prune", *model, "--weights", lenet_file, "--sparsity", 0.2, "--out", "out.safetensors")
    assert result.exit_code == 0, result.output
    ours = load_tensors(Path("out.safetensors"))
    assert {name: tensor.dtype for name, tensor in ours.items()} == {
        name: tensor.dtype for name, tensor in load_tensors(lenet_file).items()
    }
    for name in LAYERS:
        assert torch.equal(ours[f"{name}.weight"], getattr(theirs, name).weight)
        assert torch.equal(ours[f"{name}.bias"], getattr(theirs, name).bias)
    assert sum(int(tensor.count_nonzero()) for tensor in ours.values()) == 128_214


def test_the_table_tells_each_layers_zeros_and_the_words_that_nothing_got_smaller(
    command: Command, lenet_file: Path
) -> None:
    result = command("prune", "--weights", lenet_file, "--sparsity", 0.2, "--out", "out.safetensors")
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if ".weight" in line}
    written = load_tensors(Path("out.safetensors"))
    assert rows.keys() == {f"{name}.weight" for name in LAYERS}
    for name, (_, shape, weights, pruned, _) in rows.items():
        zeros = int((written[name] == 0).sum())
        assert shape == "x".join(map(str, written[name].shape))
        assert (weights, pruned) == (f"{written[name].numel():,}", f"{zeros:,}")
    assert re.search(r"all of them +159,960 +31,992 +20\.0%", result.stdout)
    size = f"{lenet_file.stat().st_size:,}"
    assert f"'out.safetensors' has {size} bytes" in result.stdout
    assert f"'{lenet_file}' had {size}" in result.stdout
    assert "neither smaller nor faster" in result.stdout


AS_IN_PYTHON = [
    ("--criterion lamp --sparsity 0.7", {"criterion": "lamp", "sparsity": 0.7}),
    ("--criterion random:seed=5 --sparsity 0.3", {"criterion": Random(5), "sparsity": 0.3}),
    ("--scope erk --sparsity 0.9", {"scope": "erk", "sparsity": 0.9}),
    ("--pattern block-2x5 --sparsity 0.5", {"pattern": "block-2x5", "sparsity": 0.5}),
    ("--pattern inputs-4:depthwise=columns --sparsity 0.5", {"pattern": "inputs-4", "sparsity": 0.5}),
    (
        "--pattern 2:4 --sparsity 0.5 --include conv2 --include fc* --exclude fc",
        {"pattern": "2:4", "sparsity": 0.5, "include": ["conv2", "fc*"], "exclude": ["fc"]},
    ),
    (
        "--scope global:min_kept=0 --include fc --sparsity 0.9999",
        {"scope": Global(0), "include": "fc", "sparsity": 0.9999},
    ),
]


@pytest.mark.parametrize(("options", "arguments"), AS_IN_PYTHON)
def test_options_do_what_python_does(
    command: Command, lenet_file: Path, options: str, arguments: dict[str, Any]
) -> None:
    model = lenet_from(lenet_file)
    masks = prunus.prune(model, **arguments)
    files = ["--out", "out.safetensors", "--masks", "masks.safetensors"]
    result = command("prune", "--model", "lenet", "--weights", lenet_file, *files, *options.split())
    assert result.exit_code == 0, result.output
    assert prunus.Masks.load("masks.safetensors") == masks
    written = load_tensors(Path("out.safetensors"))
    assert all(torch.equal(written[name], tensor) for name, tensor in model.state_dict().items())
    assert "Masks.load('masks.safetensors').apply(model)" in result.stdout


def test_a_factory_of_ones_own_with_arguments_leaves_embeddings_alone_and_a_bare_file_does_not(
    command: Command, folder: Path
) -> None:
    weights = {"0.weight": torch.full((8, 4), 0.1), "1.weight": torch.randn(8, 4) + 9, "1.bias": torch.randn(8)}
    weights |= {"2.weight": torch.ones(8), "2.bias": torch.zeros(8)}
    save_tensors(folder / "in.safetensors", weights)
    options = ["--weights", "in.safetensors", "--sparsity", 0.5]
    assert command("prune", "--model", "my_models:two_layers", *options, "--out", "a.safetensors").exit_code == 0
    assert command("prune", *options, "--out", "b.safetensors").exit_code == 0
    with_model, bare = load_tensors(folder / "a.safetensors"), load_tensors(folder / "b.safetensors")
    zeros = {name: [int((t[name] == 0).sum()) for t in (with_model, bare)] for name in ("0.weight", "1.weight")}
    assert zeros == {"0.weight": [0, 31], "1.weight": [16, 1]}  # 31: every layer keeps one
    assert all(torch.equal(bare[name], weights[name]) for name in ("1.bias", "2.weight", "2.bias"))


def test_a_file_keeps_its_dtypes_its_header_and_its_tied_names(command: Command, folder: Path) -> None:
    weight = torch.randn(4, 4).bfloat16()
    tensors = {"first.weight": weight, "second.weight": weight.clone()}
    header = {"format": "pt", "author": "[bold]me[/]"}
    safetensors.torch.save_file(tensors, folder / "in.safetensors", header)
    result = command(
        "prune",
        "--model",
        "my_models:Tied",
        "--weights",
        "in.safetensors",
        "--sparsity",
        0.25,
        "--out",
        "o.safetensors",
    )
    assert result.exit_code == 0, result.output
    written = load_tensors(folder / "o.safetensors")
    smallest = weight.float().abs().flatten().argsort(stable=True)[:4]
    expected = weight.flatten().index_fill(0, smallest, 0).view(4, 4)
    for name in tensors:
        assert written[name].dtype == torch.bfloat16
        assert torch.equal(written[name], expected)
    with safetensors.safe_open(folder / "o.safetensors", framework="pt") as file:
        assert file.metadata() == header


def test_what_a_run_wrote_is_not_taken_for_the_runs_own_when_it_was_pruned(command: Command, folder: Path) -> None:
    layer = nn.Linear(4, 4)
    store(folder / "dense.safetensors", layer, made_from="a recipe")
    assert restore(folder / "dense.safetensors", layer, made_from="a recipe")
    options = ["--sparsity", 0.5, "--out", "dense.safetensors", "--force"]
    result = command("prune", "--weights", "dense.safetensors", *options)
    assert result.exit_code == 0, result.output
    assert made_from_of(folder / "dense.safetensors") is None
    assert not restore(folder / "dense.safetensors", layer, made_from="a recipe")


def test_a_checkpoint_of_torchs_pruning_becomes_plain(command: Command, folder: Path) -> None:
    layer = nn.Linear(10, 10)
    torch_prune.l1_unstructured(layer, "weight", amount=30)
    save_tensors(folder / "in.safetensors", layer.state_dict())
    result = command("prune", "--weights", "in.safetensors", "--sparsity", 0.5, "--out", "out.safetensors")
    assert result.exit_code == 0, result.output
    assert "held 1 mask of torch.nn.utils.prune" in result.stdout
    written = load_tensors(folder / "out.safetensors")
    assert written.keys() == {"weight", "bias"}
    smallest = layer.weight_orig.detach().abs().flatten().argsort()[:50]
    assert set((written["weight"].flatten() == 0).nonzero().flatten().tolist()) == set(smallest.tolist())


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ("--sparsity 0.5", {"sparsity": 0.5}),
        (
            "--sparsity 0.3 --pattern channel:budget=macs --exclude conv4",
            {"sparsity": 0.3, "pattern": Channels(budget="macs"), "exclude": ["conv4"]},
        ),
        ("--sparsity 0.475 --pattern channel:round_to=4", {"sparsity": 0.475, "pattern": Channels(round_to=4)}),
    ],
)
def test_whole_channels_go_as_in_python_and_the_next_command_is_named(
    command: Command, lenet_file: Path, options: str, arguments: dict[str, Any]
) -> None:
    model = lenet_from(lenet_file)
    arguments = {"pattern": "channel", **arguments}
    masks = prunus.prune(model, example_inputs=torch.zeros(1, 1, 28, 28), **arguments)
    files = ["--weights", lenet_file, "--out", "out.safetensors", "--masks", "masks.safetensors"]
    result = command("prune", "--model", "lenet", "--pattern", "channel", *files, *options.split())
    assert result.exit_code == 0, result.output
    assert prunus.Masks.load("masks.safetensors") == masks
    written = load_tensors(Path("out.safetensors"))
    assert all(torch.equal(written[name], tensor) for name, tensor in model.state_dict().items())
    assert re.search(rf"^all of them +160,206 +{masks.num_pruned:,} ", result.stdout, re.MULTILINE)
    assert result.stdout.count("bias") == 1  # all of them in one row
    assert "neither smaller nor faster" in result.stdout
    assert "prunus shrink --model lenet --weights out.safetensors --out out.prunus" in result.stdout
    assert ("that of the multiply-adds" in result.stdout) == ("macs" in options)


def test_the_next_command_repeats_what_made_the_model(command: Command, holey_file: Path) -> None:
    made = ["--model", "my_models:two_linear", "--arg", "width=4", "--shape", 3]
    options = ["--weights", holey_file, "--pattern", "channel", "--sparsity", 0.5, "--out", "a b.safetensors"]
    result = command("prune", *made, *options)
    assert result.exit_code == 0, result.output
    said = "prunus shrink --model my_models:two_linear --arg width=4 --shape 3 --weights 'a b.safetensors'"
    assert f"{said} --out 'a b.prunus'" in result.stdout
    written = load_tensors(Path("a b.safetensors"))
    assert (written["0.weight"] == 0).all(1).tolist() == [False, True, True, False]  # those that nothing takes


def test_nothing_is_overwritten_unless_forced(command: Command, lenet_file: Path, folder: Path) -> None:
    before = lenet_file.read_bytes()
    (folder / "masks").write_text("mine")
    options = ["prune", "--weights", lenet_file, "--sparsity", 0.2]
    assert refused(command(*options, "--out", lenet_file)) == (
        f"'{lenet_file}' is there already; give another name, or --force to replace it"
    )
    assert "'masks' is there already" in refused(command(*options, "--out", "new.safetensors", "--masks", "masks"))
    assert lenet_file.read_bytes() == before
    assert not (folder / "new.safetensors").exists()
    result = command(*options, "--out", lenet_file, "--force")
    assert result.exit_code == 0, result.output
    assert sum(int(tensor.count_nonzero()) for tensor in load_tensors(lenet_file).values()) == 128_214
    assert f"had {len(before):,}" in result.stdout


BAD = [
    (["--sparsity", 20], r"sparsity must be in \[0, 1\), got 20; did you mean 0.2\?"),
    (["--sparsity", "nan"], "sparsity must be in"),
    (["--criterion", "magnitud"], "unknown criterion 'magnitud'; did you mean 'magnitude'"),
    (["--criterion", "gradient"], r"'gradient' needs data.*prune in Python: prunus.prune\(model"),
    (["--criterion", "activation"], "'activation' needs data"),
    (["--pattern", "2:4"], "2:4 removes exactly 0.5"),
    (["--scope", ""], "unknown scope ''"),
    (["--exclude", "conv9"], "'conv9'; did you mean 'conv4'"),
    (["--include", "fc.bias", "--pattern", "block"], "needs two dimensions or more"),
    (["--scope", "global:min_kept=-1"], "min_kept must be at least 0, got -1"),
    (["--weights", "nothing.safetensors"], "no file at 'nothing.safetensors'"),
    (["--weights", ""], "directory"),
    (["--weights", "my_models.py"], "'my_models.py' is not a readable safetensors file"),
    (["--out", "."], r"'\.' is a directory"),
    (["--out", "my_models.py/out.safetensors"], "Not a directory|File exists"),
    (["--masks", "out.safetensors"], "two results would go to the same file, 'out.safetensors'"),
    (["--arg", "a=1"], "there is no --model"),
    (["--pattern", "channel"], "say which model it is of with --model"),
    (["--pattern", "channel", "--model", "my_models:two_linear", "--weights", "holey.safetensors"], "give the --shape"),
    (["--pattern", "channel", "--model", "lenet", "--shape", "1,9"], "can't run the example inputs"),
    (["--pattern", "channel", "--model", "lenet", "--sparsity", "90"], "sparsity must be in .* did you mean 0.9"),
    (
        ["--pattern", "channel", "--model", "lenet", "--sparsity", "0.99", "--scope", "global:min_kept=15"],
        "can't be reached by whole channels",
    ),
    (["--pattern", "channel:budget=bytes", "--model", "lenet"], "budget must be 'parameters' or 'macs'"),
    (["--pattern", "channel:round_to=0", "--model", "lenet"], "round_to must be at least 1, got 0"),
    (["--pattern", "block:budget=macs"], "unknown option of pattern 'block': 'budget'"),
    (["--model", "lenet", "--shape", "1,28,28"], "--shape and --input are for --pattern channel"),
    (["--model", "lenet5"], "does not fit LeNet5: it lacks"),
    (["--model", "lenett"], "unknown model 'lenett'; did you mean 'lenet'"),
    (["--model", "lenet", "--arg", "classes"], "argument 'classes' is not of the form key=value"),
    (["--model", "lenet", "--arg", "num_classes=x"], "num_classes must be a whole number"),
    (["--model", "my_models:fails"], r"my_models:fails\(\) failed: KeyError: 'no \[bold\]such\[/\] thing'"),
    (["--model", "my_models:linar"], "did you mean 'linear'"),
]


@pytest.mark.parametrize(
    ("options", "told"), BAD, ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_clear_line_and_writes_nothing(
    command: Command, lenet_file: Path, holey_file: Path, folder: Path, options: list[object], told: str
) -> None:
    before = sorted(folder.iterdir())
    defaults = ["--weights", lenet_file, "--sparsity", 0.2, "--out", "out.safetensors"]
    assert re.search(told, refused(command("prune", *defaults, *options)))
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.parametrize(
    "name", ["with space", "[bold]x", "[/]", "[/red]", "ünï-重み", "a'b\"c", "new\nline", "\x1b[31mred"]
)
def test_odd_names_are_names(command: Command, linear_file: Path, folder: Path, name: str) -> None:
    odd = folder / name
    odd.mkdir(parents=True)
    target = odd / f"{odd.name}.safetensors"
    linear_file.rename(target)
    result = command("prune", "--weights", target, "--sparsity", 0.5, "--out", odd / "out", "--masks", odd / "masks")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert load_tensors(odd / "out")["weight"].tolist() == [[0.0, 0.0, 3.0], [0.0, 5.0, 6.0]]
    message = refused(command("prune", "--weights", target, "--sparsity", 2, "--out", odd))
    assert message == f"{str(odd)!r} is a directory; give the name of a file in it"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read and write everything")
def test_files_that_can_not_be_read_or_written_are_named(command: Command, linear_file: Path, folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o500)
    options = ["prune", "--weights", linear_file, "--sparsity", 0.5]
    assert "closed" in refused(command(*options, "--out", closed / "out.safetensors"))
    linear_file.chmod(0)
    result = command(*options, "--out", "out.safetensors")
    assert result.exit_code == 2
    assert f"'{linear_file}' is not readable" in result.stderr


def test_layers_can_have_sparsities_of_their_own(command: Command, lenet_file: Path) -> None:
    words = ("prune", "--model", "lenet", "--weights", lenet_file, "--out", "out.safetensors")
    result = command(*words, "--sparsity", "conv1=0,fc*=0.95,conv2=.5")
    assert result.exit_code == 0, result.output
    expected = lenet_from(lenet_file)
    masks = prunus.prune(expected, {"conv1": 0, "fc*": 0.95, "conv2": 0.5})
    assert list(masks) == ["conv2.weight", "fc.weight"]
    written = load_tensors(Path("out.safetensors"))
    assert all(torch.equal(written[name], value) for name, value in expected.state_dict().items())
    for wrong in ("conv1=", "conv1=a", "=0.5", "conv1=0.5,0.5", "conv1=0.5,conv1=0.6", "much"):
        assert "LAYER=S" in refused(command(*words, "--force", "--sparsity", wrong))


def test_a_target_says_what_may_be_left(command: Command, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_tensors("dense.safetensors", prunus.models.create("lenet").state_dict())
    words = ("prune", "--weights", "dense.safetensors", "--out", "small.safetensors", "--sparsity", "60 kB")
    result = command(*words, "--model", "lenet")
    assert result.exit_code == 0, result.output
    result = command("pack", "--model", "lenet", "--weights", "small.safetensors", "--out", "small.prunus")
    assert result.exit_code == 0, result.output
    assert 58_800 <= Path("small.prunus").stat().st_size <= 60_000
    assert "needs the model; name it with --model" in refused(command(*words, "--force"))
    assert "neither a number" in refused(command(*words[:-1], "60 horses", "--model", "lenet", "--force"))
