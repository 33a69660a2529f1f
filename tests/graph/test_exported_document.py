"""Documents of graphs, which anybody may have written: they load as they were, or are refused."""

from __future__ import annotations

import copy
import json
import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus.graph.exported import DocumentError, ExportedModule, operations
from prunus.graph.exported.arguments import result_kind

pytestmark = pytest.mark.usefixtures("one_thread")


class Small(nn.Module):
    """A convolution, a norm, dropout, a recurrent layer, sizes as numbers, and arguments of most kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.5)
        self.gru = nn.GRU(4, 3, batch_first=True)
        self.register_buffer("steps", torch.arange(3.0), persistent=False)

    def forward(self, images: Tensor, scale: float = 2.0) -> dict[str, Any]:
        rows = self.drop(self.norm(self.conv(images))).flatten(1, 2)
        states, last = self.gru(rows)
        first, second = states.masked_fill(states < -0.9, -math.inf).softmax(1).split([1, 2], 2)
        count = images.shape[0] * 3 + 1
        ones = torch.ones(count, dtype=images.dtype, device=images.device)
        return {"states": [first * scale, second], "last": (last + self.steps, ones, None)}


def small() -> ExportedModule:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about the recurrent layer
        program = torch.export.export(
            Small().eval(),
            (torch.randn(2, 1, 6, 6), 2.0),
            dynamic_shapes={"images": {0: torch.export.Dim.AUTO}, "scale": None},
            strict=False,
        )
    return ExportedModule.from_program(program, why="a test")


@pytest.fixture(scope="module")
def module() -> ExportedModule:
    return small()


@pytest.fixture
def document(module: ExportedModule) -> dict[str, Any]:
    found = json.loads(json.dumps(module.to_document(), allow_nan=False))
    assert isinstance(found, dict)
    return found


def test_a_document_holds_the_whole_module(module: ExportedModule, document: dict[str, Any]) -> None:
    assert document == module.to_document(), "it is plain JSON"
    again = ExportedModule.from_document(document, module.tensors())
    assert again.to_document() == document
    assert again.why == "a test"
    images = torch.randn(3, 1, 6, 6)
    for mode in (False, True):
        outputs = []
        for either in (copy.deepcopy(module).train(mode), copy.deepcopy(again).train(mode)):
            torch.manual_seed(1)
            outputs.append((either(images, 2.0), either.state_dict()))
        (left, state), (right, other) = outputs
        assert torch.equal(left["states"][0], right["states"][0])
        assert torch.equal(left["last"][1], torch.ones(10))
        assert right["last"][2] is None
        assert list(state) == list(other)
        assert all(torch.equal(state[name], other[name]) for name in state)
    assert [name for name, _ in again.named_buffers() if name not in again.state_dict()] == ["steps"]
    again.requires_grad_(False)
    assert set(module.to_document()["kinds"]) == set("pbc"), "parameters, buffers and constants"
    assert set(again.to_document()["kinds"]) == set("fbc"), "and frozen ones"


def test_the_dtype_of_a_converted_module_is_in_its_document(module: ExportedModule) -> None:
    double = copy.deepcopy(module).double()
    again = ExportedModule.from_document(double.to_document(), double.tensors())
    images = torch.randn(3, 1, 6, 6).double()
    assert torch.equal(again(images, 2.0)["last"][0], double(images, 2.0)["last"][0])
    assert again(images, 2.0)["last"][1].dtype == torch.float64
    assert again.float()(images.float(), 2.0)["last"][1].dtype == torch.float32


def test_documents_allow_nothing_that_reaches_outside() -> None:
    outside = (
        "empty",
        "as_strided",
        "set_",
        "resize",
        "from_file",
        "data_ptr",
        "storage",
        "record_stream",
        "item",
        "_local",
    )
    assert not [name for name in operations.ATEN if name.startswith(outside) or "unsafe_index" in name]
    plain = {"Tensor", "List[Tensor]", "int"}
    for name in operations.ATEN:
        operation = operations.overload(name)
        assert operation is not None, f"PyTorch {torch.__version__} has no {name}"
        assert {str(result.real_type) for result in operation._schema.returns} <= plain
        assert result_kind(operation) in ("tensor", "tensors", "number")
        assert not any(argument.is_out for argument in operation._schema.arguments)
    with pytest.raises(KeyError):
        operations.overload("set_.source_Tensor")


def test_an_operation_that_is_not_pytorchs_own_is_named(module: ExportedModule) -> None:
    odd = copy.deepcopy(module)
    node = next(node for node in odd.graph.nodes if node.target is torch.ops.aten.softmax.int)
    node.target = torch.ops.aten.empty_like.default
    with pytest.raises(DocumentError, match=r"operation aten\.empty_like\.default is none that a document can hold"):
        odd.to_document()


CONV = 0  # the first node


def changed(document: dict[str, Any], **entries: Any) -> dict[str, Any]:
    return {**document, **entries}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"extra": 1}, "extra is unknown"),
        ({"why": None}, "why must be a text"),
        ({"positional": 5}, r"positional must be in \[0, 2\], got 5"),
        ({"arguments": [["images", "*"], ["images", "*"]]}, "different names"),
        ({"arguments": [["images", "*"], ["lambda", "*"]]}, "different names"),
        ({"arguments": [["images", "*"], ["x=print(1)", "*"]]}, "different names"),
        ({"arguments": [["images", "*"]], "positional": 1}, "1 leaves, got 2 inputs"),
        ({"output": "?"}, "a structure must be"),
        ({"output": {"set": []}}, "no structure 'set'"),
        ({"output": {"dict": [["a", "*"], ["a", "*"]]}}, "keys different"),
        ({"output": "*"}, "the output has 1 leaves, got 5"),
        ({"leaves": ["^1000000"]}, "refers to the result 1000000 steps back"),
        ({"leaves": ["^0"]}, "refers to the result 0 steps back"),
        ({"leaves": ["^True"]}, "number of steps can't be 'True'"),
        ({"leaves": ["^1"]}, "number of steps can't be '1'"),
        ({"leaves": ["^10000000000000"]}, "number of steps"),
        ({"kinds": "ppp"}, "the kinds of 3 tensors, got 12"),
        ({"kinds": "x" * 12}, "of the unknown kind 'x'"),
        ({"kinds": "p" * 12}, "a trained parameter of whole numbers"),
        ({"kinds": ["p"] * 12}, "kinds must be a text"),
    ],
)
def test_a_wrong_entry_is_refused(
    module: ExportedModule, document: dict[str, Any], entries: dict[str, Any], message: str
) -> None:
    with pytest.raises(DocumentError, match=message):
        ExportedModule.from_document(changed(document, **entries), module.tensors())


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (["os.system", "'true"], "no operation that a document may hold"),
        (["__class__.__init__"], "no operation"),
        (["empty.memory_format", [2, 2]], "no operation"),
        (["number.__import__", "'os"], "no operation"),
        (["number.mul", "'a", 10**6], "it takes 2 numbers"),
        (["number.neg", 1, 2], "it takes 1 numbers"),
        (["number.mul", "^2", 2], "it takes 2 numbers"),
        (["getitem", "^2", 0], "takes several tensors and a whole number"),
        (["relu"], "lacks its argument 'self'"),
        (["relu", "^2", 1], "takes 1 arguments by position, got 2"),
        (["relu", "^2", {"x": 1}], "no argument 'x'"),
        (["relu", "^2", {"self": "^2"}], "given twice"),
        (["relu", "'text"], "must be of the type Tensor, got 'text'"),
        (["relu", ["^2"]], "must be of the type Tensor"),
        (["relu", "^99"], "99 steps back, and 2 come before it"),
        (["relu", "^-1"], "-1 steps back"),
        (["relu", "@99"], "refers to the tensor number 98 of 12"),
        (["relu", "@-1"], "refers to the tensor number -2 of 12"),
        (["relu", "@__class__"], "number of steps"),
        (["relu", "exec"], "an argument can't be 'exec'"),
        (["relu", ""], "an argument can't be ''"),
        (["relu", {"self": "^2"}, "^2"], "of the type dict can't be an argument"),
        (["dropout", "^2", 0.5, "!a.__class__"], "can't be the name"),
        (["dropout", "^2", 0.5, "!conv.weight"], "which is a tensor"),
        (["dropout", "^2", 0.5, "!conv.weight.x"], "which is a tensor"),
        (["dropout", "^2", 0.5, 1], "must be of the type bool"),
        (["zeros", [2], {"device": "'cpu"}], "must be of the type Optional"),
        (["zeros", [2], {"device": "#cuda:7"}], "an argument can't be '#cuda:7'"),
        (["zeros", [2], {"dtype": "#qint8"}], "an argument can't be '#qint8'"),
        (["zeros", [2**63]], "more than 64 bits"),
        (["zeros", [[[[[2]]]]]], "4 deep"),
        (["einsum", "'" + "a" * 2000, []], "a text is too long"),
        (["einsum", "'a\n", []], "can't be printed"),
        (["bernoulli", "^2", {"generator": 1}], "generator"),
        (["mul.Tensor", "^2", "#1"], "an argument can't be '#1'"),
        ("relu", "must be a list"),
        ([], "no operation"),
        ([["relu"], "^2"], "does not begin with an operation's name"),
    ],
)
def test_a_forged_node_is_refused(module: ExportedModule, document: dict[str, Any], node: Any, message: str) -> None:
    document["nodes"][CONV] = node
    with pytest.raises(DocumentError, match=message):
        ExportedModule.from_document(document, module.tensors())


@pytest.mark.parametrize(
    "name",
    ["__class__.weight", "a.forward", "_parameters", "", "a..b", ".a", "a.", "é", "a'b", 'a"b', "a\\b", "a\nb", "a;b"],
)
def test_a_forged_name_is_refused(module: ExportedModule, document: dict[str, Any], name: str) -> None:
    document["kinds"] += "b"
    with pytest.raises(DocumentError, match="can't be the name"):
        ExportedModule.from_document(document, {**module.tensors(), name: torch.zeros(1)})


def test_tensors_must_fit_the_document(module: ExportedModule, document: dict[str, Any]) -> None:
    tensors = module.tensors()
    weight = tensors["conv.weight"]
    for others, message in [
        ({name: value for name, value in tensors.items() if name != "conv.bias"}, "the kinds of 12 tensors, got 11"),
        ({**tensors, "more": weight}, "got 13"),
        ({**tensors, "conv.weight": weight.to(torch.float8_e4m3fnuz)}, "dtype float8_e4m3fnuz"),
        ({**tensors, "conv.weight": weight.detach().to_sparse()}, "must be a dense tensor"),
        ({**tensors, "conv.weight": 3}, "must be a dense tensor"),
        ({**tensors, "conv.weight": weight.to("meta")}, "on one device"),
    ]:
        with pytest.raises(DocumentError, match=message):
            ExportedModule.from_document(document, others)
    document["kinds"] += "b"
    with pytest.raises(DocumentError, match="is a tensor, not a module"):
        ExportedModule.from_document(document, {**tensors, "conv.weight.more": torch.zeros(1)})


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


def test_tied_tensors_stay_tied_and_kinds_apart() -> None:
    module = ExportedModule.from_program(torch.export.export(Tied().eval(), (torch.randn(2, 3),), strict=False))
    document, tensors = module.to_document(), module.tensors()
    assert list(tensors) == ["first.weight", "first.bias", "second.weight"]
    again = ExportedModule.from_document(document, tensors)
    assert again.first.weight is again.second.weight
    apart = ExportedModule.from_document({**document, "kinds": "ppb"}, tensors)
    assert [name for name, _ in apart.named_buffers()] == ["second.weight"]


@pytest.mark.parametrize("document", [None, [], "text", {}, {"why": ""}, 3])
def test_what_is_no_document_is_refused(document: Any) -> None:
    with pytest.raises(DocumentError, match="the graph can't be read"):
        ExportedModule.from_document(document, {})


def test_a_document_that_is_too_deep_is_refused(module: ExportedModule, document: dict[str, Any]) -> None:
    deep: Any = "*"
    for _ in range(5000):
        deep = {"list": [deep]}
    with pytest.raises(DocumentError):
        ExportedModule.from_document({**document, "output": deep}, module.tensors())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(
        [
            *("*", "#own", "#inf", "#nan", "#float32", "conv.weight", "!drop", "!conv.bias", "", "relu", "getitem"),
            *("^", "^2", "^9", "@", "@3", "@-2", "@0", "!", "'", "'text", "pppp"),
        ]
    )
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "device", "shape", "value", "example", "kinds", "list", "dict"])
            | st.text(max_size=4),
            inner,
            max_size=2,
        )
    ),
    max_leaves=6,
)
SMALL: list[ExportedModule] = []


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) in a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in entries for place in ((value, key), *places(inner))]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_mutated_documents_load_or_are_refused(data: st.DataObject) -> None:
    if not SMALL:
        SMALL.append(small())
    document = copy.deepcopy(SMALL[0].to_document())
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(document)
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        kind = data.draw(st.sampled_from(["replace", "other", "drop"]))
        if kind == "replace":
            container[key] = data.draw(JSON)
        elif kind == "other":  # what stands elsewhere in the document
            holder, place = found[data.draw(st.integers(0, len(found) - 1))]
            container[key] = copy.deepcopy(holder[place])
        else:
            del container[key]
    try:
        loaded = ExportedModule.from_document(document, SMALL[0].tensors())
    except DocumentError:
        return
    if "#cpu" not in [inner[key] for inner, key in places(document)]:  # here that is the module's own
        calls = [call[:-1] if call[-1] == {} else call for call in document["nodes"]]
        assert loaded.to_document()["nodes"] == calls, "what is loaded is what the document says"
