"""Python in a process of its own, where no optional package can be imported."""

from __future__ import annotations

import subprocess
import sys

from prunus.extras import EXTRA_OF

BLOCK_ALL_EXTRAS = f"""
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(EXTRA_OF)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK_ALL_EXTRAS + code], capture_output=True, text=True, check=False)
