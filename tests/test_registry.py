"""The registry: names in, entries out, and errors that help."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.registry import Registry, UnknownNameError, nearest, unknown_name

names = st.text(string.ascii_lowercase + "_-:0123456789", min_size=1, max_size=12)


def filled(*entries: str) -> Registry[str]:
    registry = Registry[str]("fruit")
    for entry in entries:
        registry.register(entry)(entry.upper())
    return registry


@given(st.lists(names, unique=True, max_size=8))
@settings(deadline=None, max_examples=30)
def test_behaves_as_the_dict_of_its_entries_in_order_of_names(entries: list[str]) -> None:
    registry = filled(*entries)
    assert list(registry.items()) == sorted((entry, entry.upper()) for entry in entries)
    assert len(registry) == len(entries)
    assert registry.get("no such", "default") == "default"
    assert "no such" not in registry


def test_registering_returns_the_entry_unchanged() -> None:
    registry = Registry[object]("thing")
    entry = object()
    assert registry.register("it")(entry) is entry
    assert registry["it"] is entry


def test_a_taken_name_is_refused_and_the_first_entry_stays() -> None:
    registry = filled("plum")
    with pytest.raises(ValueError, match=r"^fruit 'plum' is registered already; choose another name$"):
        registry.register("plum")
    assert registry["plum"] == "PLUM"


def test_an_unknown_name_suggests_the_nearest_and_lists_the_others() -> None:
    with pytest.raises(UnknownNameError) as caught:
        filled("plum", "cherry")["plumm"]
    assert str(caught.value) == "unknown fruit 'plumm'; did you mean 'plum'? (known: cherry, plum)"
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, KeyError)


def test_a_name_unlike_all_others_gets_no_suggestion() -> None:
    assert str(unknown_name("fruit", "xyz", ["plum"])) == "unknown fruit 'xyz' (known: plum)"
    assert str(unknown_name("fruit", "plum", [])) == "unknown fruit 'plum' (known: none)"


def test_a_long_list_of_known_names_is_cut() -> None:
    message = str(unknown_name("layer", "x", [f"layer{index:03}" for index in range(300)]))
    assert "layer000, layer001" in message
    assert message.endswith("layer019 and 280 more)")


def test_nearest_is_not_led_astray_by_case() -> None:
    assert nearest("Linnear", ["Linear", "bilinear"]) == "Linear"
    assert nearest("LINEAR", ["Bilinear", "Linear", "linear"]) == "Linear"


@pytest.mark.parametrize(
    ("given_name", "expected"), [("Magnitude", "magnitude"), ("magnitud", "magnitude"), ("lmap", "lamp"), ("", None)]
)
def test_nearest_forgives_case_and_slips(given_name: str, expected: str | None) -> None:
    assert nearest(given_name, ["lamp", "magnitude"]) == expected
