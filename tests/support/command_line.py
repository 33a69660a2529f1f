"""What the tests of the commands share beside fixtures: the command line in this process."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from prunus import cli

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


@dataclass(frozen=True)
class Result:
    """What a command did: `exception` is what it raised, for which a process would show a traceback."""

    exit_code: int
    stdout: str
    stderr: str
    exception: Exception | None = None

    @property
    def output(self) -> str:
        """Both streams, for the messages of tests that fail."""
        return self.stdout + self.stderr


Command = Callable[..., Result]


def invoke(words: Sequence[object]) -> Result:
    """Run `prunus` with these words."""
    exception, code = None, 1
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        try:
            code = cli.run_command([str(word) for word in words])
        except Exception as error:
            exception = error
    return Result(code, stdout.getvalue(), stderr.getvalue(), exception)


def refused(result: Result) -> str:
    """Return the one line on standard error that a user's mistake gives; nothing else may have been said."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")
