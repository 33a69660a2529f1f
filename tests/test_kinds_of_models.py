"""Every public verb on every kind of model: a right result, or one clear sentence before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.supported import unwrap

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse CSR tensor support:UserWarning",
    "ignore:The PyTorch API of nested tensors:UserWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
    "ignore:the forward of GraphModule pins the batch:UserWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
)
X = torch.linspace(-1, 1, 8).reshape(2, 4)
KINDS: dict[str, Callable[[], Any]] = {}


def kind(make: Callable[[], Any]) -> Callable[[], Any]:
    KINDS[make.__name__] = make
    return make


@kind
def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def with_weight(convert: Callable[[Tensor], Tensor]) -> nn.Module:
    model = plain()
    model[0].weight = nn.Parameter(convert(model[0].weight.detach()), requires_grad=False)
    return model


@kind
def compiled() -> Any:
    return torch.compile(plain())


@kind
def data_parallel() -> nn.Module:
    return nn.DataParallel(plain())


@kind
def traced_by_fx() -> nn.Module:
    return torch.fx.symbolic_trace(plain())


@kind
def with_an_integer_parameter() -> nn.Module:
    model = plain()
    model.steps = nn.Parameter(torch.ones(3, dtype=torch.int32), requires_grad=False)
    return model


@kind
def module_of_an_exported_program() -> nn.Module:
    return torch.export.export(plain(), (X,)).module()


@kind
def exported_program() -> object:
    return torch.export.export(plain(), (X,))


@kind
def scripted() -> nn.Module:
    return torch.jit.script(plain())  # type: ignore[no-any-return]


@kind
def traced_by_jit() -> nn.Module:
    return torch.jit.trace(plain(), X)  # type: ignore[no-any-return]


@kind
def with_a_scripted_part() -> nn.Module:
    return nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.ReLU())), nn.Linear(8, 3)).eval()


@kind
def quantized_while_running() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-any-return]


@kind
def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3)).eval()


@kind
def on_the_meta_device() -> nn.Module:
    return plain().to("meta")


@kind
def partly_on_the_meta_device() -> nn.Module:
    model = plain()
    model[2].to("meta")
    return model


@kind
def sparse() -> nn.Module:
    return with_weight(Tensor.to_sparse)


@kind
def sparse_by_rows() -> nn.Module:
    return with_weight(Tensor.to_sparse_csr)


@kind
def with_a_nested_tensor() -> nn.Module:
    model = plain()
    model.extra = nn.Parameter(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
    return model


@kind
def with_a_quantized_buffer() -> nn.Module:
    model = plain()
    model.register_buffer("q", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    return model


@kind
def without_a_forward() -> nn.Module:
    return nn.ModuleDict({"0": nn.Linear(4, 8)})


@kind
def without_parameters() -> nn.Module:
    return nn.ReLU()


@kind
def a_function() -> object:
    return torch.relu


@kind
def a_class() -> object:
    return nn.Linear


@kind
def a_state_dict() -> object:
    return plain().state_dict()


@kind
def nothing() -> object:
    return None


def _first(model: Any) -> Any:
    return dict(model.named_modules()).get("0", model) if isinstance(model, nn.Module) else model


VERBS: dict[str, Callable[[Any, Path], Any]] = {
    "prune": lambda model, folder: prunus.prune(model, 0.5),
    "prune channels": lambda model, folder: prunus.prune(model, 0.25, pattern="channel", example_inputs=X),
    "Pruner": lambda model, folder: prunus.Pruner(model, sparsity=0.5, steps=2),
    "Masks.apply": lambda model, folder: prunus.Masks({"0.weight": torch.ones(8, 4, dtype=torch.bool)}).apply(model),
    "Masks.from_model": lambda model, folder: prunus.Masks.from_model(model),
    "Masks.from_torch": lambda model, folder: prunus.Masks.from_torch(model),
    "torch_prune": lambda model, folder: prunus.torch_prune.global_unstructured(
        [(_first(model), "weight")],
        pruning_method=prunus.torch_prune.L1Unstructured,
        amount=0.5,
    ),
    "shrink": lambda model, folder: prunus.shrink(model, X),
    "explain": lambda model, folder: prunus.explain(model, X),
    "save": lambda model, folder: prunus.save(model, folder / "m.prunus", example_inputs=X),
    "save weights": lambda model, folder: prunus.save(model, folder / "m.prunus", weights_only=True),
    "measure": lambda model, folder: prunus.measure(model, X),
    "compile": lambda model, folder: prunus.compile(model, X, tune=False),
    "export pt2": lambda model, folder: prunus.export(model, folder / "m.pt2", X),
    "export safetensors": lambda model, folder: prunus.export(model, folder / "m.safetensors", X),
    "export onnx": lambda model, folder: prunus.export(model, folder / "m.onnx", X),
    "export c": lambda model, folder: prunus.export(model, folder / "m.c", X),
}
USUAL = ("plain", "compiled", "data_parallel", "traced_by_fx", "with_an_integer_parameter")
# What a module that is no module of Python code says, whatever is asked of it.
SAYS = {
    "scripted": "model is a TorchScript module",
    "traced_by_jit": "model is a TorchScript module",
    "exported_program": r"ExportedModule\.from_program|got ExportedProgram",
    "a_class": "got the class Linear|got type",
    "lazy": "is not initialised yet",
    "sparse": "has layout torch.sparse_coo",
    "sparse_by_rows": "has layout torch.sparse_csr",
}
# No public function meets the tensor that is at fault, or the kind's own error is that of Python itself.
APART = {("Masks.from_torch", None), ("torch_prune", "a_class"), ("torch_prune", "exported_program")}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", [name for name in KINDS if name not in USUAL])
def test_a_kind_that_is_not_usual_works_or_is_refused_in_a_sentence(name: str, verb: str, tmp_path: Path) -> None:
    model = KINDS[name]()
    before = {key: id(value) for key, value in vars(model).items()} if isinstance(model, nn.Module) else {}
    try:
        VERBS[verb](model, tmp_path)
    except (ValueError, TypeError) as error:
        text = str(error)
        assert len(text) < 500, text
        assert "\n" not in text
        assert "argument" not in text or "takes" not in text  # the verb was called as it has to be
        assert "unexpected keyword" not in text
        if name in SAYS and not {(verb, None), (verb, name)} & APART:
            assert re.search(SAYS[name], text), text
        assert not list(tmp_path.iterdir())
        if isinstance(model, nn.Module):
            assert {key: id(value) for key, value in vars(model).items()} == before
    except AttributeError:
        if verb != "torch_prune":  # torch's own function raises it for a module without a weight
            raise


@pytest.mark.parametrize("name", USUAL)
def test_a_usual_kind_gives_what_the_plain_model_does(name: str, tmp_path: Path) -> None:
    model, expected = KINDS[name](), plain()(X)
    prunus.save(model, tmp_path / "m.prunus", example_inputs=X)
    program = prunus.compile(model, X, tune=False)
    for result in (prunus.shrink(model, X), prunus.load(tmp_path / "m.prunus"), program):
        torch.testing.assert_close(result(X), expected)
    prunus.export(model, tmp_path / "m.pt2", X)
    assert prunus.measure(model, X).parameters >= 67
    assert prunus.explain(model, X).layers
    masks = prunus.prune(model, 0.5)
    assert sum(int((~mask).sum()) for mask in masks.values()) == 28
    weights = [parameter for parameter in unwrap(model).parameters() if parameter.dim() == 2]
    assert sum(int((weight == 0).sum()) for weight in weights) == 28


class Graph(nn.Module):
    """A layer of a graph network: what each node gets from its neighbours, as PyTorch Geometric's GCN does it."""

    def __init__(self, drop: bool) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(4, 8), nn.Linear(8, 3), drop

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        if self.drop:
            edges = edges[:, edges[0] != edges[1]]
        h = self.first(x).relu()
        sums = torch.zeros_like(h).index_add(0, edges[1], h[edges[0]])
        return self.second(sums)  # type: ignore[no-any-return]


@pytest.mark.parametrize("verb", ["shrink", "explain", "prune channels"])
def test_sizes_that_depend_on_values_are_named(verb: str) -> None:
    model = Graph(drop=True).eval()
    inputs = (torch.randn(5, 4), torch.tensor([[0, 1, 2, 3, 4], [1, 1, 3, 4, 0]]))
    call = {
        "shrink": lambda: prunus.shrink(model, inputs),
        "explain": lambda: prunus.explain(model, inputs),
        "prune channels": lambda: prunus.prune(model, 0.25, pattern="channel", example_inputs=inputs),
    }
    with pytest.raises(prunus.GraphError, match=r"as the values of its inputs say.*edges\[0\]"):
        call[verb]()


NOT_DENSE: list[tuple[Callable[[], Any], str]] = [
    (lambda: torch.eye(3).to_sparse(), "must be dense tensors, but one has layout torch.sparse_coo"),
    (lambda: torch.eye(3).to_sparse_csr(), "must be dense tensors, but one has layout torch.sparse_csr"),
    (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "must be dense tensors, but one is a nested"),
    (lambda: torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8), "dense tensors, but one is quantized"),
    (lambda: {"x": torch.ones(2, 4), "mask": None}, "got .Tensor, NoneType."),
    (lambda: [torch.ones(2, 4)], "got .list."),
]


@pytest.mark.parametrize(("make", "message"), NOT_DENSE)
def test_inputs_that_are_no_dense_tensors_are_refused(make: Callable[[], Any], message: str, tmp_path: Path) -> None:
    inputs = make()
    for call in (
        lambda: prunus.shrink(plain(), inputs),
        lambda: prunus.save(nn.Sequential(plain()), tmp_path / "m.prunus", example_inputs=inputs),
        lambda: prunus.compile(plain(), inputs),
    ):
        with pytest.raises(TypeError, match=message):
            call()
