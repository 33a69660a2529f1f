"""Made-up runs for the report's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import made_up
from prunus.measuring.receipt import Receipt


@pytest.fixture(scope="session")
def run() -> made_up.MadeUpRun:
    """A run: 20% of a LeNet's weights set to zero."""
    return made_up.MadeUpRun()


@pytest.fixture(scope="session")
def receipt(run: made_up.MadeUpRun) -> Receipt:
    """What that run measured: dense, pruned, finetuned; the same file size, the same speed, no told change."""
    return run.receipt


@pytest.fixture
def folder(run: made_up.MadeUpRun, tmp_path: Path) -> Path:
    """The folder of that run."""
    return run.write(tmp_path / "lenet" / "seed-0")
