"""What the tests of the commands share beside fixtures."""

from __future__ import annotations

from collections.abc import Callable

from typer.testing import Result

Command = Callable[..., Result]


def refused(result: Result) -> str:
    """Return the one line on standard error that a user's mistake gives; nothing else may have been said."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")
