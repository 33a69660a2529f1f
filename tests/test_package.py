"""The package's front door."""

from __future__ import annotations

import importlib.metadata

import pytest

import prunus


def test_every_public_name_is_there_and_listed() -> None:
    for name in prunus.__all__:
        assert getattr(prunus, name) is not None
        assert name in dir(prunus)
    assert prunus.Receipt.__name__ == "Receipt"
    assert prunus.torch_prune.l1_unstructured.__name__ == "l1_unstructured"


def test_the_version_is_the_installed_ones() -> None:
    assert importlib.metadata.version("prunus") == prunus.__version__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'prunus' has no attribute 'prun'"):
        prunus.prun  # noqa: B018
