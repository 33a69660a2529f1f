"""Figures as plain text need nothing; the terminal and the page say which extra brings what they need."""

from __future__ import annotations

import sys

import pytest

from prunus.extras import MissingExtraError
from prunus.lab import report


class Absent:
    """A finder that finds a package missing, as Python does where it is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {self.package!r}", name=self.package)


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package look as if it were not installed."""
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(package), *sys.meta_path])


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("rich", lambda receipt, folder: report.terminal(receipt)),
        ("rich", lambda receipt, folder: report.summary([receipt])),
        ("jinja2", lambda receipt, folder: report.write_page(folder)),
        ("plotly", lambda receipt, folder: report.write_page(folder)),
    ],
)
def test_a_missing_package_names_its_extra(package, use, receipt, folder, monkeypatch):
    hide(monkeypatch, package)
    with pytest.raises(MissingExtraError, match=r"pip install 'prunus\[report\]'"):
        use(receipt, folder)
    assert not (folder / "report.html").exists()


def test_a_receipt_as_text_needs_no_extra(receipt, monkeypatch):
    for package in ("rich", "jinja2", "plotly"):
        hide(monkeypatch, package)
    assert "finetuned" in str(receipt)
