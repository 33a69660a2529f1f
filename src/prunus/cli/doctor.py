"""`prunus doctor`: what is installed, what is missing and how to get it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from prunus.cli import terminal
from prunus.cli.options import Folder, Json

if TYPE_CHECKING:
    from prunus.lab.doctor import Finding


def doctor(*, data: Folder | None = None, json: Json = None) -> None:
    """Tell what is installed, what is missing and how to get it.

    Versions, the machine, the packages of every extra, a C compiler, and which data can really be loaded from
    where. Nothing is downloaded. What is missing is no failure: the exit code is 0.

    Args:
        data: A folder to look for data in first, as for 'prunus run'.
    """
    from prunus.lab.doctor import examine

    findings = examine(data)
    if json is not None:
        terminal.write_json([dataclasses.asdict(finding) for finding in findings], json)
    if str(json) != "-":
        _show(findings)


def _show(findings: list[Finding]) -> None:
    topics: dict[str, dict[str, str]] = {}
    for finding in findings:
        mark = "" if finding.state == "ok" else f"{finding.state.upper()}: "
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        topics.setdefault(finding.topic, {})[finding.name] = f"{mark}{finding.told}{remedy}"
    terminal.show_lists(topics)
    amiss = [finding.name for finding in findings if finding.state != "ok"]
    things = terminal.plural(len(amiss), "thing")
    terminal.show("", f"{things} to look at: {', '.join(amiss)}." if amiss else "Everything is here.")
