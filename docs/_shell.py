"""The pages' %%sh: a command that fails is an error, and what it prints comes in one piece.

IPython's own magic cuts the output every hundred bytes. Progress, on stderr, is left out.
"""

from __future__ import annotations

import os
import subprocess

from IPython.core.magic import register_cell_magic


@register_cell_magic
def sh(line: str, cell: str) -> None:
    """Run a cell as a shell script that stops at the first error."""
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"} | {"COLUMNS": "88"}
    done = subprocess.run(["sh", "-e"], input=cell, capture_output=True, text=True, check=False, env=environment)
    print(done.stdout, end="")
    if done.returncode:
        raise RuntimeError(done.stderr)
