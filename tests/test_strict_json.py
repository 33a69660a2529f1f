from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.files.strict_json import FieldError, dumps, loads, parse


@dataclass(frozen=True)
class Part:
    size: int
    share: float | None
    on: bool = False


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...]
    pair: tuple[float, float]
    table: dict[str, dict[str, Part]] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


finite = st.floats(allow_nan=False, allow_infinity=False)
parts = st.builds(Part, st.integers(), st.none() | finite, st.booleans())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
wholes = st.builds(
    Whole,
    st.text(),
    st.lists(parts, max_size=3).map(tuple),
    st.tuples(finite, finite),
    st.dictionaries(st.text(), st.dictionaries(st.text(), parts, max_size=2), max_size=2),
    st.dictionaries(st.text(), json_values, max_size=3),
)


@settings(deadline=None, max_examples=100)
@given(wholes)
def test_what_is_written_reads_back_equal(whole: Whole):
    text = dumps(whole)
    assert loads(Whole, text) == whole
    assert dumps(loads(Whole, text)) == text


@settings(deadline=None, max_examples=150)
@given(st.text() | json_values.map(json.dumps))
def test_any_text_is_read_or_refused(text: str):
    try:
        value = loads(Part, text)
    except FieldError:
        return
    assert isinstance(value, Part)


GOOD = Whole("a", (Part(1, 0.5),), (0.0, 1.0), {"x": {"y": Part(2, None)}}, {"deep": [{"k": 1}]})


def with_change(path: list[str | int], value: Any) -> str:
    tree = json.loads(dumps(GOOD))
    place = tree
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["name"], 3, "name must be a text, got 3"),
        (["parts", 0, "size"], "1", r"parts\[0\].size must be an integer, got '1'"),
        (["parts", 0, "size"], 1.0, r"parts\[0\].size must be an integer, got 1.0"),
        (["parts", 0, "size"], True, r"parts\[0\].size must be an integer, got True"),
        (["parts", 0, "share"], "x", r"parts\[0\].share must be a number"),
        (["parts", 0, "share"], False, r"parts\[0\].share must be a number, got False"),
        (["parts", 0, "on"], 1, r"parts\[0\].on must be true or false, got 1"),
        (["parts"], {}, "parts must be a list"),
        (["parts", 0], [], r"parts\[0\] must be an object"),
        (["pair"], [1.0], "pair must hold 2 values, got 1"),
        (["pair", 1], 10**400, r"pair\[1\] must be a finite number"),
        (["table", "x", "y", "size"], None, r"table\['x'\]\['y'\].size must be an integer, got None"),
        (["parts", 0, "sizes"], 1, r"parts\[0\].sizes is unknown; did you mean 'size'"),
        (["other"], 1, "other is unknown"),
    ],
)
def test_a_wrong_field_is_named(path: list[str | int], value: Any, message: str):
    with pytest.raises(FieldError, match=message):
        loads(Whole, with_change(path, value))


@pytest.mark.parametrize("name", ["name", "parts", "pair", "table", "free"])
def test_a_missing_field_is_named_though_it_has_a_default(name: str):
    tree = json.loads(dumps(GOOD))
    del tree[name]
    with pytest.raises(FieldError, match=f"{name} is missing"):
        loads(Whole, json.dumps(tree))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1, "a": 2}', "the key 'a' appears twice"),
        ("[" * 100_000, "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
    ],
)
def test_damaged_text_is_refused(text: str, message: str):
    with pytest.raises(FieldError, match=message):
        parse(text)


def test_a_number_too_large_for_a_float_is_refused():
    text = json.dumps(json.loads(dumps(Part(1, 7.5)))).replace("7.5", "1e999")
    with pytest.raises(FieldError, match="share must be a finite number, got inf"):
        loads(Part, text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Part(1, math.nan), "share must be a finite number, got nan"),
        (Whole("a", (Part(1, math.inf),), (0, 1)), r"parts\[0\].share must be a finite number, got inf"),
        (Whole("a", (), (0, 1), free={"x": [1, math.nan]}), r"free\['x'\]\[1\] must be a finite number"),
        (Whole("a", (), (0, 1), free={"x": (1, 2)}), "free does not survive JSON: use lists"),
        (Whole("a", (), (0, 1), free={3: 1}), "free must have strings as keys, got 3"),
        (Whole("a", (), (0, 1), free={"x": {1, 2}}), r"free\['x'\] must be a plain JSON value"),
        (Whole(None, (), (0, 1)), "name must be a text, got None"),
    ],
)
def test_what_json_cannot_carry_is_refused_by_name(value: Any, message: str):
    with pytest.raises(FieldError, match=message):
        dumps(value)
