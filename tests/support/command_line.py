"""What the tests of the commands share beside fixtures."""

from __future__ import annotations

from collections.abc import Callable

from typer.testing import Result

Command = Callable[..., Result]

# A recipe that takes seconds.
TINY = """
name: tiny
model: {name: lenet-300-100, arguments: {widths: [24, 12]}}
data: {name: digits}
train: {epochs: 2, lr: 0.1}
prune: {sparsity: 0.5}
finetune: {epochs: 1, lr: 0.02}
measure: {runtimes: [torch], batch_sizes: [1], threads: [1], sensitivity: false}
"""


def refused(result: Result) -> str:
    """Return the one line on standard error that a user's mistake gives; nothing else may have been said."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")
