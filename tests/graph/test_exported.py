"""A module that runs an exported graph: held against the model that the graph was traced from."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.graph import trace
from prunus.graph.exported import ExportedModule
from zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT32 = (
    *("multihead-attention", "dict-output", "tied-embedding", "einsum", "gru-bidirectional"),
    *("hf-bert", "hf-llama", "hf-vit", "hf-mobilenet-v2"),
)
FLOAT64 = ("multihead-attention", "hf-vit")


@pytest.fixture(autouse=True)
def plainly() -> Iterator[None]:
    """Drop the warnings of torch.export itself; let attention run as its separate operations, as it is traced."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch|copyreg")
        warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
        yield
    torch.backends.mha.set_fastpath_enabled(fast)


def exported(model: nn.Module, *args: Any, **kwargs: Any) -> ExportedModule:
    """Trace a model with a free batch and make a module of its graph."""

    def free(value: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if isinstance(value, Tensor) else None

    names = list(inspect.signature(model.forward).parameters)
    shapes = pytree.tree_map(free, {**dict(zip(names, args, strict=False)), **kwargs})
    program = torch.export.export(model.eval(), args, kwargs, dynamic_shapes=shapes, strict=False)
    return ExportedModule.from_program(program, why="a test")


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def assert_same(left: Any, right: Any, tolerance: float = 0) -> None:
    found = list(zip(tensors(left), tensors(right), strict=True))
    assert found
    for a, b in found:
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8 * 36, 5)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.drop(self.norm(self.conv(images)).relu_()).flatten(1))
        return found


class Words(nn.Module):
    """Recurrent layers over rows of numbers; containers of all kinds come out."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8, 2, batch_first=True, dropout=0.3)
        self.lstm = nn.LSTM(8, 7, batch_first=True, bidirectional=True)
        self.head = nn.Linear(14, 3)

    def forward(self, rows: Tensor) -> dict[str, Any]:
        states, _ = self.gru(rows)
        states, (hidden, cell) = self.lstm(states)
        return {"scores": self.head(states[:, -1]), "states": [hidden, (cell,)], "none": None}


@pytest.fixture(scope="module")
def cnn() -> ExportedModule:
    torch.manual_seed(0)
    return exported(Cnn(), torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize("name", FLOAT32)
def test_it_computes_what_the_model_does(name: str) -> None:
    case = ZOO[name]
    model = case.make()
    module = ExportedModule.from_program(trace(model, case.example_inputs).program)
    args, kwargs = case.arguments(3)
    with torch.no_grad():
        expected, found = model(*args, **kwargs), module(*args, **kwargs)
    assert type(found) is type(expected)
    assert_same(found, expected, 1e-6)
    state = model.state_dict()
    assert list(module.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert {name: p.data_ptr() for name, p in module.named_parameters()} == {
        name: p.data_ptr() for name, p in model.named_parameters()
    }, "the very tensors, tied ones once"


@pytest.mark.parametrize("name", FLOAT64)
def test_it_computes_what_the_model_does_in_float64(name: str) -> None:
    case = ZOO[name]

    def double(value: Tensor) -> Tensor:
        return value.double() if value.is_floating_point() else value

    model = case.make().double()
    module = ExportedModule.from_program(trace(model, pytree.tree_map(double, case.example_inputs)).program)
    converted = ExportedModule.from_program(trace(case.make(), case.example_inputs).program).double()
    args, kwargs = pytree.tree_map(double, case.arguments(3))
    with torch.no_grad():
        expected = model(*args, **kwargs)
        assert_same(module(*args, **kwargs), expected, 1e-12)
        assert_same(converted(*args, **kwargs), expected, 1e-12)


@pytest.mark.parametrize("make", [Cnn, Words])
def test_in_training_it_does_what_the_model_does(make: Callable[[], nn.Module]) -> None:
    model = make()
    inputs = torch.randn(4, 3, 6, 6) if make is Cnn else torch.randn(4, 5, 6)
    module = exported(copy.deepcopy(model), inputs)
    model.train()
    module.train()
    for seed in range(2):  # the second time with statistics that have moved
        outputs = []
        for either in (model, module):
            torch.manual_seed(seed)
            output = either(inputs)
            sum(tensor.square().sum() for tensor in tensors(output)).backward()
            outputs.append(output)
        assert_same(*outputs)
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    for (_, left), (_, right) in zip(model.named_parameters(), module.named_parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad)
    model.eval()
    module.eval()
    assert_same(module(inputs), model(inputs))


def test_each_submodule_has_its_own_flag() -> None:
    module = exported(Cnn(), torch.randn(2, 3, 6, 6)).train()
    module.get_submodule("norm").eval()
    before = module.get_buffer("norm.running_mean").clone()
    images = torch.randn(4, 3, 6, 6)
    assert not torch.equal(module(images), module(images)), "dropout is on"
    assert torch.equal(module.get_buffer("norm.running_mean"), before)
    assert int(module.get_buffer("norm.num_batches_tracked")) == 0
    module.get_submodule("drop").eval()
    assert torch.equal(module(images), module(images))


class Makes(nn.Module):
    """Makes tensors in its forward, of its own dtype and on its own device."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        like = {"dtype": self.scale.dtype, "device": self.scale.device}
        ramp = torch.arange(4, **like) + torch.zeros(x.shape[0], 4, **like)
        return x * self.scale + ramp.to(self.scale.dtype) + torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_what_the_forward_makes_follows_the_modules_dtype(dtype: torch.dtype) -> None:
    module = exported(Makes(), torch.randn(2, 4))
    x = torch.randn(3, 4)
    expected = module(x)
    found = module.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    assert torch.equal(module.float()(x), exported(module, torch.randn(2, 4))(x))


def test_what_the_forward_makes_follows_the_modules_device() -> None:
    module = exported(Makes(), torch.randn(2, 4))
    there = copy.deepcopy(module).to("meta")
    assert there(torch.randn(3, 4, device="meta")).device.type == "meta"
    assert module(torch.randn(3, 4)).device.type == "cpu", "the original stays"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda() -> None:
    for make, inputs in ((Cnn, torch.randn(3, 3, 6, 6)), (Words, torch.randn(3, 5, 6)), (Makes, torch.randn(3, 4))):
        module = exported(make(), inputs)
        expected = pytree.tree_map(lambda leaf: leaf.cuda() if isinstance(leaf, Tensor) else leaf, module(inputs))
        assert_same(module.cuda()(inputs.cuda()), expected, 1e-3)
        assert all("cuda" not in str(node) for node in module.to_document()["nodes"])


def test_a_copy_is_on_its_own(cnn: ExportedModule) -> None:
    images = torch.randn(2, 3, 6, 6)
    expected = cnn(images)
    other = copy.deepcopy(cnn)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(other(images), torch.zeros(2, 5))
    assert torch.equal(cnn(images), expected)


def test_its_state_dict_goes_through_a_file(cnn: ExportedModule, tmp_path: Path) -> None:
    torch.save(cnn.state_dict(), tmp_path / "state.pt")
    model = Cnn().eval()
    model.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    images = torch.randn(2, 3, 6, 6)
    assert torch.equal(model(images), cnn(images))


def test_it_is_exported_and_compiled_again() -> None:
    module = exported(Words(), torch.randn(2, 5, 6))
    rows = torch.randn(3, 5, 6)
    assert_same(exported(module, torch.randn(2, 5, 6))(rows), module(rows))
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert_same(compiled(rows), module(rows))
    torch._dynamo.reset()


def test_the_graph_can_be_edited(cnn: ExportedModule) -> None:
    module = copy.deepcopy(cnn)
    (node,) = (node for node in module.graph.nodes if node.target is torch.ops.aten.relu_.default)
    node.target = torch.ops.aten.tanh.default
    images = torch.randn(2, 3, 6, 6)
    before = module(images)
    assert torch.equal(before, cnn(images)), "not before it is recompiled"
    module.recompile()
    hidden = module.get_submodule("norm")
    assert isinstance(hidden, nn.Module)
    assert not torch.equal(module(images), before)


def test_it_says_what_it_is(cnn: ExportedModule) -> None:
    assert repr(cnn) == f"ExportedModule(why='a test', {len(cnn.graph.nodes)} nodes)"
    assert str(inspect.signature(cnn.forward)) == "(images)"
    assert not cnn.training


class Nested(nn.Module):
    def forward(self, x: Tensor, factor: float, *, more: dict[str, list[Tensor]], switch: bool | None = None) -> Any:
        found = x * factor + more["a"][0]
        return (found, [more["b"][0], {"size": x.shape[0] * 2, 3: "text"}], switch)


def test_inputs_and_outputs_may_be_nested_and_hold_plain_values() -> None:
    def more(batch: int) -> dict[str, list[Tensor]]:
        return {"a": [torch.ones(batch, 3)], "b": [torch.arange(batch)]}

    module = exported(Nested(), torch.randn(2, 3), 2.5, more=more(2), switch=None)
    assert str(inspect.signature(module.forward)) == "(x, factor, *, more, switch)"
    x = torch.randn(4, 3)
    for again in (module, ExportedModule.from_document(module.to_document(), module.tensors())):
        found, (b, rest), switch = again(x, 2.5, switch=None, more=more(4))
        assert torch.equal(found, x * 2.5 + 1)
        assert torch.equal(b, torch.arange(4))
        assert (rest, switch) == ({"size": 8, 3: "text"}, None)
    for arguments, message in [
        ((x, 2.0, more(4)), r"takes 2 inputs by position, got 3"),
        (
            (x, 2.0),
            r"input 'more' is missing; the model takes x \(batch, 3\), factor 2.5, more\['a'\]\[0\] \(batch, 3\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            module(*arguments)
    with pytest.raises(ValueError, match=r"input 'factor' must be 2.5, for which the graph was made, got 2.0"):
        module(x, 2.0, more=more(4), switch=None)
    with pytest.raises(
        ValueError, match=r"input 'more' must be a dict with 2 entries and the keys 'a', 'b', got a list"
    ):
        module(x, 2.5, more=[], switch=None)
    with pytest.raises(ValueError, match=r"input \"more\['a'\]\" must be a list with 1 entries, got a list"):
        module(x, 2.5, more={"a": [], "b": []}, switch=None)
    with pytest.raises(ValueError, match=r"must have the shape \(batch, 3\), got \(5, 3\), where batch = 4"):
        module(x, 2.5, more={"a": [torch.ones(5, 3)], "b": [torch.arange(4)]}, switch=None)
    with pytest.raises(ValueError, match="input 'mode' is unknown"):
        module(x, 2.5, more=more(4), mode=1)
    with pytest.raises(ValueError, match="input 'x' is given twice"):
        module(x, 2.5, more=more(4), x=x)


def test_wrong_inputs_are_refused_by_name_and_shape(cnn: ExportedModule) -> None:
    with pytest.raises(ValueError, match=r"input 'images' must have the shape \(batch, 3, 6, 6\), got \(2, 3, 7, 6\)"):
        cnn(torch.randn(2, 3, 7, 6))
    with pytest.raises(ValueError, match=r"got \(3, 6, 6\)"):
        cnn(torch.randn(3, 6, 6))
    with pytest.raises(ValueError, match=r"input 'images' must be a tensor of the shape .*, got None"):
        cnn(None)
    assert cnn(images=torch.randn(7, 3, 6, 6)).shape == (7, 5)


class Regions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            fixed = self.first(x).tanh()
        with torch.autocast("cpu", enabled=False):
            found: Tensor = self.second(x) * fixed
        return found


def test_regions_without_gradients_stay_so() -> None:
    model = Regions()
    module = exported(model, torch.randn(2, 3))
    x = torch.randn(4, 3)
    assert torch.equal(module(x), model(x))
    module(x).sum().backward()
    assert module.get_parameter("first.weight").grad is None
    assert module.get_parameter("second.weight").grad is not None


def test_what_a_flat_graph_can_not_hold_is_refused() -> None:
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return x @ x.T

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    for model, reason in ((Cast(), "it computes under torch.autocast"), (Branch(), "it holds a region of the kind")):
        with pytest.raises(ValueError, match=f"can't be made a flat graph: .*{reason}"):
            exported(model, torch.randn(3, 3))
    program = torch.export.export(Cnn().train(), (torch.randn(2, 3, 6, 6),)).run_decompositions()
    with pytest.raises(ValueError, match=r"BUFFER_MUTATION; give what torch\.export\.export returned"):
        ExportedModule.from_program(program)


class Collides(nn.Module):
    """Has tensors and modules under the names that an exported module uses itself, and odd ones."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = nn.Linear(3, 3)
        self.why = nn.Parameter(torch.randn(3))
        self.register_buffer("signature", torch.randn(3), persistent=False)
        self.tied = nn.ModuleDict({"class": nn.Linear(3, 3), "a-b": nn.Linear(3, 3)})
        self.tied["class"].weight = self.graph.weight
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        found: Tensor = self.tied["a-b"](self.tied["class"](self.graph(x))) + self.why + self.signature
        return found


def test_any_names_are_kept_and_do_not_collide() -> None:
    model = Collides()
    module = exported(model, torch.randn(2, 3))
    x = torch.randn(4, 3)
    again = ExportedModule.from_document(module.to_document(), module.tensors())
    for either in (module, copy.deepcopy(module).double().float(), again):
        assert torch.equal(either(x), model(x))
        assert list(either.state_dict()) == list(model.state_dict())
        assert dict(either.named_parameters()).keys() == dict(model.named_parameters()).keys()
        assert {name for name, _ in either.named_buffers()} == {"signature", "seen"}
        weights = dict(either.named_parameters(remove_duplicate=False))
        assert weights["graph.weight"] is weights["tied.class.weight"]


def test_it_loads_in_a_fresh_process_without_the_models_package(tmp_path: Path) -> None:
    case = ZOO["hf-llama"]
    model = case.make()
    module = ExportedModule.from_program(trace(model, case.example_inputs).program)
    args, kwargs = case.arguments(3)
    with torch.no_grad():
        expected = model(*args, **kwargs)
    torch.save(
        {"document": module.to_document(), "tensors": module.tensors(), "call": (args, kwargs)}, tmp_path / "in.pt"
    )
    code = """
        import sys, torch
        sys.modules["transformers"] = None
        from prunus.graph.exported import ExportedModule
        given = torch.load("in.pt", weights_only=True)
        module = ExportedModule.from_document(given["document"], given["tensors"])
        args, kwargs = given["call"]
        torch.save(module(*args, **kwargs), "out.pt")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(found) == list(expected), "a dict with the keys that the model's own output class has"
    assert all(torch.equal(found[key], expected[key]) for key in found)
