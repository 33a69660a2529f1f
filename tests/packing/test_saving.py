"""Models through files: by graph, and into a model; nothing is lost, and tied stays tied."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.lab import models
from prunus.packing import read_tensors
from without_extras import run_without_extras


class TwoHeads(nn.Module):
    """A class that only this file has: tied weights, a norm, a constant, a buffer that is not saved, named inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 6)
        self.inner = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 12)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 6), persistent=False)

    def forward(self, tokens: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.inner(self.embedding(tokens).sum(1)) * self.scale + torch.tensor([0.25]))
        return self.head(x), x + shift


def two_heads() -> TwoHeads:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TwoHeads()
        model.norm(torch.randn(20, 6))  # running statistics that are not those of a new model
    return model.eval()


def inputs(batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "tokens": torch.randint(12, (batch, 5), generator=generator),
        "shift": torch.randn(batch, 6, generator=generator),
    }


def assert_same_state(model: nn.Module, other: nn.Module) -> None:
    state, others = model.state_dict(), other.state_dict()
    assert state.keys() == others.keys()
    for name, tensor in state.items():
        assert tensor.dtype == others[name].dtype
        assert torch.equal(tensor, others[name]), name


ARGUMENTS = [
    {},
    {"in_channels": 3, "image_size": 32, "num_classes": 7},
    {"image_size": 45, "num_classes": 2},
]
IMAGE = torch.zeros(1, 1, 28, 28)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("name", models.names())
def test_a_small_network_takes_few_bytes_beside_its_weights(
    name: str, arguments: dict[str, int], tmp_path: Path
) -> None:
    model = models.create(name, **arguments)
    images = torch.randn(5, *models.input_shape(name, **arguments))
    facts = prunus.save(model, tmp_path / "model.prunus", images[:1])
    assert facts.kind == "graph"
    assert facts.header_bytes < (320 if name == "resnet20" else 110)
    loaded = prunus.load(tmp_path / "model.prunus")
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert_same_state(model, loaded)
    for number in (2, 5):
        with torch.no_grad():
            assert torch.equal(loaded(images[:number]), model.eval()(images[:number]))
    assert torch.equal(loaded.train()(images), model.train()(images))  # the norms of the batch
    assert_same_state(model, loaded)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_options_and_number_types_are_told_too(dtype: torch.dtype, tmp_path: Path) -> None:
    for model, images in (
        (models.create("lenet5", widths=(3, 5, 17, 9)), IMAGE),
        (models.create("resnet20", widths=(4, 8, 8), shortcut="projected"), torch.zeros(1, 3, 32, 32)),
    ):
        prunus.save(model.to(dtype), tmp_path / "model.prunus", images.to(dtype))
        assert_same_state(model, prunus.load(tmp_path / "model.prunus"))


def test_without_example_inputs_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"LeNet must be traced: give example_inputs, .*, or weights_only=True"):
        prunus.save(models.create("lenet"), tmp_path / "model.prunus")
    assert not list(tmp_path.iterdir())


def test_what_is_changed_about_a_model_is_in_its_graph(tmp_path: Path) -> None:
    dilated, hooked, patched = (models.create("lenet") for _ in range(3))
    dilated.conv2.padding = (2, 2)
    dilated.conv2.dilation = (2, 2)
    hooked.fc.register_forward_hook(lambda module, args, output: 2 * output)
    patched.fc.forward = lambda x: x  # type: ignore[method-assign]
    images = torch.randn(2, 1, 28, 28)
    for model in (dilated, hooked, patched):
        prunus.save(model, tmp_path / "model.prunus", images)
        with torch.no_grad():
            assert torch.allclose(prunus.load(tmp_path / "model.prunus")(images), model(images))


def test_a_graph_gives_the_same_outputs_in_a_process_without_the_class(tmp_path: Path) -> None:
    model = two_heads()
    facts = prunus.save(model, tmp_path / "model.prunus", example_inputs=inputs(1))
    assert facts.kind == "graph"
    assert [tensor.name for tensor in facts.tensors].count("head.weight") == 0  # tied: stored once
    with torch.no_grad():
        expected = model(**inputs(4))
    torch.save((inputs(4), expected), tmp_path / "data.pt")
    code = f"""
import prunus, torch
inputs, expected = torch.load({str(tmp_path / "data.pt")!r}, weights_only=True)
model = prunus.load({str(tmp_path / "model.prunus")!r})
with torch.no_grad():
    found = model(**inputs)
assert all(torch.equal(a, b) for a, b in zip(found, expected))
assert model.head.weight is model.embedding.weight
print(len(list(model.parameters())), type(model).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["6", "ExportedModule"]


def test_a_loaded_graph_can_be_saved_again_without_inputs(tmp_path: Path) -> None:
    first, second = tmp_path / "first.prunus", tmp_path / "second.prunus"
    prunus.save(two_heads(), first, example_inputs=inputs())
    loaded = prunus.load(first)
    assert prunus.save(loaded, second).kind == "graph"
    with torch.no_grad():
        for found, expected in zip(prunus.load(second)(**inputs(2)), two_heads()(**inputs(2)), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("options", [{"weights_only": True}, {"example_inputs": inputs()}])
def test_weights_load_into_ones_own_model_and_tied_ones_are_in_the_state_dict_twice(
    tmp_path: Path, options: dict[str, object]
) -> None:
    path, model = tmp_path / "model.prunus", two_heads()
    prunus.save(model, path, **options)  # type: ignore[arg-type]
    mine = TwoHeads()
    assert prunus.load(path, mine) is mine
    assert_same_state(mine, model)
    assert mine.head.weight is mine.embedding.weight
    tensors = read_tensors(path)
    assert tensors.keys() == model.state_dict().keys()
    assert tensors["head.weight"] is tensors["embedding.weight"]


def test_weights_only_do_not_load_by_themselves(tmp_path: Path) -> None:
    prunus.save(two_heads(), tmp_path / "model.prunus", weights_only=True)
    with pytest.raises(prunus.PackError, match="weights only; give load a model"):
        prunus.load(tmp_path / "model.prunus")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda: models.create("lenet5"), "it lacks"),
        (lambda: models.create("lenet", num_classes=3), r"'fc.weight' has shape \[10, 166\] in the file, \[3, 166\]"),
        (lambda: models.create("lenet").half(), r"convert the model first: model.to\(torch.float32\)"),
    ],
)
def test_a_model_that_does_not_fit_is_left_as_it_was(tmp_path: Path, other: object, told: str) -> None:
    prunus.save(models.create("lenet"), tmp_path / "model.prunus", IMAGE)
    assert callable(other)
    model = other()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=told):
        prunus.load(tmp_path / "model.prunus", model)
    assert_same_state(model, before)


def test_saving_leaves_the_model_as_it_was_and_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    model = models.create("resnet20", widths=(4, 4, 4)).train()
    before, random = copy.deepcopy(model), torch.get_rng_state()
    images = torch.zeros(1, 3, 32, 32)
    first = prunus.save(model, tmp_path / "first.prunus", images, codebook_bits=3)
    prunus.save(model, tmp_path / "second.prunus", images, codebook_bits=3)
    assert_same_state(model, before)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert (tmp_path / "first.prunus").read_bytes() == (tmp_path / "second.prunus").read_bytes()
    assert first.bytes == (tmp_path / "first.prunus").stat().st_size
    told = first.header_bytes + sum(tensor.bytes for tensor in first.tensors)
    assert told == pytest.approx(first.bytes, abs=8)
    assert {tensor.name: tensor.nonzero for tensor in first.tensors} == {
        name: int((tensor != 0).sum()) for name, tensor in model.state_dict().items()
    }


def test_mistakes_are_refused_before_a_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "model.prunus"
    sparse = nn.Linear(2, 2)
    sparse.register_buffer("s", torch.eye(2).to_sparse())
    broken = models.create("lenet")
    with torch.no_grad():
        broken.fc.weight[0, 0] = torch.nan
    with pytest.raises(TypeError, match="Module, got dict"):
        prunus.save({}, path, IMAGE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"the model comes first: prunus\.save\(model, path\)"):
        prunus.save(path, broken)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'s' of the state dict has layout torch\.sparse_coo"):
        prunus.save(sparse, path, weights_only=True)
    with pytest.raises(TypeError, match=r"'weight' is a meta torch\.strided tensor"):
        prunus.save(nn.Linear(2, 2, device="meta"), path, weights_only=True)
    for bits in (0, 9, 2.5, True):
        with pytest.raises(ValueError, match="bits must be a whole number from 1 to 8"):
            prunus.save(models.create("lenet"), path, IMAGE, codebook_bits=bits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'fc.weight' holds values that are not finite"):
        prunus.save(broken, path, IMAGE, codebook_bits=4)
    assert not list(tmp_path.iterdir())
    prunus.save(broken, path, IMAGE)  # without bits a NaN is as good as any number
    assert torch.equal(read_tensors(path)["fc.weight"].isnan(), broken.fc.weight.isnan())


def test_wrappers_are_looked_through(tmp_path: Path) -> None:
    model = models.create("lenet-300-100", widths=(5, 5))
    prunus.save(nn.DataParallel(model), tmp_path / "model.prunus", IMAGE)
    assert_same_state(prunus.load(tmp_path / "model.prunus"), model)


def test_without_the_extra_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    prunus.save(models.create("lenet"), tmp_path / "model.prunus", IMAGE)
    done = run_without_extras(f"""
import prunus, torch
for call in (
    lambda: prunus.save(prunus.models.create("lenet"), {str(tmp_path / "other.prunus")!r}, torch.zeros(1, 1, 28, 28)),
    lambda: prunus.load({str(tmp_path / "model.prunus")!r}),
):
    try:
        call()
    except ImportError as error:
        print(error)
""")
    assert done.stdout.count("pip install 'prunus[pack]'") == 2, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.prunus"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")
def test_models_on_a_gpu_are_saved_and_made_there(tmp_path: Path) -> None:
    model = models.create("lenet").half().cuda()
    images = IMAGE.half().cuda()
    prunus.save(model, tmp_path / "model.prunus", images, codebook_bits=4)
    loaded = prunus.load(tmp_path / "model.prunus", device="cuda")
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cuda"}
    prunus.save(model, tmp_path / "exact.prunus", images)
    assert_same_state(prunus.load(tmp_path / "exact.prunus", device="cuda"), model)


class Counting(nn.Module):
    """Writes to buffers in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.layer(x)
        self.mean.mul_(0.9).add_(y.flatten(0, -2).mean(0).detach(), alpha=0.1)
        return y - self.mean


@pytest.mark.parametrize("shape", [(2, 4), (1, 6, 4)])
def test_buffers_that_a_forward_writes_to_are_saved_as_they_are(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = Counting().eval()
    prunus.save(model, tmp_path / "model.prunus", torch.randn(shape))
    loaded = prunus.load(tmp_path / "model.prunus")
    assert {name: tensor.tolist() for name, tensor in loaded.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in model.state_dict().items()
    }
    x = torch.randn(shape)
    for _ in range(2):
        torch.testing.assert_close(loaded(x), model(x).detach())
