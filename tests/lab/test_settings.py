"""Settings as text: what YAML 1.2 says, and no more."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.lab.settings import dump, override, parse

texts = st.one_of(
    st.text(max_size=12),
    st.from_regex(r"[-+]?[0-9_.:]{1,6}([eE][-+]?[0-9]{1,2})?", fullmatch=True),
    st.sampled_from(
        [
            "a\x85b\u2028 \u2029",
            "2:4",
            "yes",
            "no",
            "on",
            "null",
            "~",
            "",
            "True",
            "1e5",
            "0x1F",
            "0o17",
            "010",
            ".inf",
            "2001-01-01",
            "<<",
            "=",
            "&a",
            "*a",
            "!b",
            "- x",
            "a: b",
            "#c",
            "1_000",
            "-",
        ]
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Tell 1 from 1.0 and from true, which are equal to Python."""
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@given(st.dictionaries(texts, values, max_size=4))
@settings(deadline=None, max_examples=120)
def test_what_is_dumped_is_read_back_equal_here_and_by_others(tree: dict[str, Any]) -> None:
    text = dump(tree)
    assert same(parse(text, "it"), tree)
    assert same(yaml.safe_load(text), tree)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2:4", "2:4"),
        ("1:30:00", "1:30:00"),
        ("1e-4", 1e-4),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-7", -7),
        ("010", 10),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("FALSE", False),
        ("", None),
        ("null", None),
        ("~", None),
        ("'2'", "2"),
        ("2001-12-14", "2001-12-14"),
        (".inf", float("inf")),
        ("inf", "inf"),
        ("[1, 2:4, [x]]", [1, "2:4", ["x"]]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("[0.1, .5]  # remark", [0.1, 0.5]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert same(parse(text, "it"), value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "it is not valid YAML: line 3, column 1: the key 'a' appears twice"),
        ("a: {b: 1, b: 1}", "it is not valid YAML: line 1, column 11: the key 'b' appears twice"),
        ("1: x", "it is not valid YAML: line 1, column 1: the key 1 is not text"),
        (
            "a:\n\tb: 1",
            "it is not valid YAML: line 2, column 1: while scanning for the next token found character '\\t'",
        ),
        (
            "a: [1, 2",
            "it is not valid YAML: line 1, column 9: while parsing a flow sequence expected ',' or ']', but got",
        ),
        ("a: *b", "it is not valid YAML: line 1, column 4: found undefined alias 'b'"),
        (
            "a: 1\n---\nb: 2",
            "it is not valid YAML: line 2, column 1: expected a single document in the stream but found",
        ),
        (
            "a: !!python/object/apply:os.system [ls]",
            "it is not valid YAML: line 1, column 4: could not determine a constr",
        ),
        ("a: !!timestamp x", "it is not valid YAML: line 1, column 4: could not determine a constructor for the tag"),
        ("a: !!bool x", "it is not valid YAML: 'x'"),
        ("\0", "it is not valid YAML: unacceptable character #x0000: special characters are not allowed"),
        ("[" * 2000, "it is not valid YAML here: it is nested too deeply, or refers to itself"),
        ("a: &x {b: *x}", "it is not valid YAML here: it is nested too deeply, or refers to itself"),
        ("9" * 5000, "it is not valid YAML: Exceeds the limit (4300 digits) for integer string conversion"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_no_yaml_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse(text, "it")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@given(st.text(st.characters(codec="utf-8"), max_size=60) | st.text("{}[]:,-&*!|>'\"#\n \t%@`aA1.?~<=", max_size=40))
@settings(deadline=None, max_examples=300)
def test_whatever_the_text_there_is_a_value_or_a_clear_error(text: str) -> None:
    try:
        parse(text, "it")
    except ValueError as error:
        assert str(error).startswith("it is not valid YAML")  # noqa: PT017


def test_overrides_set_values_anew_and_leave_the_tree_alone() -> None:
    tree = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    changed = override(tree, ["a.b=2:4", "a.c=[3]", "d.e.f=x=y", "g=", " h . i ".replace(" ", "") + "= 5"])
    assert changed == {"a": {"b": "2:4", "c": [3]}, "d": {"e": {"f": "x=y"}}, "g": None, "h": {"i": 5}}
    assert tree == {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert override(tree, ["a.b=1", "a.b=2"])["a"]["b"] == 2


def test_groups_that_share_an_anchor_are_changed_one_by_one() -> None:
    tree = parse("train: &t {epochs: 3}\nfinetune: *t", "it")
    assert override(tree, ["train.epochs=5"]) == {"train": {"epochs": 5}, "finetune": {"epochs": 3}}


@pytest.mark.parametrize("wrong", ["noequals", "=5", "", ".=3", "a..b=3", "a.=3", ".a=3", "  =1"])
def test_overrides_of_another_form_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        override({}, [wrong])
    assert str(caught.value) == f"override {wrong!r} is not of the form key=value, such as prune.sparsity=0.9"


def test_overrides_that_lead_through_a_value_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^override 'a\.b\.c=1' sets a part of a\.b, which is not a group but \[0\]$"):
        override({"a": {"b": [0]}}, ["a.b.c=1"])
    with pytest.raises(ValueError, match=r"^the value in override 'a=\[1' is not valid YAML: line 1, column 3"):
        override({}, ["a=[1"])


def nested_aliases(levels: int, width: int) -> str:
    """Return a text of `levels` lines whose values, with aliases written out, are more than ``width ** levels``."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(("levels", "width"), [(9, 9), (40, 2), (6, 100), (1000, 5)])
def test_aliases_of_aliases_are_refused_at_once(levels: int, width: int) -> None:
    with pytest.raises(ValueError, match=r"the example is not valid YAML.*(aliases written out|nested)"):
        parse(nested_aliases(levels, width), "the example")


def test_a_text_that_is_no_recipe_s_length_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="the example has 1,000,000 characters"):
        parse("[" * 1_000_000, "the example")


def test_aliases_that_stand_for_little_are_written_out() -> None:
    assert parse("{a: &a [1, {b: 2}], c: [*a, *a]}", "it") == {"a": [1, {"b": 2}], "c": [[1, {"b": 2}]] * 2}
