from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.errors import ReceiptError
from prunus.machine import Machine
from prunus.measuring.evaluate import mcnemar, paired_interval, wilson
from prunus.measuring.receipt import (
    Accuracy,
    BreakEven,
    BreakEvenPoint,
    Changes,
    Check,
    DataFacts,
    Latency,
    LayerFacts,
    ModelFacts,
    PairedTest,
    Receipt,
)
from prunus.measuring.times import crossing

names = st.text(min_size=1, max_size=6)
finite = st.floats(allow_nan=False, allow_infinity=False)
share = st.floats(0, 1)


@st.composite
def layers(draw: st.DrawFn, name: str) -> LayerFacts:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=4)))
    size = math.prod(shape)
    nonzero = draw(st.integers(0, size))
    uses = draw(st.none() | st.integers(0, 100))
    macs = (None, None) if uses is None else (uses * size, uses * nonzero)
    return LayerFacts(name, shape, size, nonzero, 1 - nonzero / size, *macs)


@st.composite
def accuracies(draw: st.DrawFn) -> Accuracy:
    total = draw(st.integers(1, 10_000))
    correct = draw(st.integers(0, total))
    per_class = tuple(draw(st.lists(st.none() | share, max_size=4)))
    nll = draw(st.floats(0, 1e300))
    return Accuracy(correct / total, correct, total, wilson(correct, total), per_class, nll, draw(share))


@st.composite
def times(draw: st.DrawFn) -> Latency:
    p10, median, p90 = sorted(draw(st.lists(st.floats(1e-3, 1e9), min_size=3, max_size=3)))
    return Latency(median, p10, p90, draw(st.integers(1, 1000)))


@st.composite
def break_evens(draw: st.DrawFn) -> BreakEven:
    sparsities = sorted(draw(st.sets(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4)))
    points = tuple(BreakEvenPoint(s, round(1000 * (1 - s)), draw(times())) for s in sparsities)
    dense = draw(st.dictionaries(names, times(), min_size=1, max_size=3))
    fastest = min(time.median for time in dense.values())
    found = crossing(sparsities, [point.latency_us.median / fastest for point in points])
    return BreakEven(draw(st.integers(1, 9)), 64, dense, points, found, tuple(draw(st.lists(names, max_size=1))))


@st.composite
def model_facts(draw: st.DrawFn, name: str) -> ModelFacts:
    found = tuple(draw(layers(f"layer{i}")) for i in range(draw(st.integers(0, 3))))
    parameters = sum(layer.parameters for layer in found) + draw(st.integers(0, 20))
    nonzero = sum(layer.nonzero for layer in found)
    macs = (None, None) if any(layer.macs is None for layer in found) else (10**6, 10**6)
    return ModelFacts(
        name,
        parameters,
        nonzero,
        1 - nonzero / parameters if parameters else 0.0,
        tuple(layer if macs[0] else dataclasses.replace(layer, macs=None, nonzero_macs=None) for layer in found),
        *macs,
        uncounted=tuple(draw(st.lists(names, max_size=2))),
        bytes=draw(st.dictionaries(names, st.integers(0, 10**12), max_size=3)),
        accuracy=draw(st.none() | accuracies()),
        latency_us={"torch": {"1": draw(st.dictionaries(names, times(), max_size=2))}},
        peak_memory_bytes=draw(st.none() | st.integers(0, 10**12)),
        seconds=draw(st.none() | st.floats(0, 1e9)),
        notes=tuple(draw(st.lists(names, max_size=2))),
    )


@st.composite
def receipts(draw: st.DrawFn) -> Receipt:
    labels = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    found = [draw(model_facts(label)) for label in labels]
    cut = draw(st.integers(1, len(found)))
    total = draw(st.integers(1, 1000))
    b = draw(st.integers(0, total))
    c = draw(st.integers(0, total - b))
    test = PairedTest(labels[0], labels[-1], b, c, (c - b) / total, paired_interval(b, c, total), mcnemar(b, c))
    memory = draw(st.none() | st.integers(1, 10**12))
    return Receipt(
        prunus="0.1.0",
        torch="2.13.0",
        machine=Machine(draw(names), draw(st.integers(1, 99)), 2, memory, "Linux", draw(st.none() | names)),
        models=tuple(found[:cut]),
        controls=tuple(found[cut:]),
        recipe=draw(st.dictionaries(names, st.lists(finite | st.text(), max_size=2), max_size=2)),
        seed=draw(st.integers()),
        data=draw(st.none() | st.builds(DataFacts, names, names, *[st.integers(0, 10**6)] * 3, names)),
        comparisons=draw(st.sampled_from([(), (test,)])),
        checks=tuple(draw(st.lists(st.builds(Check, names, names, finite, finite, st.booleans()), max_size=2))),
        break_even=draw(st.none() | break_evens()),
    )


@settings(deadline=None, max_examples=80)
@given(receipts())
def test_a_receipt_survives_json(receipt: Receipt):
    assert Receipt.from_json(receipt.to_json()) == receipt
    assert json.loads(receipt.to_json())["schema"] == 1


def example() -> Receipt:
    dense = ModelFacts(
        "dense",
        parameters=12,
        nonzero=9,
        sparsity=0.25,
        layers=(LayerFacts("fc.weight", (2, 5), 10, 7, 0.3, 10, 7),),
        macs=10,
        nonzero_macs=7,
        bytes={"safetensors": 120},
        accuracy=Accuracy(0.9, 9, 10, wilson(9, 10), (1.0, None), 0.3, 0.05),
        latency_us={"torch": {"1": {"64": Latency(2.0, 1.0, 3.0, 5)}}},
        peak_memory_bytes=100,
        seconds=1.0,
    )
    return Receipt(
        prunus="0.1.0",
        torch="2.13.0",
        machine=Machine("A processor", 2, 2, 2**30, "Linux", "A GPU"),
        models=(dense, dataclasses.replace(dense, name="pruned")),
        recipe={"name": "lenet", "prune": {"sparsity": 0.2}},
        data=DataFacts("mnist", "a mirror", 55_000, 5_000, 10_000, "ab"),
        comparisons=(PairedTest("dense", "pruned", 1, 2, 0.1, (-0.2, 0.4), 1.0),),
        checks=(Check("zeros stay", "largest |w| under the mask", 0.0, 0.0, passed=True),),
        break_even=BreakEven(
            threads=1,
            batch=64,
            dense_us={"torch": Latency(20.0, 19.0, 21.0, 9), "onnxruntime": Latency(10.0, 9.0, 11.0, 9)},
            points=tuple(BreakEvenPoint(s, n, Latency(t, t, t, 9)) for s, n, t in ((0.0, 12, 30.0), (0.5, 7, 5.0))),
            sparsity=0.4,  # by hand: from three times to half of 10 µs, 1 is 2 of 2.5 down
            notes=("openvino is not installed",),
        ),
    )


def paths(tree: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place of a JSON tree, but what is inside the free-form recipe."""
    if path[:1] == ("recipe",) and len(path) > 1:
        return []
    entries = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [path, *(place for key, value in entries for place in paths(value, (*path, key)))]


def changed(path: tuple[str | int, ...], value: Any) -> str:
    tree = json.loads(example().to_json())
    place = tree
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(tree)


ALL_PATHS = [path for path in paths(json.loads(example().to_json())) if path]


@pytest.mark.parametrize("path", ALL_PATHS, ids=lambda path: ".".join(map(str, path)))
def test_any_field_of_another_type_is_refused_by_name(path: tuple[str | int, ...]):
    for wrong in ([[]], {"no": {}}, "\0"):
        tree_value = json.loads(example().to_json())
        for step in path:
            tree_value = tree_value[step]
        if type(tree_value) is type(wrong) or (path == ("recipe",) and isinstance(wrong, dict)):
            continue
        with pytest.raises(ReceiptError, match=r"receipt.* (can't be read|has schema)") as caught:
            Receipt.from_json(changed(path, wrong))
        assert str(path[0]) in str(caught.value)


@pytest.mark.parametrize("value", [10**400, -(10**400), 2**70, 1e308, 5e-324, "x" * 10_000, [[[]]] * 9], ids=range(7))
def test_a_field_of_any_size_is_read_or_refused(value: Any):
    for path in ALL_PATHS:
        try:
            Receipt.from_json(changed(path, value))
        except ReceiptError:
            continue


def test_every_field_must_be_there():
    tree = json.loads(example().to_json())
    for name in tree.keys() - {"break_even", "changes"}:
        text = json.dumps({key: value for key, value in tree.items() if key != name})
        with pytest.raises(ReceiptError, match=f"{name} is missing"):
            Receipt.from_json(text)
    for name in tree["models"][0].keys() - {"embedded"}:
        entry = {key: value for key, value in tree["models"][0].items() if key != name}
        with pytest.raises(ReceiptError, match=rf"models\[0\].{name} is missing"):
            Receipt.from_json(json.dumps({**tree, "models": [entry]}))


def test_a_receipt_from_before_the_break_even_curve_is_read() -> None:
    tree = json.loads(example().to_json())
    del tree["break_even"]
    assert Receipt.from_json(json.dumps(tree)) == dataclasses.replace(example(), break_even=None)


def test_changes_that_contradict_themselves_are_refused() -> None:
    good = Changes("dense", "pruned", 3, 10, (0.1, 0.6), 1, 0.5, (0.1, 0.9), (4, 2))
    with pytest.raises(ReceiptError, match="flipped must be at most total"):
        dataclasses.replace(good, flipped=11)
    with pytest.raises(ReceiptError, match="worst_loss"):
        dataclasses.replace(good, worst_loss=0.95)
    with pytest.raises(ReceiptError, match="an image in lost must be in"):
        dataclasses.replace(good, lost=(10,))
    with pytest.raises(ReceiptError, match="each image once"):
        dataclasses.replace(good, lost=(2, 2))
    with pytest.raises(ReceiptError, match="name 'other', which is none of"):
        dataclasses.replace(example(), changes=(dataclasses.replace(good, second="other"),))


@pytest.mark.parametrize(
    ("sparsities", "ratios", "expected"),
    [
        ([0.0, 0.5, 0.9], [2.0, 1.5, 0.5], 0.7),
        ([0.0, 0.8], [1.5, 1.0], 0.8),
        ([0.2, 0.8], [0.9, 0.5], 0.2),
        ([0.0, 0.8], [2.0, 1.1], None),
        ([0.0, 0.2, 0.4, 0.6], [1.5, 0.9, 1.2, 0.8], 0.5),  # of several crossings the last
        ([0.0, 0.5], [0.9, 1.1], None),
    ],
)
def test_the_break_even_is_where_the_line_crosses_one(
    sparsities: list[float], ratios: list[float], expected: float | None
) -> None:
    assert crossing(sparsities, ratios) == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("break_even", "sparsity"), 0.5, r"break_even: sparsity must be the points' crossing = 0.4, got 0.5"),
        (("break_even", "sparsity"), None, r"break_even: sparsity must be the points' crossing 0.4, got None"),
        (("break_even", "dense_us"), {}, "dense_us must hold at least one runtime"),
        (("break_even", "points"), [], "points must hold at least one"),
        (("break_even", "points", 1, "nonzero"), 13, "never in nonzero"),
        (("break_even", "points", 0, "sparsity"), 0.6, "points must rise in sparsity"),
        (("break_even", "points", 1, "sparsity"), 1.0, r"points\[1\]: sparsity must be in \[0, 1\), got 1.0"),
        (("break_even", "batch"), 0, "batch must be at least 1"),
        (("break_even", "sparsity_in_8_bits"), 0.5, "sparsity_in_8_bits must be the points' crossing None, got 0.5"),
        (("models", 0, "nonzero"), 13, r"models\[0\]: nonzero must be at most parameters, got 13 of 12"),
        (("models", 0, "nonzero"), -1, "nonzero must be at least 0, got -1"),
        (("models", 0, "sparsity"), 0.2, "sparsity must be 1 - nonzero / parameters = 0.25, got 0.2"),
        (("models", 0, "layers", 0, "nonzero"), 11, r"models\[0\].layers\[0\]: nonzero must be at most parameters"),
        (("models", 0, "layers", 0, "shape"), [3, 5], r"shape \(3, 5\) must hold 10 parameters"),
        (("models", 0, "parameters"), 9, "sparsity must be"),
        (("models", 0, "nonzero_macs"), 11, "nonzero_macs must be at most macs, got 11 of 10"),
        (("models", 0, "nonzero_macs"), None, "macs and nonzero_macs must come together"),
        (("models", 0, "nonzero_macs"), 6, "nonzero_macs of the layers must be at most nonzero_macs, got 7 of 6"),
        (("models", 0, "bytes", "safetensors"), -5, r"bytes\['safetensors'\] must be at least 0, got -5"),
        (("models", 0, "peak_memory_bytes"), -1, "peak_memory_bytes must be at least 0"),
        (("models", 0, "seconds"), -1.0, "seconds must be at least 0"),
        (("models", 0, "accuracy", "top1"), 0.91, r"accuracy: top1 must be correct / total = 0.9, got 0.91"),
        (("models", 0, "accuracy", "correct"), 11, "correct must be at most total, got 11 of 10"),
        (("models", 0, "accuracy", "total"), 0, "total must be at least 1, got 0"),
        (("models", 0, "accuracy", "ci95"), [0.1, 0.2], r"ci95 must hold top1 0.9, got \[0.1, 0.2\]"),
        (("models", 0, "accuracy", "ci95"), [0.1, 1.2], r"ci95\[1\] must be in \[0, 1\], got 1.2"),
        (("models", 0, "accuracy", "per_class"), [1.5], r"per_class\[0\] must be in \[0, 1\], got 1.5"),
        (("models", 0, "accuracy", "nll"), -0.1, "nll must be at least 0"),
        (("models", 0, "accuracy", "ece"), 2.0, r"ece must be in \[0, 1\]"),
        (("models", 0, "latency_us", "torch", "1", "64", "p10"), 2.5, r"\['64'\]: p10, median, p90 must be above 0"),
        (("models", 0, "latency_us", "torch", "1", "64", "runs"), 0, "runs must be at least 1"),
        (("models", 0, "name"), "pruned", "models and controls must have different names, got 'pruned' twice"),
        (("comparisons", 0, "first"), "dence", "comparisons name 'dence', which is none of dense, pruned"),
        (("comparisons", 0, "p_value"), 1.1, r"p_value must be in \[0, 1\]"),
        (("comparisons", 0, "difference"), -0.1, "must have the sign of only_second - only_first"),
        (("comparisons", 0, "ci95"), [0.2, 0.4], r"comparisons\[0\]: ci95 must hold difference 0.1"),
        (("machine", "cores"), 0, "machine: cores must be at least 1, got 0"),
        (("data", "test"), -1, "data: test must be at least 0"),
        (("schema",), 2, "the receipt has schema 2, this prunus reads schema 1"),
        (("schema",), "1", "has schema '1'"),
    ],
)
def test_a_contradiction_is_refused_by_name(path: tuple[str | int, ...], value: Any, message: str):
    with pytest.raises(ReceiptError, match=message):
        Receipt.from_json(changed(path, value))


def test_contradictions_and_nan_are_refused_when_made():
    with pytest.raises(ReceiptError, match="nonzero must be at most parameters"):
        LayerFacts("fc", (2,), 2, 3, 0.0)
    with pytest.raises(ReceiptError, match="ece must be in"):
        Accuracy(1.0, 1, 1, (0.0, 1.0), (1.0,), 0.0, math.nan)
    with pytest.raises(ReceiptError, match="p10, median, p90"):
        Latency(math.nan, 1.0, 2.0, 3)


def test_nan_is_refused_when_written_by_name(tmp_path: Path):
    receipt = dataclasses.replace(example(), checks=(Check("a", "b", math.nan, 1.0, passed=False),))
    with pytest.raises(ReceiptError, match=r"can't be written: checks\[0\].value must be a finite number, got nan"):
        receipt.save(tmp_path / "receipt.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ReceiptError, match=r"recipe\['lr'\] must be a finite number, got inf"):
        dataclasses.replace(example(), recipe={"lr": math.inf}).to_json()


def test_saving_and_loading(tmp_path: Path):
    path = tmp_path / "runs" / "receipt.json"
    example().save(path)
    assert Receipt.load(path) == example()
    assert Receipt.load(str(path)) == example()


def test_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "receipt.json"
    with pytest.raises(FileNotFoundError, match=r"no receipt at '.*receipt.json'"):
        Receipt.load(path)
    example().save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"\xff\xfe", whole[: len(whole) // 2], b"[]", b'"text"', whole.replace(b"torch", b"torsh", 1)):
        path.write_bytes(damaged)
        with pytest.raises(ReceiptError, match=r"receipt '.*receipt.json' can't be read"):
            Receipt.load(path)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_file_with_one_wrong_byte_is_read_or_refused(data: st.DataObject):
    text = bytearray(example().to_json().encode())
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(32, 126))
    try:
        receipt = Receipt.from_json(text.decode())
    except ReceiptError:
        return
    assert Receipt.from_json(receipt.to_json()) == receipt


def test_a_recipe_hash_and_data_may_be_absent():
    receipt = Receipt(prunus="0", torch="0", machine=example().machine, models=())
    assert (receipt.recipe, receipt.recipe_hash, receipt.data) == ({}, "", None)
    assert Receipt.from_json(receipt.to_json()) == receipt
