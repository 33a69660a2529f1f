"""The models against arithmetic done by hand, a forward pass written anew, and the papers' figures."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus.lab.models import ArgumentError, create, input_shape
from prunus.registry import UnknownNameError

NAMES = prunus.models.names()

# (weights, biases) of each layer, counted from the layers' definitions
BY_HAND = {
    "lenet": {
        "conv1": (20 * 1 * 5 * 5, 20),
        "conv2": (50 * 20 * 5 * 5, 50),
        "conv4": (166 * 50 * 4 * 4, 166),
        "fc": (10 * 166, 10),
    },
    "lenet5": {
        "conv1": (6 * 1 * 5 * 5, 6),
        "conv2": (16 * 6 * 5 * 5, 16),
        "fc1": (120 * 16 * 5 * 5, 120),
        "fc2": (84 * 120, 84),
        "fc3": (10 * 84, 10),
    },
    "lenet5-caffe": {
        "conv1": (20 * 1 * 5 * 5, 20),
        "conv2": (50 * 20 * 5 * 5, 50),
        "fc1": (500 * 50 * 4 * 4, 500),
        "fc2": (10 * 500, 10),
    },
    "lenet-300-100": {"fc1": (300 * 28 * 28, 300), "fc2": (100 * 300, 100), "fc3": (10 * 100, 10)},
}
PUBLISHED = {"lenet": 160_206, "lenet5": 61_706, "lenet5-caffe": 431_080, "lenet-300-100": 266_610}


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def images_for(name: str, count: int, **kwargs: object) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *input_shape(name, **kwargs), generator=generator)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_layers_have_the_sizes_counted_by_hand(name: str) -> None:
    model = create(name)
    found = {layer: (child.weight.numel(), child.bias.numel()) for layer, child in model.named_children()}
    assert found == BY_HAND[name]
    assert parameters_of(model) == PUBLISHED[name]
    assert list(model.state_dict()) == [f"{layer}.{kind}" for layer in BY_HAND[name] for kind in ("weight", "bias")]


def test_a_fifth_of_lenets_weights_gone_leaves_the_sources_128_thousand() -> None:
    weights = sum(weights for weights, _ in BY_HAND["lenet"].values())
    assert weights == 159_960
    assert parameters_of(create("lenet")) - weights // 5 == 128_214


def torch_functional_lenet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """LeNet by unfolding windows and multiplying matrices: no convolution, no pooling function."""
    for layer, pooled in (("conv1", True), ("conv2", True), ("conv4", False)):
        weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        size = weight.shape[-1]
        windows = x.unfold(2, size, 1).unfold(3, size, 1)
        x = torch.einsum("nchwij,ocij->nohw", windows, weight) + bias.view(-1, 1, 1)
        x = x.clamp(min=0)
        if pooled:
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(-1, -2))
    assert x.shape[2:] == (1, 1)
    return x[:, :, 0, 0] @ state["fc.weight"].T + state["fc.bias"]


def test_lenet_computes_what_its_layers_say() -> None:
    model = create("lenet").double()
    images = images_for("lenet", 3).double()
    torch.testing.assert_close(model(images), torch_functional_lenet(model.state_dict(), images))


def test_lenet5_computes_what_its_layers_say() -> None:
    model = create("lenet5").double()
    images = images_for("lenet5", 3).double()
    state = model.state_dict()
    x = F.max_pool2d(F.conv2d(F.pad(images, (2, 2, 2, 2)), state["conv1.weight"], state["conv1.bias"]).clamp(min=0), 2)
    x = F.max_pool2d(F.conv2d(x, state["conv2.weight"], state["conv2.bias"]).clamp(min=0), 2).reshape(3, 400)
    x = (x @ state["fc1.weight"].T + state["fc1.bias"]).clamp(min=0)
    x = (x @ state["fc2.weight"].T + state["fc2.bias"]).clamp(min=0)
    torch.testing.assert_close(model(images), x @ state["fc3.weight"].T + state["fc3.bias"])


def test_lenet5_caffe_has_no_relu_after_its_convolutions() -> None:
    model = create("lenet5-caffe").double()
    images = images_for("lenet5-caffe", 3).double()
    state = model.state_dict()
    x = F.max_pool2d(F.conv2d(images, state["conv1.weight"], state["conv1.bias"]), 2)
    x = F.max_pool2d(F.conv2d(x, state["conv2.weight"], state["conv2.bias"]), 2).reshape(3, 800)
    assert (x < 0).any(), "the example must tell a ReLU from none"
    x = (x @ state["fc1.weight"].T + state["fc1.bias"]).clamp(min=0)
    torch.testing.assert_close(model(images), x @ state["fc2.weight"].T + state["fc2.bias"])


def test_lenet_300_100_computes_what_its_layers_say() -> None:
    model = create("lenet-300-100").double()
    images = images_for("lenet-300-100", 3).double()
    x = images.reshape(3, 784)
    for layer in ("fc1", "fc2"):
        x = (x @ model.get_submodule(layer).weight.T + model.get_submodule(layer).bias).clamp(min=0)
    torch.testing.assert_close(model(images), x @ model.fc3.weight.T + model.fc3.bias)


def resnet_parameters(blocks: int, in_channels: int, *, projected: bool) -> int:
    """Count by the paper's table: a 3x3 convolution without bias and its batch norm, again and again."""
    widths = [16] + [16] * 2 * blocks + [32] * 2 * blocks + [64] * 2 * blocks
    total = 9 * in_channels * 16 + 2 * 16
    total += sum(9 * before * after + 2 * after for before, after in itertools.pairwise(widths))
    if projected:
        total += 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    return total + 64 * 10 + 10


def test_resnet20_has_the_papers_number_of_parameters_and_layers() -> None:
    model = create("resnet20")
    assert parameters_of(model) == resnet_parameters(3, 3, projected=False) == 269_722
    assert round(parameters_of(model) / 1e6, 2) == 0.27  # He et al. 2016, table 6
    assert sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules()) == 20
    assert parameters_of(create("resnet20", shortcut="projected")) == resnet_parameters(3, 3, projected=True) == 272_474
    assert parameters_of(create("resnet20", in_channels=1)) == resnet_parameters(3, 1, projected=False)


@pytest.mark.parametrize(("size", "sides"), [(32, (32, 16, 8)), (28, (28, 14, 7)), (9, (9, 5, 3))])
def test_resnet20_halves_the_size_twice(size: int, sides: tuple[int, ...]) -> None:
    model = create("resnet20", in_channels=1, image_size=size)
    x = model.conv(images_for("resnet20", 2, in_channels=1, image_size=size))
    for stage, width, side in zip((model.stage1, model.stage2, model.stage3), (16, 32, 64), sides, strict=True):
        x = stage(x)
        assert x.shape == (2, width, side, side)


def test_a_resnet_block_with_weights_of_zero_is_its_shortcut_and_a_relu() -> None:
    block = create("resnet20").stage2[0].eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 16, 6, 6)
    expected = torch.zeros(2, 32, 3, 3)
    expected[:, 8:24] = x[:, :, ::2, ::2].clamp(min=0)
    assert torch.equal(block(x), expected)


def test_resnet_convolutions_start_from_hes_initialisation() -> None:
    torch.manual_seed(0)
    weight = create("resnet20").stage3[0].conv1.weight  # from 32 channels to 64: the spread goes by the outputs
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_takes_classes_channels_and_size(name: str) -> None:
    settings = {"num_classes": 7, "in_channels": 2, "image_size": 33}
    assert input_shape(name, **settings) == (2, 33, 33)
    assert create(name, **settings)(images_for(name, 3, **settings)).shape == (3, 7)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_traced_whole(name: str) -> None:
    model = create(name).eval()
    images = images_for(name, 2)
    expected = model(images)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), expected)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(images), expected)
    torch.testing.assert_close(program.module()(images_for(name, 5))[:2], model(images_for(name, 5))[:2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_model_runs_in_its_own_dtype(name: str, dtype: torch.dtype) -> None:
    model = create(name).to(dtype).eval()
    assert model(images_for(name, 2).to(dtype)).dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_makes_the_same_model_again_and_a_copy_is_equal(name: str) -> None:
    torch.manual_seed(5)
    first = create(name)
    torch.manual_seed(5)
    second = create(name)
    for copied in (second, copy.deepcopy(first)):
        for key, value in first.state_dict().items():
            assert torch.equal(copied.state_dict()[key], value), key


def test_asking_for_the_shape_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    assert input_shape("resnet20") == (3, 32, 32)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("lenet", {"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ("lenet", {"num_classes": 10.0}, "got 10.0"),
        ("lenet", {"in_channels": True}, "in_channels must be a whole number .*, got True"),
        ("lenet", {"image_size": 27}, r"at least 28 \(two poolings must leave 4x4 pixels for conv4\), got 27"),
        ("lenet5", {"image_size": 11}, "at least 12 .* got 11"),
        ("lenet5-caffe", {"image_size": 15}, "at least 16 .* got 15"),
        ("lenet", {"widths": (20, 50)}, r"widths must be 3 whole numbers, for conv1, conv2, conv4; got \(20, 50\)"),
        ("lenet", {"widths": 20}, "widths must be 3 whole numbers"),
        ("lenet5", {"widths": (6, 16, -120, 84)}, "the width of fc1 must be a whole number of at least 1, got -120"),
        ("resnet20", {"widths": (32, 16, 64)}, "from 32 to 16; let them grow, or choose shortcut='projected'"),
        ("resnet20", {"image_size": 0}, "image_size must be"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(name: str, kwargs: dict[str, object], message: str) -> None:
    for function in (create, input_shape):
        with pytest.raises(ArgumentError, match=message):
            function(name, **kwargs)


def test_the_smallest_images_each_model_takes_do_pass() -> None:
    for name, size in (("lenet", 28), ("lenet5", 12), ("lenet5-caffe", 16), ("lenet-300-100", 1), ("resnet20", 1)):
        model = create(name, image_size=size).eval()
        assert model(images_for(name, 2, image_size=size)).shape == (2, 10)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'lenet5-cafe'; did you mean 'lenet5-caffe'\?"):
        create("lenet5-cafe")
    with pytest.raises(
        UnknownNameError, match=r"argument \(of model 'lenet'\) 'num_class'; did you mean 'num_classes'"
    ):
        create("lenet", num_class=3)
    with pytest.raises(UnknownNameError, match=r"unknown shortcut 'pad'; did you mean 'padded'\?"):
        create("resnet20", shortcut="pad")


def test_widths_from_yaml_are_a_list_and_change_the_layers() -> None:
    model = create("lenet", widths=[4, 6, 8])
    assert parameters_of(model) == (4 * 25 + 4) + (6 * 4 * 25 + 6) + (8 * 6 * 16 + 8) + (8 * 10 + 10)


def test_a_model_that_could_not_fit_every_dataset_is_not_registered() -> None:
    with pytest.raises(TypeError, match="model 'fixed' must take num_classes, in_channels, image_size"):

        @prunus.models.model("fixed")
        def fixed(num_classes: int = 10) -> nn.Module:
            return nn.Linear(1, num_classes)

    assert "fixed" not in prunus.models.names()
