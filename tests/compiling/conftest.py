"""What tests of programs share."""

from __future__ import annotations

import pytest


@pytest.fixture
def optimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build as users do."""
    monkeypatch.delenv("CFLAGS")
