"""Which parameters are pruned: by default, by name, pattern and class, tied or not, and which are refused."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune

import prunus
from prunus.pruning.targets import named, resolve
from prunus.registry import UnknownNameError
from prunus.supported import unwrap

pytestmark = pytest.mark.usefixtures("one_thread")


class Block(nn.Module):
    """Attention, a norm and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.norm = nn.LayerNorm((4, 8))
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)


class Model(nn.Module):
    """One of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.ConvTranspose1d(4, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.recurrent = nn.LSTM(8, 8, proj_size=4)
        self.cell = nn.GRUCell(8, 8)
        self.bilinear = nn.Bilinear(2, 3, 4)
        self.head = nn.Linear(8, 10, bias=False)
        self.table = nn.Parameter(torch.ones(5, 5))


BLOCK = ["attention.in_proj_weight", "attention.out_proj.weight", "up.weight", "down.weight"]
DEFAULT = [
    "conv1.weight",
    "conv2.weight",
    *[f"blocks.{index}.{name}" for index in range(2) for name in BLOCK],
    *["recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "recurrent.weight_hr_l0"],
    *["cell.weight_ih", "cell.weight_hh", "bilinear.weight", "head.weight"],
]


def names(*include: Any, exclude: Any = (), model: nn.Module | None = None) -> list[str]:
    return list(resolve(Model() if model is None else model, include, exclude))


def test_by_default_every_weight_that_multiplies_activations_is_pruned_in_the_models_order() -> None:
    assert names() == DEFAULT


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        ("head.weight", ["head.weight"]),
        ("head", ["head.weight"]),
        ("conv1.bias", ["conv1.bias"]),
        ("bn.weight", ["bn.weight"]),
        ("blocks.1", [f"blocks.1.{name}" for name in BLOCK]),
        ("blocks", [f"blocks.{index}.{name}" for index in range(2) for name in BLOCK]),
        ("blocks.*.up", ["blocks.0.up.weight", "blocks.1.up.weight"]),
        ("blocks.?.up.*", ["blocks.0.up.weight", "blocks.1.up.weight"]),
        ("conv*", ["conv1.weight", "conv2.weight"]),
        ("conv*.bias", ["conv1.bias", "conv2.bias"]),
        ("*.norm.weight", ["blocks.0.norm.weight", "blocks.1.norm.weight"]),
        ("cell.*bias*", ["cell.bias_ih", "cell.bias_hh"]),
        ("*", ["table", "embedding.weight", *DEFAULT]),
        ("table", ["table"]),
        ("embedding", ["embedding.weight"]),
        (nn.Bilinear, ["bilinear.weight"]),
        ("Bilinear", ["bilinear.weight"]),
        (nn.Embedding, ["embedding.weight"]),
        (Block, [f"blocks.{index}.{name}" for index in range(2) for name in BLOCK]),
        ("Block", [f"blocks.{index}.{name}" for index in range(2) for name in BLOCK]),
        (nn.modules.conv._ConvNd, ["conv1.weight", "conv2.weight"]),
        ("_ConvNd", ["conv1.weight", "conv2.weight"]),
    ],
    ids=str,
)
def test_include_takes_names_modules_patterns_and_classes(include: Any, expected: list[str]) -> None:
    assert names(include) == expected


def test_a_class_takes_its_subclasses_also_by_name() -> None:
    linear = [name for name in DEFAULT if "out_proj" in name or "up" in name or "down" in name or "head" in name]
    assert names(nn.Linear) == names("Linear") == linear


@pytest.mark.parametrize(
    ("exclude", "left_out"),
    [
        ("head", ["head.weight"]),
        ("blocks.0", [f"blocks.0.{name}" for name in BLOCK]),
        ("*.attention", [name for name in DEFAULT if "attention" in name]),
        (nn.RNNBase, [name for name in DEFAULT if "recurrent" in name]),
        (Block, [name for name in DEFAULT if "blocks" in name]),
        (nn.BatchNorm2d, []),
        ("bn", []),
        ("*.bias", []),
    ],
    ids=str,
)
def test_exclude_leaves_out_likewise(exclude: Any, left_out: list[str]) -> None:
    assert names(exclude=exclude) == [name for name in DEFAULT if name not in left_out]


def test_excluding_a_module_excludes_its_biases_too() -> None:
    assert names("conv*.bias", exclude="conv1") == ["conv2.bias"]
    assert names("*.bias", "*.up", exclude=["blocks", "bn", "conv?"]) == ["bilinear.bias"]


def test_several_selectors_add_up_in_the_models_order() -> None:
    assert names("head", nn.Conv2d, "bn.bias") == ["conv1.weight", "bn.bias", "head.weight"]
    assert list(resolve(Model(), "head")) == list(resolve(Model(), {"head"})) == ["head.weight"]


def test_a_model_that_is_one_layer_or_one_parameter() -> None:
    assert names(model=nn.Linear(3, 3)) == ["weight"]
    assert names("bias", model=nn.Linear(3, 3)) == ["bias"]
    assert names("Linear", model=nn.Linear(3, 3)) == ["weight"]


def test_a_class_speaks_of_the_models_parts_not_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    assert names(exclude=nn.Sequential, model=model) == ["0.weight"]
    assert names(nn.Sequential, model=model) == ["1.0.weight"]
    with pytest.raises(UnknownNameError):
        names(exclude=nn.Sequential, model=model[1])


@pytest.mark.parametrize("selector", ["haed", "blocks.2", "Linnear", "", "conv1.weight.x", nn.Conv3d, "[", "*.nothing"])
@pytest.mark.parametrize("kind", ["include", "exclude"])
def test_a_selector_that_matches_nothing_is_refused(kind: str, selector: Any) -> None:
    with pytest.raises(UnknownNameError, match=rf"^unknown layer in {kind} '"):
        resolve(Model(), **{kind: [selector]})


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown layer in include 'haed'; did you mean 'head'\?"):
        names("haed")
    with pytest.raises(UnknownNameError, match=r"unknown layer in exclude 'Linnear'; did you mean 'Linear'\?"):
        names(exclude="Linnear")


@pytest.mark.parametrize("selector", ["bn", nn.LayerNorm, "conv1.*s", "LayerNorm"])
def test_including_a_norm_says_how_to_name_it(selector: Any) -> None:
    if selector == "conv1.*s":
        assert names(selector) == ["conv1.bias"]
        return
    with pytest.raises(
        ValueError, match=r"matches no weight of two or more dimensions; .* as in include=\['.*\.weight'"
    ):
        names(selector)


@pytest.mark.parametrize("wrong", [5, [5], [None], [torch.Tensor], [int], 0.5, [nn.Linear(2, 2)]])
def test_what_is_no_selector_is_refused(wrong: Any) -> None:
    for kind in ("include", "exclude"):
        with pytest.raises(TypeError, match=rf"^{kind} takes names, patterns and Module classes, got "):
            resolve(Model(), **{kind: wrong})


def test_a_model_without_weights_says_what_it_has() -> None:
    for model, has in [(nn.BatchNorm1d(3), "weight, bias"), (nn.ReLU(), "none")]:
        with pytest.raises(ValueError, match=rf"^nothing to prune: .*has the parameters {has}$"):
            resolve(model)
    with pytest.raises(ValueError, match="nothing to prune"):
        names(exclude="*")
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got dict"):
        resolve({})  # type: ignore[arg-type]


def tied_model(*, head_first: bool) -> nn.Module:
    embedding, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    embedding.weight = head.weight
    parts = {"head": head, "embedding": embedding} if head_first else {"embedding": embedding, "head": head}
    return nn.ModuleDict({**parts, "body": nn.Linear(4, 4)})


@pytest.mark.parametrize("head_first", [True, False])
def test_a_weight_tied_to_an_embedding_is_pruned_only_where_it_is_named(head_first: bool) -> None:
    model = tied_model(head_first=head_first)
    first = "head.weight" if head_first else "embedding.weight"
    assert names(model=model) == ["body.weight"]
    for selector in ("head", "embedding", "head.weight", "embedding.weight", nn.Embedding):
        found = resolve(model, [selector])
        assert list(found) == [first]
        assert set(found[first].aliases) == {"head.weight", "embedding.weight"}
        assert len(found[first].modules) == 2
    assert names("*", exclude="embedding", model=model) == ["body.weight"]


def test_a_shared_layer_and_a_shared_weight_are_counted_once() -> None:
    layer, other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    other.weight = layer.weight
    model = nn.Sequential(layer, nn.ReLU(), layer, other)
    assert names(model=model) == names("3", model=model) == names("2.weight", model=model) == ["0.weight"]
    masks = prunus.prune(model, 0.5)
    assert (masks.num_weights, masks.num_pruned) == (16, 8)
    assert int((model[3].weight == 0).sum()) == 8


def test_names_with_the_letters_of_patterns_stand_for_themselves() -> None:
    model = nn.ModuleDict(
        {"a[0]": nn.Linear(2, 2), "a0": nn.Linear(2, 2), "b*": nn.Linear(2, 2), "b2": nn.Linear(2, 2)}
    )
    assert names("a[0]", model=model) == ["a[0].weight", "a0.weight"]
    assert list(named(model, ["a[0].weight", "b*.weight"])) == ["a[0].weight", "b*.weight"]


def test_named_finds_a_parameter_that_took_anothers_place() -> None:
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, assign=True)
    assert named(model, ["weight"])["weight"].parameter is model.weight
    with pytest.raises(UnknownNameError, match=r"the model was changed since .* 'weigth'; did you mean 'weight'\?"):
        named(model, ["weigth"])


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch's own, as it loads its compiler
def test_wrappers_are_looked_through() -> None:
    compiled = functools.partial(torch.compile, backend="eager")

    class Fabric(nn.Module):  # holds its module under the name that Lightning Fabric's wrapper uses
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._forward_module, self._original_module = compiled(module), module

    model = nn.Linear(2, 2)
    for wrapped in (nn.DataParallel(model), compiled(model), Fabric(model), nn.DataParallel(compiled(model))):
        assert unwrap(wrapped) is model
        assert names(model=wrapped) == ["weight"]
    assert unwrap(nn.Sequential(model)) is not model


def int8_model() -> nn.Module:
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    return model


def with_weight(weight: Tensor) -> nn.Module:
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(weight, requires_grad=weight.is_floating_point() and weight.element_size() > 1)
    return model


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):
        return nn.utils.weight_norm(nn.Linear(2, 2))


def masked_by_torch() -> nn.Module:
    model = nn.Linear(4, 4)
    torch_prune.l1_unstructured(model, "weight", 0.5)
    return model


class Doubled(nn.Module):
    """A parametrization that is no linear map of zeros to zeros."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 1


def parametrized() -> nn.Module:
    model = nn.Linear(2, 2)
    parametrize.register_parametrization(model, "weight", Doubled())
    return model


REFUSED = {
    "lazy": (nn.LazyLinear(3), "'weight' is not initialised yet; run the model once on an example input first"),
    "meta": (nn.Linear(2, 2, device="meta"), "'weight' is on the meta device and holds no values; load its weights"),
    "int8": (int8_model(), "'weight' has dtype torch.int8; expected float16, bfloat16, float32 or float64"),
    "float8": (
        with_weight(torch.ones(2, 2).to(torch.float8_e4m3fn)),
        "'weight' has dtype torch.float8_e4m3fn; expected",
    ),
    "complex": (with_weight(torch.ones(2, 2, dtype=torch.complex64)), "'weight' has dtype torch.complex64; expected"),
    "sparse": (with_weight(torch.ones(2, 2).to_sparse()), "'weight' has layout torch.sparse_coo; expected a dense"),
    "torch's prune": (masked_by_torch(), "'weight_orig' belongs to torch.nn.utils.prune, which keeps a mask inside"),
    "weight norm": (
        parametrizations.weight_norm(nn.Linear(2, 2)),
        "is computed from it at each forward; make it a plain",
    ),
    "spectral norm": (parametrizations.spectral_norm(nn.Linear(2, 2)), "utils.parametrize.remove_parametrizations(lay"),
    "orthogonal": (parametrizations.orthogonal(nn.Linear(2, 2)), "or exclude the layer"),
    "own parametrization": (parametrized(), "'parametrizations.weight.original' is not a weight: a weight of"),
    "old weight norm": (old_weight_norm(), "a plain weight with torch.nn.utils.remove_weight_norm(layer), or exclude"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("name", REFUSED)
def test_parameters_that_zeros_cant_prune_are_refused_unless_excluded(name: str) -> None:
    layer, message = REFUSED[name]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        resolve(layer)
    assert message in str(caught.value)
    whole = nn.ModuleDict({"odd": layer, "plain": nn.Linear(4, 4)})
    with pytest.raises(ValueError, match=r"^'odd\."):
        prunus.prune(whole, 0.5)
    assert list(prunus.prune(whole, 0.5, exclude="odd")) == ["plain.weight"]
    assert list(prunus.prune(whole, 0.5, include="plain")) == ["plain.weight"]


def test_the_old_spectral_norm_keeps_the_zeros() -> None:
    with warnings.catch_warnings(action="ignore"):
        model = nn.utils.spectral_norm(nn.Linear(4, 4))
    mask = prunus.prune(model, 0.5)["weight_orig"]
    model(torch.ones(1, 4))
    assert torch.equal(model.weight != 0, mask)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_empty_parameters_are_passed_over_and_refused_where_named() -> None:
    model = nn.ModuleDict({"empty": nn.Linear(0, 5), "full": nn.Linear(4, 4), "none": nn.Linear(3, 0)})
    for scope in ("global", "uniform", "erk"):
        assert list(prunus.prune(model, 0.5, scope=scope)) == ["full.weight"]
    with pytest.raises(ValueError, match=r"'empty\.weight' has shape \(5, 0\) and holds no weights; don't include it"):
        prunus.prune(model, 0.5, include="empty.weight")
    with pytest.raises(ValueError, match="nothing to prune"):
        prunus.prune(model["none"], 0.5)


def test_resolving_leaves_the_model_alone() -> None:
    model = Model()
    before = dict(model.named_parameters())
    resolve(model, ["*"])
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
