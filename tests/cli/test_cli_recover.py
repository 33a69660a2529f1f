"""`prunus recover`: the files it writes against Python's own interface, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from command_line import Command, refused
from prunus.files import load_tensors, save_tensors

MODEL = ("--model", "my_models:two_linear", "--arg", "width=12")


def samples() -> Tensor:
    """Return samples whose features are correlated."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(200, 3, generator=generator) @ torch.randn(3, 3, generator=generator)


@pytest.fixture
def dense(folder: Path, command: Command) -> nn.Module:
    """A net in dense.safetensors, its masks, what is left of it in pruned.safetensors, and samples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 2))
    save_tensors(folder / "dense.safetensors", model.state_dict())
    save_tensors(folder / "samples.safetensors", {"x": samples()})
    words = ("prune", *MODEL, "--weights", "dense.safetensors", "--sparsity", 0.6, "--out", "pruned.safetensors")
    result = command(*words, "--masks", "masks.safetensors")
    assert result.exit_code == 0, result.output
    return model


def recovered(dense: nn.Module, choose: bool = False) -> tuple[nn.Module, prunus.Recovery]:
    model = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 2))
    model.load_state_dict(dense.state_dict())
    masks = prunus.Masks.load("masks.safetensors")
    return model, prunus.recover(model, masks, list(samples()[:150].split(64)), choose=choose)


CALIBRATE = ("--calibrate", "samples.safetensors", "--samples", 150)


def test_the_weights_are_those_that_python_gives(command: Command, dense: nn.Module) -> None:
    words = ("recover", *MODEL, "--weights", "dense.safetensors", "--masks", "masks.safetensors", *CALIBRATE)
    result = command(*words, "--out", "out.safetensors")
    assert result.exit_code == 0, result.output
    model, expected = recovered(dense)
    written = load_tensors(Path("out.safetensors"))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(written[name], value)
    assert result.stdout.startswith(str(expected))
    assert "holds the recovered weights, with the zeros of 'masks.safetensors'" in result.stdout
    assert f"prunus pack {' '.join(MODEL)} --weights out.safetensors --out out.prunus" in result.stdout


def test_pruned_weights_need_the_dense_ones(command: Command, dense: nn.Module) -> None:
    words = ("recover", *MODEL, "--weights", "pruned.safetensors", "--masks", "masks.safetensors", *CALIBRATE)
    assert "the model is pruned already" in refused(command(*words, "--out", "out.safetensors"))
    assert not Path("out.safetensors").exists()
    result = command(*words, "--out", "out.safetensors", "--dense", "dense.safetensors")
    assert result.exit_code == 0, result.output
    model, _ = recovered(dense)
    torch.testing.assert_close(load_tensors(Path("out.safetensors"))["0.weight"], model.state_dict()["0.weight"])


def test_masks_that_are_chosen_go_into_a_file_of_their_own(command: Command, dense: nn.Module) -> None:
    words = ("recover", *MODEL, "--weights", "dense.safetensors", "--masks", "masks.safetensors", *CALIBRATE)
    choose = ("--choose", "unstructured", "--out", "out.safetensors")
    assert "give both or neither" in refused(command(*words, *choose))
    result = command(*words, *choose, "--new-masks", "new.safetensors")
    assert result.exit_code == 0, result.output
    model, expected = recovered(dense, choose=True)
    assert prunus.Masks.load("new.safetensors") == expected.masks
    expected.masks.check(model)
    torch.testing.assert_close(load_tensors(Path("out.safetensors"))["2.weight"], model.state_dict()["2.weight"])


def test_a_data_set_gives_samples(command: Command, lenet_file: Path) -> None:
    words = ("--model", "lenet", "--weights", lenet_file)
    command("prune", *words, "--sparsity", 0.8, "--out", "pruned.safetensors", "--masks", "masks.safetensors")
    more = ("--masks", "masks.safetensors", "--calibrate", "digits", "--samples", 40, "--out", "out.safetensors")
    result = command("recover", *words, *more)
    assert result.exit_code == 0, result.output
    model = prunus.models.create("lenet")
    model.load_state_dict(load_tensors(Path("out.safetensors")))
    prunus.Masks.load("masks.safetensors").check(model)


def _of_two_lengths() -> None:
    save_tensors(Path("samples.safetensors"), {"x": torch.ones(4, 3), "y": torch.ones(5, 3)})


def _of_other_shapes() -> None:
    save_tensors(Path("samples.safetensors"), {"x": torch.ones(4, 5)})


def _of_whole_numbers() -> None:
    save_tensors(Path("samples.safetensors"), {"x": torch.ones(40, 3, dtype=torch.uint8)})


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        (None, ("--calibrate", "nothing"), "a data set: digits, fashion-mnist, mnist, mnist-5k; got 'nothing'"),
        (None, ("--calibrate", "my_models.py"), "samples are a .safetensors file, or a data set"),
        (None, ("--calibrate", "samples.safetensors", "--samples", 1), "--samples must be at least 2"),
        (_of_two_lengths, CALIBRATE, "as many samples in each"),
        (_of_other_shapes, CALIBRATE, "can't run the example inputs"),
        (None, (*CALIBRATE, "--minutes", "-1"), "minutes must be"),
        (None, (*CALIBRATE, "--force", "--out", "masks.safetensors"), "is read by this command"),
        (None, (*CALIBRATE, "--force", "--out", "samples.safetensors"), "is read by this command"),
        (_of_whole_numbers, CALIBRATE, "can't run"),
        (None, (*CALIBRATE, "--choose", "channel", "--new-masks", "new.safetensors"), "whole channels"),
    ],
)
def test_what_can_not_be_done_is_refused_and_nothing_written(
    command: Command, dense: nn.Module, spoil: Callable[[], None] | None, words: tuple[object, ...], message: str
) -> None:
    if spoil:
        spoil()
    given = ("--weights", "dense.safetensors", "--masks", "masks.safetensors", "--out", "out.safetensors")
    assert message in refused(command("recover", *MODEL, *given, *words))
    assert "say which it is with --model" in refused(command("recover", *given, *words[:2]))
    assert not Path("out.safetensors").exists()
