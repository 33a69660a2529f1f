"""Listings of tensors: as short as they are, they say each name, shape, number type and tie."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.packing import layout
from prunus.packing.layout import Entry, Listing

NAMES = st.sampled_from(
    ["", ".", "/", "a", "b", "weight", "/w", "same", "0", "a.b", "a.weight", "a.b.c", "b.", ".x", "a/.x"]
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3]), max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.int64, torch.bool])


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name in draw(st.lists(st.tuples(NAMES, NAMES).map("".join), unique=True, max_size=12)):
        if found and draw(st.booleans()):
            found[name] = draw(st.sampled_from(list(found.values())))
        else:
            found[name] = torch.zeros(draw(SHAPES), dtype=draw(DTYPES))
    return found


@settings(deadline=None, max_examples=300)
@given(tensors())
def test_what_is_read_is_what_was_listed(state: dict[str, Tensor]) -> None:
    listing = Listing.of(state)
    header = json.loads(json.dumps(layout.to_header(listing)))
    read = layout.from_header(header)
    assert read == listing
    assert list(read.places) == list(state)
    for name, tensor in state.items():
        assert read.entries[read.places[name]][1:] == (tensor.dtype, tuple(tensor.shape))
    for name, tensor in state.items():
        ties = {other for other, place in read.places.items() if place == read.places[name]}
        assert ties == ({other for other in state if state[other] is tensor} if tensor.numel() else {name})


def test_names_of_a_module_and_lengths_of_vectors_are_said_once() -> None:
    state = {"conv.weight": torch.zeros(4, 2), "conv.bias": torch.zeros(4), "head.weight": torch.zeros(4).half()}
    items = layout.to_header(Listing.of(state))["tensors"]
    assert items == ["/conv.", ["weight", 4, 2], "bias", "/head.", ["weight", "float16", 4]]


@pytest.mark.parametrize("size", [1, 5])
def test_a_tensor_that_lies_within_another_is_one_of_its_own(size: int) -> None:
    whole = torch.zeros(6)
    listing = Listing.of({"whole": whole, "part": whole[:size], "again": whole})
    assert listing.places == {"whole": 0, "part": 1, "again": 0}
    assert listing.entries[1] == Entry("part", torch.float32, (size,))
