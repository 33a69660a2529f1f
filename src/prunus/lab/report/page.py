"""The page: one HTML file that contains everything, also plotly's script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from prunus import files
from prunus.lab.report import blocks, folder, sections
from prunus.lab.report.caveats import caveats
from prunus.lab.report.drawing import Figure
from prunus.lab.report.outcome import headline, outcomes
from prunus.measuring import spell
from prunus.measuring.receipt import Receipt

FILE_NAME = "report.html"


def write(run_folder: Path) -> Path:
    """Write the page of a run's folder; errors as `prunus.lab.report.write_page`."""
    path = run_folder / FILE_NAME
    files.write_text(path, render(folder.read(run_folder)))
    return path


def render(run: folder.Run) -> str:
    """Return the page of a run as HTML."""
    parts = sections.sections(run)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title(run.receipt),
            description=str(run.receipt.recipe.get("description", "")),
            origin=_origin(run.receipt),
            headline=headline(run.receipt),
            outcomes=outcomes(run.receipt),
            caveats=caveats(run.receipt),
            sections=parts,
            plotly=_script() if _has_figures(parts) else "",
        )
    )


def title(receipt: Receipt) -> str:
    """Return the page's title: the recipe's name and the seed; models compared without a recipe have neither."""
    if not receipt.recipe:
        return "models compared"
    return f"{spell.plain(str(receipt.recipe.get('name', 'a recipe')))}, seed {receipt.seed}"


def _origin(receipt: Receipt) -> str:
    data = receipt.data
    tested = [f"{data.name}, {spell.plural(data.test, 'test image')}"] if data else []
    return spell.plain(" · ".join([*tested, receipt.machine.processor, f"PyTorch {receipt.torch}"]))


def _has_figures(parts: list[blocks.PageSection]) -> bool:
    return any(isinstance(part, Figure) for section in parts for part in section.parts)


def _script() -> Markup:
    script = str(plotly.offline.get_plotlyjs())
    assert "</script" not in script.lower(), "plotly's script would end the element it is put into"
    return Markup(script)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prunus.lab", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["own"] = _own
    environment.filters["kind"] = lambda part: type(part).__name__.lower()
    return environment


def _own(name: str) -> Markup:
    """Return a file of this package, for the page's style and script."""
    source: Any = Path(__file__).with_name(name)
    return Markup(source.read_text(encoding="utf-8"))
