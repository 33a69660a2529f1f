"""The page in a real browser: it draws every figure, and complains about nothing."""

from __future__ import annotations

import importlib.util
import re
import struct
from pathlib import Path
from types import ModuleType

import pytest

from prunus.lab import report


def load_picture() -> ModuleType:
    """Import bench/picture.py, which knows how to start a browser."""
    path = Path(__file__).parents[3] / "bench" / "picture.py"
    spec = importlib.util.spec_from_file_location("picture", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


picture = load_picture()

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(picture.find_browser() is None, reason=f"no browser: none of {', '.join(picture.BROWSERS)}"),
]


def visited(page: Path) -> tuple[str, list[str]]:
    """Return the page's document after its scripts ran, and all lines of the browser's console."""
    shown = picture.browse(page, "--dump-dom")
    return shown.stdout, [line for line in shown.stderr.splitlines() if "CONSOLE" in line]


def marks_of(document: str) -> dict[str, int]:
    """Return how many shapes each figure's traces are drawn with."""
    drawn = re.findall(r'<div class="plot js-plotly-plot" id="([^"]+)"(.*?)</figure>', document, re.DOTALL)
    return {name: shapes(content) for name, content in drawn}


def shapes(figure: str) -> int:
    """Count what the traces of a figure are drawn with; axes and legends don't count."""
    assert 'class="main-svg"' in figure
    traces = re.findall(r'<g class="(?:trace|points?|lines)[^"]*"[^>]*>.*?</g>', figure)
    return sum(trace.count("<path") for trace in traces)


def test_every_figure_is_drawn_without_a_complaint(run, folder):
    run.with_controls().save(folder / "receipt.json")
    page = report.write_page(folder)
    document, complaints = visited(page)
    assert complaints == []
    drawn = marks_of(document)
    assert len(drawn) == page.read_text(encoding="utf-8").count('<div class="plot"') == 10
    assert all(number > 0 for number in drawn.values()), drawn


def test_a_page_from_the_receipt_alone_is_drawn_too(folder):
    for path in folder.iterdir():
        if path.name != "receipt.json":
            path.unlink()
    document, complaints = visited(report.write_page(folder))
    assert complaints == []
    assert len(marks_of(document)) == 6


def test_the_browser_refuses_to_fetch_and_says_so(folder):
    """What shows that the tests above would see a request: a page with one."""
    page = report.write_page(folder)
    changed = page.read_text(encoding="utf-8").replace("<main>", '<main><img src="https://example.invalid/x.png">')
    page.write_text(changed, encoding="utf-8")
    _, complaints = visited(page)
    assert any("Content Security Policy" in line for line in complaints)


def test_a_picture_of_the_page_is_taken(folder, tmp_path):
    picture.take(folder, tmp_path / "pictures" / "report.png", width=640, height=400)
    header = (tmp_path / "pictures" / "report.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (640, 400)
