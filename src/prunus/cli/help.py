"""The help of the commands as plain text: it reads the same at a terminal, in a pipe and in a log."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from prunus.cli.terminal import READING_WIDTH

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

# Names longer than this don't push the text of all others to the right.
_WIDEST_NAME = 26


class PlainHelp:
    """Prints help for cyclopts: usage, description, then arguments, options and commands in two columns.

    Args:
        optional: how the usage writes the one argument that may be left out.
    """

    def __init__(self, optional: str = "") -> None:
        self.optional = optional

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the usage line."""
        line = str(usage).replace("[ARGS...]", f"[{self.optional}...]").replace("[ARGS]", f"[{self.optional}]")
        _print(_fill(f"Usage: {line}", later=" " * 7), "")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Print paragraphs filled to the width, and those with indented lines, such as examples, as they are."""
        for paragraph in description.primary_renderable.plain.split("\n\n"):
            _print(paragraph if "\n " in paragraph else _fill(paragraph), "")

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one list of arguments, options or commands."""
        if not panel.entries:
            return
        rows = [(", ".join(entry.display_labels_with_metavar), _text(entry)) for entry in panel.entries]
        indent = 4 + max((len(name) for name, _ in rows if len(name) <= _WIDEST_NAME), default=0)
        filled = [_fill(text, f"  {name}  ".ljust(indent), " " * indent) for name, text in rows]
        _print(f"{panel.title}:", *filled, "")


def shown(default: object) -> str:
    """Write a default as users do; an empty one, or that of a flag, is not worth showing.

    >>> shown((1, 64)), shown(False)
    ('1,64', '')
    """
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default or "")


def _text(entry: HelpEntry) -> str:
    parts = [entry.description.primary_renderable.plain]
    parts += [f"[{' | '.join(entry.choices)}]"] if entry.choices else []
    parts += [f"[default: {entry.default}]"] if entry.default else []
    parts += ["[required]"] if entry.required else []
    return " ".join(parts)


def _fill(text: str, first: str = "", later: str = "") -> str:
    width = min(shutil.get_terminal_size().columns, READING_WIDTH)
    return textwrap.fill(
        " ".join(text.split()), width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    )


def _print(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
