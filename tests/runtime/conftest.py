"""What all tests of programs share: a cache of their own, and builds that are quick rather than fast."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Build into a cache of this test run, without optimisation: what is computed does not depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNUS_CACHE", str(tmp_path_factory.mktemp("programs")))
        patch.setenv("CFLAGS", "-O0")
        yield


@pytest.fixture
def optimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build as users do."""
    monkeypatch.delenv("CFLAGS")
