"""Masks: applied, checked, counted, saved, and read out of what torch.nn.utils.prune leaves behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import prunus
from prunus import MaskError, Masks, plain_state_dict
from prunus.files import save_tensors

pytestmark = pytest.mark.usefixtures("one_thread")


def random_mask(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.4


def equal_to_the_bit(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def test_counts_are_those_of_a_loop() -> None:
    masks = Masks({"a": random_mask(3, 4), "b": random_mask(5, seed=1), "c": torch.tensor(False)})
    flat = [bool(value) for mask in masks.values() for value in mask.flatten().tolist()]
    assert (masks.num_weights, masks.num_pruned) == (18, flat.count(False))
    assert masks.sparsity == flat.count(False) / 18
    assert repr(masks) == f"Masks(3 parameters, {flat.count(False)} of 18 weights pruned)"
    assert Masks({}).sparsity == 0.0


def test_equal_are_masks_of_the_same_names_and_values() -> None:
    masks = Masks({"a": random_mask(3, 4), "b": random_mask(5)})
    assert masks == Masks({"b": random_mask(5), "a": random_mask(3, 4)})
    assert masks != Masks({"a": random_mask(3, 4)})
    assert masks != Masks({"a": random_mask(3, 4), "b": random_mask(5, seed=1)})
    assert masks != Masks({"a": random_mask(4, 3), "b": random_mask(5)})
    assert masks != {"a": random_mask(3, 4), "b": random_mask(5)}
    assert masks.to("cpu") == masks
    with pytest.raises(TypeError, match="unhashable"):
        hash(masks)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"a": torch.ones(2)}, r"the mask of 'a' must be a bool tensor, got torch\.float32"),
        ({"a": [True]}, "the mask of 'a' must be a bool tensor, got list"),
        ([("a", torch.ones(2).bool())], "masks must map parameter names to bool tensors, got list"),
    ],
)
def test_what_is_no_mask_is_refused(wrong: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Masks(wrong)  # type: ignore[arg-type]


def test_applying_zeroes_what_is_pruned_and_touches_nothing_else(dtype: torch.dtype) -> None:
    model = nn.Linear(6, 5).to(dtype)
    before = model.weight.detach().clone()
    mask = random_mask(5, 6)
    Masks({"weight": mask}).apply(model)
    assert equal_to_the_bit(model.weight.detach()[mask], before[mask])
    assert equal_to_the_bit(model.weight.detach()[~mask], torch.zeros(int((~mask).sum()), dtype=dtype))
    Masks({"weight": mask}).check(model)


def test_zeros_are_positive_whatever_was_there() -> None:
    model = nn.Linear(4, 1, bias=False)
    model.weight.data = torch.tensor([[torch.nan, -torch.inf, -3.0, -0.0]])
    Masks({"weight": torch.zeros(1, 4, dtype=torch.bool)}).apply(model)
    assert equal_to_the_bit(model.weight.detach(), torch.zeros(1, 4))


def test_applying_keeps_the_parameter_its_memory_and_its_layout() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameter, place, strides = model.weight, model.weight.data_ptr(), model.weight.stride()
    model.weight.requires_grad_(False)
    Masks({"weight": random_mask(4, 3, 3, 3)}).apply(model)
    assert (model.weight is parameter, model.weight.data_ptr(), model.weight.stride()) == (True, place, strides)
    assert not model.weight.requires_grad
    assert torch.equal(model.weight != 0, random_mask(4, 3, 3, 3))


def test_masks_that_dont_fit_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    before = copy.deepcopy(model.state_dict())
    gone = torch.zeros(3, 3, dtype=torch.bool)
    for name, mask, message in [
        (
            "1.weight",
            gone,
            r"the mask of '1\.weight' has shape \(3, 3\), the parameter \(2, 3\); these masks belong to",
        ),
        ("1.weigth", gone, r"the model has no parameter '1\.weigth' to mask; did you mean '1\.weight'\?"),
        ("xyz", gone, r"the model has no parameter 'xyz' to mask; it has 0\.weight, 0\.bias, 1\.weight, 1\.bias"),
    ]:
        masks = Masks({"0.weight": gone, name: mask})
        for method in (masks.apply, masks.check):
            with pytest.raises(MaskError, match=message):
                method(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_check_counts_what_is_not_zero_any_more() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    masks = prunus.prune(model, 0.5)
    masks.check(model)
    with torch.no_grad():
        model[1].weight[~masks["1.weight"]] = torch.nan
    count = int((~masks["1.weight"]).sum())
    with pytest.raises(MaskError, match=rf"pruned weights are not zero any more: {count} in '1\.weight'; call masks\."):
        masks.check(model)


def test_a_tied_weight_is_masked_by_any_of_its_names() -> None:
    model = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 3)})
    model["two"].weight = model["one"].weight
    Masks({"two.weight": random_mask(3, 3)}).apply(model)
    assert torch.equal(model["one"].weight != 0, random_mask(3, 3))


@given(st.dictionaries(st.text(min_size=1, max_size=6), st.lists(st.integers(0, 3), max_size=3), max_size=4))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_saved_masks_come_back_equal_and_in_order(tmp_path: Path, shapes: dict[str, list[int]]) -> None:
    shapes.pop("__metadata__", None)
    masks = Masks({name: random_mask(*shape) for name, shape in shapes.items()})
    masks.save(tmp_path / "masks.safetensors")
    back = Masks.load(tmp_path / "masks.safetensors")
    assert back == masks
    assert list(back) == list(masks)


def test_masks_of_another_program_are_read_too(tmp_path: Path) -> None:
    safetensors.torch.save_file({"b": random_mask(2), "a": random_mask(3)}, tmp_path / "m.safetensors")
    assert Masks.load(tmp_path / "m.safetensors") == Masks({"a": random_mask(3), "b": random_mask(2)})


def test_files_that_hold_no_masks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError):
        Masks.load(path)
    save_tensors(path, {"weight": torch.ones(3)})
    with pytest.raises(
        MaskError, match=r"does not hold masks: the mask of 'weight' must be a bool tensor, got torch\."
    ):
        Masks.load(path)
    for names in ('["a", "c"]', '{"a": 1, "c": 2}', "3", "[[]]", "nonsense"):
        save_tensors(path, {"a": random_mask(2)}, {"names": names})
        with pytest.raises(MaskError, match="does not hold masks"):
            Masks.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(MaskError, match="is not a readable safetensors file"):
        Masks.load(path)


def test_from_model_reads_the_zeros_of_what_is_pruned_by_default() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Linear(4, 4))
    assert Masks.from_model(model).num_pruned == 0
    masks = prunus.prune(model, 0.5)
    assert Masks.from_model(model) == masks
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    assert Masks.from_model(model)["2.weight"][0, 0]


# ---------------------------------------------------------------------- what torch.nn.utils.prune leaves behind


def torch_network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 9, 6), nn.ReLU(), nn.LSTM(6, 4))


def l1_and_random(model: nn.Sequential) -> None:
    torch_prune.l1_unstructured(model[0], "weight", 0.3)
    torch_prune.random_unstructured(model[2], "bias", 2)


def globally(model: nn.Sequential) -> None:
    torch_prune.global_unstructured(
        [(model[0], "weight"), (model[2], "weight")], torch_prune.L1Unstructured, amount=0.2
    )


def structured(model: nn.Sequential) -> None:
    torch_prune.ln_structured(model[0], "weight", 0.5, n=2, dim=0)
    torch_prune.random_structured(model[2], "weight", 3, dim=1)


def chained(model: nn.Sequential) -> None:
    torch_prune.l1_unstructured(model[2], "weight", 0.3)
    torch_prune.ln_structured(model[2], "weight", 0.3, n=1, dim=1)
    torch_prune.random_unstructured(model[2], "weight", 0.1)


def by_hand_and_of_recurrent_layers(model: nn.Sequential) -> None:
    torch_prune.custom_from_mask(model[4], "weight_ih_l0", random_mask(16, 6))
    torch_prune.identity(model[0], "weight")


TORCH_METHODS = [l1_and_random, globally, structured, chained, by_hand_and_of_recurrent_layers]


@pytest.mark.parametrize("method", TORCH_METHODS, ids=lambda method: method.__name__)
def test_what_torch_pruned_becomes_masks_and_a_plain_model(method: Callable[[nn.Sequential], None]) -> None:
    pruned, plain, masked = torch_network(), torch_network(), torch_network()
    method(pruned)
    state = pruned.state_dict()
    masks = Masks.from_torch(pruned)
    assert masks == Masks.from_torch(state)
    for name, buffer in pruned.named_buffers():
        assert torch.equal(masks[name.removesuffix("_mask")], buffer.bool())

    plain.load_state_dict(plain_state_dict(state))
    inputs = torch.randn(3, 2, 5, 5)
    outputs = pruned(inputs)[0]
    assert torch.equal(plain(inputs)[0], outputs)
    masks.apply(masked)
    assert torch.equal(masked(inputs)[0], outputs)

    for module, name in [
        (pruned[int(key[0])], key[2:].removesuffix("_orig")) for key in state if key.endswith("_orig")
    ]:
        torch_prune.remove(module, name)
    assert pruned.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(plain.state_dict()[key], tensor) for key, tensor in pruned.state_dict().items())


def test_masks_from_torch_go_on_in_prune() -> None:
    model = torch_network()
    globally(model)
    masks = Masks.from_torch(model)
    with pytest.raises(ValueError, match=r"'0\.weight_orig' belongs to torch\.nn\.utils\.prune"):
        prunus.prune(model, 0.5)
    for index in (0, 2):
        torch_prune.remove(model[index], "weight")
    grown = prunus.prune(model, 0.5, include=["0", "2"], masks=masks)
    assert grown.num_pruned == round(0.5 * (4 * 2 * 9 + 36 * 6))
    assert not any((grown[name] & ~masks[name]).any() for name in masks)


class LookAlike(nn.Module):
    """Parameters and buffers whose own names end like those of torch.nn.utils.prune."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_mask = nn.Parameter(torch.randn(3, 3))
        self.scale_orig = nn.Parameter(torch.randn(3))
        self.pair = nn.Parameter(torch.randn(2))
        self.pair_orig = nn.Parameter(torch.randn(2))
        self.shape_orig = nn.Parameter(torch.randn(2))
        self.register_buffer("pair_mask", torch.tensor([0.0, 1.0]))
        self.register_buffer("padding_mask", torch.zeros(4))
        self.register_buffer("shape_mask", torch.zeros(4))


def test_names_that_only_look_like_torchs_stay() -> None:
    model = LookAlike()
    state = model.state_dict()
    assert plain_state_dict(state) == state
    with pytest.raises(MaskError, match=r"found no \*_orig with its \*_mask: .* Masks\.from_model\(model\) reads"):
        Masks.from_torch(model)

    torch_prune.l1_unstructured(model, "attn_mask", 0.4)
    torch_prune.l1_unstructured(model, "scale_orig", 1)
    plain = plain_state_dict(model.state_dict())
    assert plain.keys() == state.keys()
    assert torch.equal(plain["attn_mask"], model.attn_mask)
    assert torch.equal(plain["scale_orig"], model.scale_orig)
    assert set(Masks.from_torch(model)) == {"attn_mask", "scale_orig"}


def test_a_plain_state_dict_is_plain_already() -> None:
    state = torch_network().state_dict()
    assert plain_state_dict(state) == dict(state)
    assert plain_state_dict({}) == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_apply_clears_what_is_no_number_and_leaves_the_rest_to_the_bit(dtype: torch.dtype) -> None:
    layer = nn.Linear(1500, 1000, dtype=dtype)  # more weights than one piece
    with torch.no_grad():
        layer.weight[0, :4] = torch.tensor([float("nan"), float("inf"), -1.0, -0.0])
    mask = torch.rand(1000, 1500, generator=torch.Generator().manual_seed(0)) > 0.5
    mask[0, :4] = False
    expected = torch.where(mask, layer.weight.detach(), 0.0)
    version = layer.weight._version
    Masks({"weight": mask}).apply(layer)
    assert torch.equal(layer.weight, expected)
    assert not torch.signbit(layer.weight[~mask]).any()
    assert layer.weight._version > version  # autograd knows that the weight changed
