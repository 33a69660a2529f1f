"""A small set, and a machine with no data on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_sets import TinySet, make_tiny


@pytest.fixture
def tiny() -> TinySet:
    return make_tiny()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no PRUNUS_DATA; returns the folder that the set 'tiny' would have in the cache."""
    monkeypatch.delenv("PRUNUS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prunus" / "tiny"
