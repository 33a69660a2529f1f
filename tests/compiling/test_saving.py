"""Programs in files: the same on the other side, and nothing a damaged or hostile file tells is believed."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree

import prunus
from prunus.compiling import load_program, storing
from prunus.compiling.checking import check
from prunus.compiling.lowering import lower
from prunus.errors import ProgramError
from prunus.files import checksum_of, load_with_metadata, save_tensors
from prunus.graph import trace
from zoo import ZOO


@pytest.mark.parametrize(
    "name", ["plain-cnn", "residual-projection", "shufflenet-v2", "densenet", "dict-output", "mlp-mixer"]
)
def test_a_saved_program_computes_the_same(name: str, tmp_path: Path) -> None:
    case = ZOO[name]
    program = prunus.compile(case.make(), case.example_inputs, tune=False)
    program.save(tmp_path / "compiled.program")
    again = load_program(tmp_path / "compiled.program", tune=False)
    args, kwargs = case.arguments(5)
    one, other = (_pytree.tree_leaves(each(*args, **kwargs)) for each in (program, again))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Net(nn.Module):
    """A little of everything that a file has to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return two outputs."""
        x = nn.functional.max_pool2d(self.conv(images).relu(), 3, 2, 1)
        x = self.norm(torch.cat([x, x.flip(1)], 1)[:, ::2].mean((2, 3)))
        return {"logits": self.fc(x).softmax(-1), "features": x}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program's file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("saved") / "net.safetensors"
    prunus.compile(Net().eval(), torch.randn(2, 3, 12, 12), tune=False).save(path)
    return path


def test_it_loads_in_another_process_without_the_model(saved: Path) -> None:
    code = (
        "import sys, torch; from prunus.compiling import load_program; p = load_program(sys.argv[1], tune=False); "
        "torch.manual_seed(1); print(p(torch.randn(3, 3, 12, 12))['logits'].double().sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(3)  # three rows of a softmax


def test_the_file_holds_only_nonzero_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1000, 100)).eval()
    prunus.prune(model, 0.98)
    prunus.compile(model, torch.randn(2, 1000), tune=False).save(tmp_path / "p.safetensors")
    assert (tmp_path / "p.safetensors").stat().st_size < 2000 * 8 + 8000


def test_no_file_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no program at .*; Program\.save writes one"):
        load_program(tmp_path / "none.safetensors")
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ProgramError, match="in none of the formats 'prunus program 2'"):
        load_program(tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_bytes(b"not a program")
    with pytest.raises(ProgramError, match="holds no program"):
        load_program(tmp_path / "text.safetensors")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_file_is_refused_or_a_net_that_stays_inside_its_values(saved: Path, data: st.DataObject) -> None:
    tensors = safetensors.torch.load_file(saved)
    with safetensors.safe_open(saved, "pt") as file:
        told = json.loads(json.loads(file.metadata()["prunus"])["program"])["net"]
    places = list(_places(told))
    path = data.draw(st.sampled_from(places))
    values = st.one_of(
        st.integers(-(2**40), 2**40),
        st.floats(),
        st.text(max_size=5),
        st.none(),
        st.just([]),
        st.just({}),
        st.booleans(),
    )
    _put(told, path, data.draw(values))
    try:
        if storing.num_bytes(told, tensors) > 2**28:
            return  # `load_program` refuses it before it is decoded
        net = storing.decode(told, tensors)
        check(net)
    except ProgramError:
        return
    for operation in net.operations:  # what was let through is sound by an independent look
        box = operation.box
        assert len(box) == 3
        assert all(side > 0 for side in box)
    for view in net.outputs:
        size = torch.Size(net.boxes[view.value]).numel()
        assert view.index.min() >= 0
        assert view.index.max() < size


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        # a table of 32 bits would hold -5, and the step would read before the value
        ("pool", {"rows": {"start": [2**32 - 5], "stop": [1], "step": 1, "divisors": [1]}}, "reads outside"),
        ("pool", {"rows": {"start": [0], "stop": [2**31 - 1 - 2**32], "step": 1, "divisors": [1]}}, "reads outside"),
        ("pool", {"rows": {"start": [0], "stop": [1], "step": 2**63, "divisors": [1]}}, "windows"),
        ("pool", {"source": {"view": 0, "index": {"numbers": "x"}}}, "reads no elements"),
        ("contract", {"weight": {"shape": [8, 3, 0, 3], "base": 0, "strides": [0, 0, 0, 0]}}, "is no convolution"),
        ("contract", {"grid": [6.0, 6.0]}, "groups or grid"),
        ("elementwise", {"steps": []}, "steps"),
        ("elementwise", {"steps": [{"function": "system", "operands": [0], "constants": []}]}, "unknown function"),
        ("elementwise", {"steps": [{"function": "relu", "operands": [1], "constants": []}]}, "operands"),
        ("elementwise", {"steps": [{"function": "add", "operands": [0], "constants": []}]}, "operands"),
        ("elementwise", {"steps": [{"function": "clamp", "operands": [0], "constants": []}]}, "too few constants"),
        ("elementwise", {"steps": [{"function": "relu", "operands": [0], "constants": []}] * 16}, "steps"),
        ("normalize", {"eps": float("nan")}, "eps"),
        ("normalize", {"eps": 10**400}, "eps"),
        ("join", {"pieces": [[{"view": 0, "index": {"indices": "i"}}, {"numbers": "x"}]]}, "a piece lies outside"),
        ("contract", {"stride": json.loads("[" * 900 + "]" * 900)}, "RecursionError|steps"),
    ],
)
def test_what_would_read_outside_is_refused(kind: str, change: dict[str, object], message: str) -> None:
    x = {"x": torch.zeros(1, 1, 1), "i": torch.zeros(1, 1, 1, dtype=torch.int64), "w": torch.zeros(1, 1, 1, 1)}
    view = {"view": 0, "index": {"indices": "i"}}
    row = {"view": 0, "index": {"shape": [1, 1], "base": 0, "strides": [0, 0]}}
    windows = {"start": [0], "stop": [1], "step": 1, "divisors": [1]}
    bias = {"shape": [1], "base": 0, "strides": [0]}
    fields: dict[str, dict[str, object]] = {
        "pool": {"function": "max", "source": view, "rows": windows, "columns": windows},
        "elementwise": {"sources": [view], "steps": [{"function": "relu", "operands": [0], "constants": []}]},
        "normalize": {"function": "softmax", "source": row, "scale": None, "shift": None, "eps": 0.0},
        "join": {"pieces": [[view, {"indices": "i"}]]},
        "contract": {
            "source": view,
            "weight": {"numbers": "w"},
            "bias": bias,
            "grid": [1, 1],
            "stride": [1, 1],
            "padding": [0, 0],
            "dilation": [1, 1],
            "groups": 1,
            "activation": None,
            "residual": None,
            "pool": None,
            "kind": "conv",
        },
    }
    operation = {"operation": kind, "name": "it", "output": 1, "box": [1, 1, 1], **fields[kind]}
    out = {"view": 1, "index": {"shape": [1], "base": 0, "strides": [0]}}
    boxes = [[0, [1, 1, 1]], [1, [1, 1, 1]]]
    net = {"inputs": [["x", 0, [1]]], "operations": [operation], "outputs": [out], "boxes": boxes}
    check(storing.decode(net, x))  # as it is, it can be computed
    operation.update(change)
    with pytest.raises(ProgramError, match=message):
        check(storing.decode(net, x))


def test_a_number_of_threads_that_no_call_can_have(saved: Path, tmp_path: Path) -> None:
    for threads in (0, -1, 1025):
        with pytest.raises(ValueError, match="threads must be a whole number from 1 to 1024"):
            load_program(saved, threads=threads)
    path = _forged(saved, tmp_path / "threads.safetensors", lambda told: told.update(threads=2**30))
    with pytest.raises(ProgramError, match="that no program has"):
        load_program(path)


def _forged(saved: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write a program's file with what its header tells changed, and the checksum made to fit."""
    tensors, metadata = load_with_metadata(saved)
    told = json.loads(metadata["program"])
    change(told)
    header = {"program": json.dumps(told)}
    save_tensors(path, tensors, header | {"checksum": checksum_of(tensors, header)})
    return path


def _first(told: dict[str, Any], kind: str) -> Any:
    return next(each for each in told["net"]["operations"] if each["operation"] == kind)


def _huge_view(*shape: int) -> Callable[[dict[str, Any]], object]:
    index = {"shape": shape, "base": 0, "strides": [0] * len(shape)}
    return lambda told: _first(told, "contract")["source"].update(index=index)


HUGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a view": _huge_view(3, 2**14, 2**14),
    "one that a machine can't hold": _huge_view(2**40, 2**40, 2**40),
    "an empty view with a long side": _huge_view(0, 2**34, 1),
    "the same view many times": lambda told: told["net"]["outputs"].extend(
        [{"view": 0, "index": {"shape": [1000, 1000], "base": 0, "strides": [0, 0]}}] * 400
    ),
    "sparse weights": lambda told: _first(told, "contract").update(
        weight={"shape": [2**15, 2**15], "places": "0", "values": "0"}
    ),
}


@pytest.mark.parametrize("what", HUGE)
def test_a_small_file_that_asks_for_much_memory_is_refused_before_any_is_taken(
    what: str, saved: Path, tmp_path: Path
) -> None:
    path = _forged(saved, tmp_path / "huge.safetensors", HUGE[what])
    tracemalloc.start()  # numpy tells it what it takes
    try:
        with pytest.raises(ProgramError, match=r"over the limit of 402,653,184 for a file of .* give max_bytes="):
            load_program(path, tune=False)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_zeros_around_and_columns_of_strides_count_as_memory(tmp_path: Path) -> None:
    prunus.compile(nn.Conv2d(1, 1, 1).eval(), torch.ones(2, 1, 1, 1), tune=False).save(tmp_path / "p.safetensors")

    def spread(told: dict[str, Any]) -> None:
        # one pixel, read at four places: the corners of 80,001 x 80,001 zeros
        wide = {"padding": [40_000, 40_000], "stride": [65_535, 65_535], "grid": [2, 2], "box": [1, 2, 2]}
        _first(told, "contract").update(wide)
        told["net"]["boxes"][-1][1] = [1, 2, 2]

    with pytest.raises(ProgramError, match="over the limit"):
        load_program(_forged(tmp_path / "p.safetensors", tmp_path / "wide.safetensors", spread), tune=False)


def test_damage_is_noticed(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for place in (len(content) - 3, content.index(b"relu"), content.index(b"checksum")):  # a weight, a function, a key
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        (tmp_path / "changed.safetensors").write_bytes(changed)
        with pytest.raises(ProgramError, match="what it holds is not what was written"):
            load_program(tmp_path / "changed.safetensors", tune=False)


@pytest.mark.parametrize("name", ["format", "net", "structure", "dtype", "threads", "batch"])
@pytest.mark.parametrize("value", [None, [], {}, [[]], 7, -1, "x", {"kind": [], "children": [], "keys": []}])
def test_any_part_may_be_missing_or_of_another_kind(name: str, value: Any, saved: Path, tmp_path: Path) -> None:
    for change in (lambda told: told.update({name: value}), lambda told: told.pop(name)):
        if value == 7 and name in ("threads", "batch"):
            continue
        with pytest.raises(ProgramError, match="can't be loaded"):
            load_program(_forged(saved, tmp_path / "p.safetensors", change), tune=False)


@pytest.mark.parametrize("constants", [["1e308", "-inf"], ["nan", "inf"], ["-1e308", "1e308"], ["1e-320", "-0.0"]])
def test_constants_of_functions_may_be_any_numbers(constants: list[str], saved: Path, tmp_path: Path) -> None:
    def clamped(told: dict[str, Any]) -> None:
        _first(told, "contract").update(activation={"function": "clamp", "constants": constants})

    program = load_program(_forged(saved, tmp_path / "p.safetensors", clamped), tune=False)
    assert program(torch.randn(2, 3, 12, 12))["logits"].shape == (2, 5)


def test_max_bytes_is_what_a_program_may_take(saved: Path) -> None:
    with pytest.raises(ProgramError, match="over the limit of 1,000 for a file"):
        load_program(saved, tune=False, max_bytes=1000)
    load_program(saved, tune=False, max_bytes=10 << 20)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": NaN}', '{"a": 1, "a": 1}', "1" * 10_000], ids=["deep", "nan", "twice", "long"]
)
def test_a_header_that_is_no_plain_json_is_refused(text: str, tmp_path: Path) -> None:
    header = {"prunus": json.dumps({"program": text})}
    safetensors.torch.save_file({"0": torch.ones(1)}, tmp_path / "p.safetensors", header)
    with pytest.raises(ProgramError, match="its header can't be read"):
        load_program(tmp_path / "p.safetensors")


def _places(tree: object, path: tuple[object, ...] = ()) -> object:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _places(value, (*path, key))
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            yield from _places(value, (*path, place))
    else:
        yield path


def _put(tree: object, path: tuple[object, ...], value: object) -> None:
    for key in path[:-1]:
        tree = tree[key]  # type: ignore[index]
    tree[path[-1]] = value  # type: ignore[index]


@pytest.mark.parametrize("base", [-1, 10**6])
@pytest.mark.parametrize("place", ["output", "operation"])
def test_a_view_that_reaches_outside_of_its_value_is_refused(base: int, place: str) -> None:
    net = lower(trace(nn.Linear(4, 3).eval(), torch.randn(2, 4)))
    told, tensors = storing.encode(net)
    view = told["outputs"][0] if place == "output" else told["operations"][0]["source"]
    view["index"]["base"] = base
    with pytest.raises(ProgramError, match="reads outside of a value"):
        check(storing.decode(json.loads(json.dumps(told)), tensors))


class Scaled(nn.Module):
    """A factor of its own, a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(2, 6, 6))
        self.conv, self.linear = nn.Conv2d(2, 4, 3), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        logits: Tensor = self.linear(self.conv(torch.sigmoid(x) * self.scale).flatten(1))
        return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_program_is_saved_as_it_was_compiled_though_the_model_is_trained_on(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model, images = Scaled().to(dtype).eval(), torch.randn(3, 2, 6, 6, dtype=dtype)
    program = prunus.compile(model, images, tune=False)
    before = program(images)
    for parameter in model.parameters():
        parameter.data.zero_()
    program.save(tmp_path / "net.program")
    assert torch.equal(prunus.load(tmp_path / "net.program", tune=False)(images), before)
