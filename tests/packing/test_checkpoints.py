"""Weights from files: what is read, what is refused, and what pruning leaves untouched to the bit."""

import shlex
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from prunus import Masks
from prunus.errors import CheckpointError
from prunus.files import save_tensors
from prunus.lab import models
from prunus.packing import checkpoints
from prunus.packing.checkpoints import apply_masks, as_module, load_into, read, save


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight


def test_a_plain_file_is_read_as_it_is(tmp_path: Path) -> None:
    tensors = {"weight": torch.randn(3, 2), "steps": torch.tensor(7)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    found = read(tmp_path / "a.safetensors")
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)
    assert found.header == {"format": "pt"}
    assert (found.num_bytes, found.num_masks) == ((tmp_path / "a.safetensors").stat().st_size, 0)


def test_what_torch_pruned_is_read_as_a_plain_model(tmp_path: Path) -> None:
    layer = nn.Linear(4, 3)
    torch_prune.l1_unstructured(layer, "weight", 0.5)
    save_tensors(tmp_path / "pruned.safetensors", layer.state_dict())
    found = read(tmp_path / "pruned.safetensors")
    assert found.num_masks == 1
    torch_prune.remove(layer, "weight")
    plain = nn.Linear(4, 3)
    load_into(plain, found)
    assert torch.equal(plain.weight, layer.weight)
    assert torch.equal(plain.bias, layer.bias)


def test_a_header_survives_saving(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", {"weight": torch.ones(2, 3).T}, {"format": "pt"})
    found = read(tmp_path / "a.safetensors")
    assert found.header == {"format": "pt"}
    assert found.tensors["weight"].shape == (3, 2)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model.weights"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_is_refused_whatever_it_is_called_and_the_advice_works(
    tmp_path: Path, name: str, as_zip: bool
) -> None:
    layer = nn.Linear(3, 2)
    path = tmp_path / "with space" / name
    path.parent.mkdir()
    torch.save(layer.state_dict(), path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(CheckpointError, match="is a pickle, which can run code") as refusal:
        read(path)
    python, flag, program = shlex.split(str(refusal.value).partition("convert it: ")[2])
    assert (python, flag) == ("python", "-c")
    if name == "model.safetensors":
        assert "rename it to" in str(refusal.value)
        path.rename(path.with_suffix(".pt"))
    exec(program, {})
    converted = read(path.with_suffix(".safetensors")).tensors
    assert torch.equal(converted["weight"], layer.weight)


@pytest.mark.parametrize("header_bytes", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_safetensors_file_that_begins_like_a_pickle_is_read(tmp_path: Path, header_bytes: int) -> None:
    """The first bytes are the header's length, and some lengths are the magic bytes of a pickle."""
    path = tmp_path / "a.safetensors"
    plain = len(safetensors.torch.save({"weight": torch.ones(2)}, {"note": ""})) - 8 - 8
    safetensors.torch.save_file({"weight": torch.ones(2)}, path, {"note": "x" * (header_bytes - plain)})
    assert path.read_bytes()[:2] == header_bytes.to_bytes(2, "little")
    assert read(path).tensors["weight"].tolist() == [1.0, 1.0]


def test_refusals_say_what_is_there(tmp_path: Path) -> None:
    Masks({"weight": torch.tensor([True, False])}).save(tmp_path / "masks.safetensors")
    save_tensors(tmp_path / "empty.safetensors", {})
    with pytest.raises(CheckpointError, match=r"is a directory.*'empty.safetensors', 'masks.safetensors'"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match="only bool tensors"):
        read(tmp_path / "masks.safetensors")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read(tmp_path / "empty.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no file at .*nothing\.safetensors"):
        read(tmp_path / "nothing.safetensors")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_the_files_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"any\.safetensors"):
        read(path)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_or_a_cut_is_refused_or_gives_tensors_of_the_same_names(
    tmp_path: Path, place: int, byte: int
) -> None:
    path = tmp_path / "any.safetensors"
    content = bytearray(safetensors.torch.save({"weight": torch.ones(3, 2), "bias": torch.ones(3)}))
    if place >= len(content):
        path.write_bytes(content[: place % len(content)])
    else:
        content[place] = byte
        path.write_bytes(content)
    told = []
    try:
        found = [read(path)]
    except ValueError as error:
        found, told = [], [str(error)]
    assert all(len(checkpoint.tensors) == 2 for checkpoint in found)
    assert all("any.safetensors" in message for message in told)


def checkpoint(tensors: dict[str, Tensor]) -> checkpoints.Checkpoint:
    return checkpoints.Checkpoint(Path("x.safetensors"), tensors, {}, 0, 0)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"weight": torch.ones(2, 3)}, r"does not fit Linear: it lacks 'bias'"),
        (
            {"weight": torch.ones(2, 3), "bas": torch.ones(2)},
            r"it lacks 'bias'; it has 'bas' \(did you mean 'bias'\?\)",
        ),
        (
            {"weight": torch.ones(3, 2), "bias": torch.ones(2)},
            r"'weight' has shape \[3, 2\] in the file, \[2, 3\] in the model",
        ),
    ],
)
def test_weights_of_another_model_are_refused_and_change_nothing(tensors: dict[str, Tensor], told: str) -> None:
    layer = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(CheckpointError, match=told):
        load_into(layer, checkpoint(tensors))
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_a_tied_weight_may_be_in_the_file_once() -> None:
    model = Tied()
    load_into(model, checkpoint({"embedding.weight": torch.full((6, 4), 2.0)}))
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight, torch.full((6, 4), 2.0))
    with pytest.raises(CheckpointError, match=r"lacks 'embedding\.weight', 'head\.weight'"):
        load_into(model, checkpoint({}))


def test_a_model_takes_the_dtype_of_its_file() -> None:
    layer = nn.Linear(3, 2)
    tensors = {"weight": torch.randn(2, 3).bfloat16(), "bias": torch.randn(2).bfloat16()}
    load_into(layer, checkpoint(tensors))
    assert layer.weight.dtype == torch.bfloat16
    assert torch.equal(layer.weight, tensors["weight"])


def test_masks_change_the_pruned_weights_and_no_other_bit() -> None:
    model = Tied()
    mask = torch.rand(6, 4) > 0.5
    weight = torch.randn(6, 4).half()
    weight[0, 0], weight[0, 1] = -0.0, torch.nan
    mask[0, :2] = True
    tensors = {"embedding.weight": weight.clone(), "head.weight": weight.clone(), "steps": torch.tensor(5)}
    apply_masks(Masks({"embedding.weight": mask}), tensors, model)
    for name in ("embedding.weight", "head.weight"):  # masks name a tied weight once
        assert torch.equal(bits(tensors[name][mask]), bits(weight[mask]))
        assert torch.equal(bits(tensors[name][~mask]), torch.zeros(2 * int((~mask).sum()), dtype=torch.uint8))
    assert tensors["steps"] == 5


def test_bare_tensors_stand_in_for_their_model() -> None:
    state = models.create("resnet20").state_dict()
    module = as_module(state)
    held = dict(module.named_parameters())
    assert held.keys() == {name for name, tensor in state.items() if tensor.is_floating_point()}
    assert all(torch.equal(held[name], state[name]) for name in held)


PARTS = st.sampled_from(["a", "b", "weight", "train", "forward", "0", "", "[x]", "_modules"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(".".join)


@settings(deadline=None, max_examples=100)
@given(st.sets(NAMES, min_size=1, max_size=6))
def test_any_names_make_a_module_of_these_names_or_are_refused(names: set[str]) -> None:
    tensors = {name: torch.zeros(1, 1) for name in names}
    if any(name.startswith(".") for name in names):
        with pytest.raises(CheckpointError, match="can't be those of one module"):
            as_module(tensors)
    else:
        assert dict(as_module(tensors).named_parameters()).keys() == names
